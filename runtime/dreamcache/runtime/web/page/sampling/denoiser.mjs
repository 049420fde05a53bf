/** The denoiser graph behind a plain call: guidance branches through its fixed batch (denoiser.py). */

/**
 * @typedef {import("./guidance.mjs").Branch} Branch
 * @typedef {import("../sessions.mjs").Session} Session
 * @typedef {Record<string, Float32Array>} Tensors
 */

import { sizeOf } from "../sessions.mjs";

/** A mistake of the graph that a person can act on. */
export class BundleError extends Error {}

/** Predicts noise or v for guidance branches of one latent. */
export class Denoiser {
  /**
   * @param {Session} graph
   * @param {number} batch rows of one call
   * @param {{prompt: Float32Array, null: Float32Array}} texts
   * @param {Tensors | null} cache keys and values by name; null: no reference
   * @param {import("../bundle.mjs").TensorSpec[]} specs of keys and values
   * @param {Session | null} shallow the graph of step caching
   * @param {number} every steps per run of the whole graph
   */
  constructor(graph, batch, texts, cache, specs, shallow = null, every = 1) {
    this.graph = graph;
    this.batch = batch;
    this.texts = texts;
    this.shallow = shallow;
    this.every = every;
    /** @type {Float32Array[]} deep features of each branch at the last whole step */
    this.deep = [];
    // Without a reference the strength is 0, and these values are multiplied by it.
    this.cache = cache ?? Object.fromEntries(specs.map(({ name, shape }) => [name, new Float32Array(sizeOf(shape))]));
    this.hasReference = cache !== null;
  }

  /**
   * One prediction per branch at one training timestep; the last batch is padded with repetitions.
   * @param {Float32Array} latent
   * @param {number} timestep
   * @param {Branch[]} branches the same ones at every step
   * @param {number} [step] index of the denoising step
   * @returns {Promise<Float32Array[]>}
   */
  async predict(latent, timestep, branches, step = 0) {
    const graph = this.shallow !== null && step % this.every !== 0 ? this.shallow : this.graph;
    const wanted = graph === this.graph && this.every > 1 ? ["prediction", "deep"] : ["prediction"];
    /** @type {Float32Array[]} */
    const predictions = [];
    for (let start = 0; start < branches.length; start += this.batch) {
      const rows = branches.slice(start, start + this.batch);
      /** @type {Branch[]} */
      const filled = [...rows, ...Array(this.batch - rows.length).fill(rows[rows.length - 1])];
      const deep = filled.map((_, row) => this.deep[Math.min(start + row, branches.length - 1)]);
      const { prediction, ...given } = await graph.run(
        {
          latent: joined(filled.map(() => latent)),
          timestep: new Float32Array(this.batch).fill(timestep),
          text: joined(filled.map((branch) => this.texts[branch.text])),
          reference_strength: Float32Array.from(filled, (branch) => branch.strength),
          ...this.cache,
          ...(graph === this.shallow ? { deep: joined(deep) } : {}),
        },
        wanted,
      );
      for (let row = 0; row < rows.length; row++) {
        const rowOf = (/** @type {Float32Array} */ { length }) => [row, row + 1].map((at) => (at * length) / this.batch);
        predictions.push(prediction.slice(...rowOf(prediction)));
        if (given.deep !== undefined) this.deep[start + row] = given.deep.slice(...rowOf(given.deep));
      }
    }
    if (!predictions.every((one) => one.every(Number.isFinite)))
      throw new BundleError(
        `the denoiser predicts NaN or infinite values at timestep ${timestep} on this device; try another engine`,
      );
    return predictions;
  }
}

/**
 * One after the other.
 * @param {Float32Array[]} parts
 */
export function joined(parts) {
  if (parts.length === 1) return parts[0];
  const whole = new Float32Array(parts.length * parts[0].length);
  parts.forEach((part, i) => whole.set(part, i * part.length));
  return whole;
}
