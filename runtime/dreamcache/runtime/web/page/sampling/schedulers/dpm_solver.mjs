/** DPM-Solver++(2M), the midpoint form, and its SDE form: arXiv 2211.01095 (dpm_solver.py). */

import { float32, float64, scaled } from "./base.mjs";
import { Multistep } from "./multistep.mjs";
import { wholePath } from "./sigma_spacing.mjs";

/**
 * @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec
 * @typedef {import("./base.mjs").NoiseSource} NoiseSource
 */

/** Deterministic, second order. */
export class DPMSolverPlusPlus2M extends Multistep {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    super(wholePath(config, steps, false), 0, config.prediction_type);
  }

  /**
   * x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) D.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   * @param {NoiseSource} _noise
   */
  step(prediction, i, sample, _noise) {
    const direction = this.direction(prediction, i, sample);
    const [alpha, ratio] = [this.alpha(i + 1), this.sigmas[i + 1] / this.sigmas[i]];
    const shrunk = scaled((ratio * alpha) / this.alpha(i), sample);
    return float32(sample.length, (j) => shrunk[j] + alpha * (1 - ratio) * direction[j]);
  }

  /**
   * D extrapolates x_0 from this step and the one before.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  direction(prediction, i, sample) {
    const [clean] = this.cleanAndNoise(prediction, i, sample);
    const before = this.remember(i, clean);
    if (before === undefined || this.sigmas[i + 1] === 0) return clean;
    const share = this.stride(i) / (2 * this.stride(i - 1));
    return float64(clean.length, (j) => clean[j] + (clean[j] - before[j]) * share);
  }
}

/** Stochastic, second order; one draw a step. */
export class DPMSolverPlusPlus2MSDE extends DPMSolverPlusPlus2M {
  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   * @param {NoiseSource} noise
   */
  step(prediction, i, sample, noise) {
    const direction = this.direction(prediction, i, sample);
    const [alpha, ratio] = [this.alpha(i + 1), this.sigmas[i + 1] / this.sigmas[i]];
    const fresh = Math.max(0, 1 - ratio ** 2);
    const shrunk = scaled((ratio ** 2 * alpha) / this.alpha(i), sample);
    const following = float64(sample.length, (j) => shrunk[j] + alpha * fresh * direction[j]);
    if (i === this.timesteps.length - 1) return Float32Array.from(following);
    const added = scaled(this.sigmas[i + 1] * alpha * Math.sqrt(fresh), noise());
    return float32(sample.length, (j) => following[j] + added[j]);
  }
}
