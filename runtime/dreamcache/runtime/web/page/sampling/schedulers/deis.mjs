/** DEIS, the multistep form with polynomials in log rho, order 2: arXiv 2204.13902 (deis.py). */

import { float32, float64 } from "./base.mjs";
import { Multistep } from "./multistep.mjs";
import { refuseZeroTerminalSnr } from "./noise_schedule.mjs";
import { smallestSigma, wholePath } from "./sigma_spacing.mjs";

/** @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec */

const FEW_STEPS = 15;

/** Deterministic, second order; ends at the smallest sigma of training, not at 0. */
export class DEIS extends Multistep {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    refuseZeroTerminalSnr(config, "deis");
    const path = wholePath(config, steps);
    const spaced = ["karras", "exponential"].includes(config.sigma_spacing);
    super(path, spaced ? path.sigmas[steps - 1] : smallestSigma(config), config.prediction_type);
  }

  /**
   * x_t = alpha_t (x_s / alpha_s + c_0 eps_0 + c_1 eps_1); first order: c_0 is the stride of rho, c_1 = 0.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  step(prediction, i, sample) {
    const n = sample.length;
    const [, direction] = this.cleanAndNoise(prediction, i, sample);
    const before = this.remember(i, direction);
    const [here, following] = [this.sigmas[i], this.sigmas[i + 1]];
    const lastOfFew = i === this.timesteps.length - 1 && this.timesteps.length < FEW_STEPS;
    /** @type {Float64Array} */
    let moved;
    if (before === undefined || lastOfFew) moved = float64(n, (j) => (following - here) * direction[j]);
    else {
      const earlier = this.sigmas[i - 1];
      const [own, other] = [weight(here, following, here, earlier), weight(here, following, earlier, here)];
      moved = float64(n, (j) => own * direction[j] + other * before[j]);
    }
    const [divisor, alpha] = [Math.fround(this.alpha(i)), this.alpha(i + 1)];
    return float32(n, (j) => alpha * (Math.fround(sample[j] / divisor) + moved[j]));
  }
}

/**
 * The integral over rho from start to end of log(rho / other) / log(own / other).
 * @param {number} start
 * @param {number} end
 * @param {number} own
 * @param {number} other
 */
function weight(start, end, own, other) {
  const antiderivative = (/** @type {number} */ rho) => rho * (Math.log(rho / other) - 1);
  return (antiderivative(end) - antiderivative(start)) / Math.log(own / other);
}
