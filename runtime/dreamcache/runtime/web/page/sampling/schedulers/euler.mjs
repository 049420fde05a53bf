/** Euler's method on the probability-flow ODE, and its ancestral form: arXiv 2206.00364, algorithm 2 (euler.py). */

import { Scheduler, cleanAndNoise, float32, float64, scaled } from "./base.mjs";
import { fractionalPath } from "./sigma_spacing.mjs";

/**
 * @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec
 * @typedef {import("./base.mjs").NoiseSource} NoiseSource
 */

/** Deterministic, first order in sigma. */
export class Euler extends Scheduler {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    super();
    const path = fractionalPath(config, steps);
    const largest = path.sigmas[0];
    this.config = config;
    this.sigmas = Float64Array.of(...path.sigmas, 0);
    this.timesteps = Float32Array.from(path.timesteps);
    this.initNoiseSigma = config.timestep_spacing === "leading" ? Math.hypot(largest, 1) : largest;
  }

  /**
   * The sample in variance-preserving scale, which the denoiser was trained on.
   * @param {Float32Array} sample
   * @param {number} i
   */
  scaleInput(sample, i) {
    const divisor = Math.fround(Math.hypot(this.sigmas[i], 1));
    return float32(sample.length, (j) => sample[j] / divisor);
  }

  /**
   * x_{i+1} = x_i + (sigma_{i+1} - sigma_i) eps.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   * @param {NoiseSource} _noise
   */
  step(prediction, i, sample, _noise) {
    const [, direction] = this.cleanAndNoise(prediction, i, sample);
    const stride = this.sigmas[i + 1] - this.sigmas[i];
    return float32(sample.length, (j) => sample[j] + stride * direction[j]);
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
    const total = this.sigmas[i] ** 2 + 1;
    const root = Math.sqrt(total);
    const preserved = float64(sample.length, (j) => sample[j] / root);
    return cleanAndNoise(prediction, preserved, 1 / total, this.config.prediction_type);
  }
}

/** Stochastic, first order: below the next sigma, then back to it with fresh noise. */
export class EulerAncestral extends Euler {
  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   * @param {NoiseSource} noise
   */
  step(prediction, i, sample, noise) {
    const [, direction] = this.cleanAndNoise(prediction, i, sample);
    const [here, target] = [this.sigmas[i], this.sigmas[i + 1]];
    const stride = target ** 2 / here - here;
    const following = float64(sample.length, (j) => sample[j] + stride * direction[j]);
    if (i === this.timesteps.length - 1) return Float32Array.from(following);
    const fresh = scaled(target * Math.sqrt(Math.max(0, 1 - (target / here) ** 2)), noise());
    return float32(sample.length, (j) => following[j] + fresh[j]);
  }
}
