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
   */
  constructor(graph, batch, texts, cache, specs) {
    this.graph = graph;
    this.batch = batch;
    this.texts = texts;
    // Without a reference the strength is 0, and these values are multiplied by it.
    this.cache = cache ?? Object.fromEntries(specs.map(({ name, shape }) => [name, new Float32Array(sizeOf(shape))]));
    this.hasReference = cache !== null;
  }

  /**
   * One prediction per branch at one training timestep; the last batch is padded with repetitions.
   * @param {Float32Array} latent
   * @param {number} timestep
   * @param {Branch[]} branches
   * @returns {Promise<Float32Array[]>}
   */
  async predict(latent, timestep, branches) {
    /** @type {Float32Array[]} */
    const predictions = [];
    for (let start = 0; start < branches.length; start += this.batch) {
      const rows = branches.slice(start, start + this.batch);
      /** @type {Branch[]} */
      const filled = [...rows, ...Array(this.batch - rows.length).fill(rows[rows.length - 1])];
      const { prediction } = await this.graph.run(
        {
          latent: joined(filled.map(() => latent)),
          timestep: new Float32Array(this.batch).fill(timestep),
          text: joined(filled.map((branch) => this.texts[branch.text])),
          reference_strength: Float32Array.from(filled, (branch) => branch.strength),
          ...this.cache,
        },
        ["prediction"],
      );
      for (let row = 0; row < rows.length; row++)
        predictions.push(prediction.slice(row * latent.length, (row + 1) * latent.length));
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
