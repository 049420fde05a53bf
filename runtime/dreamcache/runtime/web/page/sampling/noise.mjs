/**
 * The noise of a seed as numpy's `default_rng(seed).standard_normal(dtype=float32)` draws it (noise.py), so that a seed
 * gives the same picture on a phone: to the bit, but for the last one of three values in a million, in the tails.
 *
 * SeedSequence and PCG64 (XSL-RR): O'Neill 2014, "PCG"; ziggurat: Marsaglia and Tsang 2000, 256 layers of 23 bits.
 */

import { signalLevels } from "./schedulers/noise_schedule.mjs";

/** @typedef {import("./schedulers/base.mjs").SchedulerSpec} SchedulerSpec */

const CACHE_NOISE_SEED = 0n;
const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;
const MASK_64 = (1n << 64n) - 1n;
const MASK_128 = (1n << 128n) - 1n;

/**
 * The state of numpy's SeedSequence as 64-bit words.
 * @param {bigint} seed
 * @param {number} count
 * @returns {bigint[]}
 */
function seedWords(seed, count) {
  /** @type {number[]} */
  const entropy = [];
  do {
    entropy.push(Number(seed & 0xffffffffn));
    seed >>= 32n;
  } while (seed > 0n);
  let constant = 0x43b0d7e5;
  const hashed = (/** @type {number} */ value) => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return value ^ (value >>> 16);
  };
  const mixed = (/** @type {number} */ one, /** @type {number} */ two) => {
    const value = Math.imul(0xca01f9dd, one) - Math.imul(0x4973f715, two);
    return value ^ ((value >>> 0) >>> 16);
  };
  const pool = [0, 1, 2, 3].map((i) => hashed(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++)
    for (let to = 0; to < 4; to++) if (from !== to) pool[to] = mixed(pool[to], hashed(pool[from]));
  let spread = 0x8b51f9dd;
  const words = Array.from({ length: 2 * count }, (_, i) => {
    let value = pool[i % 4] ^ spread;
    spread = Math.imul(spread, 0x58f38ded);
    value = Math.imul(value, spread);
    return BigInt((value ^ (value >>> 16)) >>> 0);
  });
  return Array.from({ length: count }, (_, i) => words[2 * i] | (words[2 * i + 1] << 32n));
}

/**
 * PCG64's 32-bit words: the lower half of each 64 first.
 * @param {bigint} seed
 * @returns {() => number}
 */
function wordSource(seed) {
  const [high, low, streamHigh, streamLow] = seedWords(seed, 4);
  const increment = ((((streamHigh << 64n) | streamLow) << 1n) | 1n) & MASK_128;
  const next = (/** @type {bigint} */ state) => (state * MULTIPLIER + increment) & MASK_128;
  let state = next((increment + ((high << 64n) | low)) & MASK_128);
  /** @type {number | null} */
  let kept = null;
  return () => {
    if (kept !== null) {
      const word = kept;
      kept = null;
      return word;
    }
    state = next(state);
    const folded = (state >> 64n) ^ (state & MASK_64);
    const turn = state >> 122n;
    const word = ((folded >> turn) | (folded << (64n - turn))) & MASK_64;
    kept = Number(word >> 32n);
    return Number(word & 0xffffffffn);
  };
}

const LAST_EDGE = 3.6541528853610088;
const LAYER_AREA = 0.00492867323399;
const BITS = 2 ** 23;

/** Of each layer: the 23-bit numbers that lie inside, the width of one, the density at the edge. */
function layers() {
  const inside = new Float64Array(256);
  const width = new Float32Array(256);
  const density = new Float32Array(256);
  const at = (/** @type {number} */ x) => Math.exp(-0.5 * x * x);
  let edge = LAST_EDGE;
  inside[0] = Math.floor(((edge * at(edge)) / LAYER_AREA) * BITS);
  width[0] = LAYER_AREA / at(edge) / BITS;
  density[0] = 1;
  width[255] = edge / BITS;
  density[255] = at(edge);
  for (let i = 254; i >= 1; i--) {
    const above = Math.sqrt(-2 * Math.log(LAYER_AREA / edge + at(edge)));
    inside[i + 1] = Math.floor((above / edge) * BITS);
    width[i] = above / BITS;
    density[i] = at(above);
    edge = above;
  }
  return { inside, width, density };
}

const { inside: INSIDE, width: WIDTH, density: DENSITY } = layers();
const f = Math.fround;

/**
 * One standard normal number in single precision.
 * @param {() => number} word
 * @returns {number}
 */
function normal(word) {
  const unit = () => f((word() >>> 8) * f(1 / 16777216));
  for (;;) {
    const drawn = word();
    const layer = drawn & 0xff;
    const size = (drawn >>> 9) & 0x7fffff;
    const value = f(size * WIDTH[layer]) * ((drawn >>> 8) & 1 ? -1 : 1);
    if (size < INSIDE[layer]) return value;
    if (layer === 0) {
      for (;;) {
        const beyond = f(-f(1 / LAST_EDGE) * f(Math.log1p(-unit())));
        const height = f(-Math.log1p(-unit()));
        if (f(height + height) > f(beyond * beyond))
          return ((size >>> 8) & 1 ? -1 : 1) * f(f(LAST_EDGE) + beyond);
      }
    }
    const slice = f(f(f(DENSITY[layer - 1] - DENSITY[layer]) * unit()) + DENSITY[layer]);
    if (slice < Math.exp(-0.5 * value * value)) return value;
  }
}

/**
 * Draws noise of `count` values, again and again.
 * @param {bigint} seed from 0 to 2⁶³ − 1
 * @param {number} count
 * @returns {() => Float32Array}
 */
export function noiseSource(seed, count) {
  const word = wordSource(seed);
  return () => Float32Array.from({ length: count }, () => normal(word));
}

/**
 * A reference latent at the caching timestep (DDPM, eq. 4), with the noise that every subject shares.
 * @param {Float32Array} latent
 * @param {SchedulerSpec} scheduler
 * @param {number} timestep
 * @returns {Float32Array}
 */
export function noisedReference(latent, scheduler, timestep) {
  const signal = signalLevels(scheduler)[timestep];
  const noise = noiseSource(CACHE_NOISE_SEED, latent.length)();
  const [kept, added] = [f(Math.sqrt(signal)), f(Math.sqrt(1 - signal))];
  return latent.map((value, i) => f(kept * value) + f(added * noise[i]));
}
