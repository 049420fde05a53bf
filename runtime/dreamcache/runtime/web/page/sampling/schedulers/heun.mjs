/** Heun's method on the probability-flow ODE: arXiv 2206.00364, algorithm 1, no churn (heun.py). */

import { clipped, float32, float64 } from "./base.mjs";
import { Euler } from "./euler.mjs";
import { refuseZeroTerminalSnr } from "./noise_schedule.mjs";

/** @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec */

/** Second order in sigma: calls 2k and 2k + 1 belong to step k. */
export class Heun extends Euler {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    refuseZeroTerminalSnr(config, "heun");
    super(config, steps);
    const calls = (/** @type {ArrayLike<number>} */ values) =>
      Array.from({ length: 2 * steps - 1 }, (_, i) => values[Math.ceil(i / 2)]);
    this.sigmas = Float64Array.of(...calls(this.sigmas), 0);
    this.timesteps = Float32Array.from(calls(this.timesteps));
    this.start = new Float64Array();
    this.first = new Float64Array();
  }

  /** @param {number} i */
  stepOf(i) {
    return Math.floor(i / 2);
  }

  /**
   * Call 2k: x' = x + (sigma_{k+1} - sigma_k) d. Call 2k + 1: the same from x with (d + d') / 2 for d.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  step(prediction, i, sample) {
    const clean = this.clean(prediction, i, sample);
    const direction = float64(sample.length, (j) => (sample[j] - clean[j]) / this.sigmas[i]);
    if (i % 2 === 0) {
      const stride = this.sigmas[i + 1] - this.sigmas[i];
      [this.start, this.first] = [Float64Array.from(sample), direction];
      return float32(sample.length, (j) => sample[j] + stride * direction[j]);
    }
    const stride = this.sigmas[i] - this.sigmas[i - 1];
    return float32(sample.length, (j) => this.start[j] + (stride * (this.first[j] + direction[j])) / 2);
  }

  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  predictedOriginal(prediction, i, sample) {
    return Float32Array.from(this.clean(prediction, i, sample));
  }

  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  clean(prediction, i, sample) {
    return clipped(this.config, this.cleanAndNoise(prediction, i, sample)[0]);
  }
}
