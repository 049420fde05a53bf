/** How much signal is left at each training timestep, and which timesteps are visited (noise_schedule.py). */

import { SettingsError } from "./base.mjs";

/** @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec */

const SMALLEST_SIGNAL = 2 ** -24;
const LARGEST_COSINE_BETA = 0.999;
const f = Math.fround;

/**
 * Evenly spaced numbers, both ends among them.
 * @param {number} start
 * @param {number} end
 * @param {number} count
 */
export function linspace(start, end, count) {
  const stride = count > 1 ? (end - start) / (count - 1) : 0;
  const values = Float64Array.from({ length: count }, (_, i) => i * stride + start);
  if (count > 1) values[count - 1] = end;
  return values;
}

/**
 * Half to even, as numpy rounds.
 * @param {number} value
 */
export function round(value) {
  const near = Math.round(value);
  return Math.abs(value % 1) === 0.5 && near % 2 !== 0 ? near - 1 : near;
}

/**
 * Variance added at each training timestep, in single precision.
 * @param {SchedulerSpec} config
 */
function betas(config) {
  const { num_train_timesteps: count, beta_start: start, beta_end: end } = config;
  /** @type {Float32Array} */
  let values;
  if (config.beta_schedule === "linear") values = Float32Array.from(linspace(start, end, count));
  else if (config.beta_schedule === "scaled_linear")
    values = Float32Array.from(linspace(Math.sqrt(start), Math.sqrt(end), count)).map((root) => root * root);
  else {
    const edges = Float64Array.from(
      { length: count + 1 },
      (_, i) => Math.cos((((i / count + 0.008) / 1.008) * Math.PI) / 2) ** 2,
    );
    values = Float32Array.from({ length: count }, (_, i) =>
      Math.min(1 - edges[i + 1] / edges[i], LARGEST_COSINE_BETA),
    );
  }
  return config.rescale_betas_zero_snr ? rescaledToZeroTerminalSnr(values) : values;
}

/**
 * Betas stretched so that the last timestep holds no signal (arXiv 2305.08891, algorithm 1).
 * @param {Float32Array} values
 */
function rescaledToZeroTerminalSnr(values) {
  const root = runningProduct(values).map(Math.sqrt);
  const [first, last] = [root[0], root[root.length - 1]];
  const factor = f(first / f(first - last));
  const signal = root.map((value) => f(f(value - last) * factor)).map((value) => value * value);
  return signal.map((value, i) => 1 - (i === 0 ? value : f(value / signal[i - 1])));
}

/**
 * @param {Float32Array} values
 * @returns {Float32Array}
 */
function runningProduct(values) {
  let product = 1;
  return values.map((beta) => (product *= f(1 - beta)));
}

/**
 * abar_t for each training timestep, falling from near 1 towards 0.
 * @param {SchedulerSpec} config
 */
export function signalLevels(config) {
  return Float64Array.from(runningProduct(betas(config)));
}

/**
 * abar_t for samplers that divide by it, never 0.
 * @param {SchedulerSpec} config
 */
export function levelsNeverZero(config) {
  const levels = runningProduct(betas(config));
  if (config.rescale_betas_zero_snr) levels[levels.length - 1] = SMALLEST_SIGNAL;
  return levels;
}

/**
 * @param {SchedulerSpec} config
 * @param {string} kind
 */
export function refuseZeroTerminalSnr(config, kind) {
  if (config.rescale_betas_zero_snr)
    throw new SettingsError(`${kind} does not fit this base (zero terminal SNR); choose euler, dpmpp_2m or unipc`);
}

/**
 * The visited timesteps, noisiest first, not yet rounded for "linspace".
 * @param {string} spacing
 * @param {number} training
 * @param {number} steps
 * @param {number} offset
 */
export function spacedTimesteps(spacing, training, steps, offset) {
  if (spacing === "linspace") return linspace(0, training - 1, steps).reverse();
  const stride = Math.floor(training / steps);
  if (spacing === "leading") return Float64Array.from({ length: steps }, (_, i) => (steps - 1 - i) * stride + offset);
  return Float64Array.from({ length: steps }, (_, i) => round(training - i * (training / steps)) - 1);
}

/**
 * The timesteps unchanged when a sampler can visit them.
 * @param {Float64Array} timesteps
 * @param {number} training
 * @param {string} spacing
 */
export function visited(timesteps, training, spacing) {
  const falls = timesteps.every((value, i) => i === 0 || value < timesteps[i - 1]);
  if (falls && timesteps[0] <= training - 1 && timesteps[timesteps.length - 1] >= 0) return timesteps;
  throw new SettingsError(`${timesteps.length} steps are too many for ${spacing} spacing; ask for fewer`);
}

/**
 * [steps] evenly chosen among the timesteps of the distillation, from the noisiest down.
 * @param {SchedulerSpec} config
 * @param {string} kind
 * @param {number} steps
 */
export function distilledTimesteps(config, kind, steps) {
  const { num_train_timesteps: count, original_inference_steps: most } = config;
  if (count < most) throw new SettingsError(`${kind} needs at least ${most} training timesteps; choose ddim or euler`);
  if (steps > most) throw new SettingsError(`${kind} takes at most ${most} steps; ask for 4 to 8`);
  const stride = Math.floor(count / most);
  const chosen = Float64Array.from({ length: steps }, (_, i) => (most - Math.floor(i * (most / steps))) * stride - 1);
  return visited(chosen, count, "the distillation's");
}
