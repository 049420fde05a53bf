/** What multistep samplers share: x = alpha (x_0 + sigma eps), alpha = 1 / sqrt(1 + sigma²) (multistep.py). */

import { Scheduler, cleanAndNoise } from "./base.mjs";

/** @typedef {import("./sigma_spacing.mjs").SigmaPath} SigmaPath */

/** A step reads what the steps before believed in. */
export class Multistep extends Scheduler {
  /**
   * @param {SigmaPath} path
   * @param {number} last the sigma at which the trajectory ends
   * @param {string} predictionType
   */
  constructor(path, last, predictionType) {
    super();
    this.sigmas = Float64Array.of(...path.sigmas, last);
    this.predictionType = predictionType;
    this.timesteps = Float32Array.from(path.timesteps);
    /** @type {Map<number, Float64Array>} */
    this.believed = new Map();
  }

  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  predictedOriginal(prediction, i, sample) {
    return Float32Array.from(this.cleanAndNoise(prediction, i, sample)[0]);
  }

  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  cleanAndNoise(prediction, i, sample) {
    return cleanAndNoise(prediction, sample, 1 / (1 + this.sigmas[i] ** 2), this.predictionType);
  }

  /** @param {number} i */
  alpha(i) {
    return 1 / Math.hypot(this.sigmas[i], 1);
  }

  /**
   * lambda at point i + 1 less lambda at point i; infinite where no noise is left.
   * @param {number} i
   */
  stride(i) {
    return this.sigmas[i + 1] > 0 ? Math.log(this.sigmas[i] / this.sigmas[i + 1]) : Infinity;
  }

  /**
   * Keeps a belief for the next step; returns that of the step before.
   * @param {number} i
   * @param {Float64Array} belief
   */
  remember(i, belief) {
    const before = i > 0 ? this.believed.get(i - 1) : undefined;
    this.believed = new Map([[i, belief]]);
    return before;
  }
}
