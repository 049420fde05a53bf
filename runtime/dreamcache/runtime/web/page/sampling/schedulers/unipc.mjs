/** UniPC: B2(h), second order, data prediction, arXiv 2302.04867, algorithms 5 to 8 (unipc.py). */

import { float64 } from "./base.mjs";
import { Multistep } from "./multistep.mjs";
import { wholePath } from "./sigma_spacing.mjs";

/**
 * @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec
 * @typedef {{index: number, sample: Float64Array, order: number}} Done a finished step
 */

/** Every denoiser call corrects the sample it was made for and predicts the next one. */
export class UniPC extends Multistep {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    super(wholePath(config, steps), 0, config.prediction_type);
    /** @type {Done | null} */
    this.done = null;
  }

  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  step(prediction, i, sample) {
    const [clean] = this.cleanAndNoise(prediction, i, sample);
    let corrected = Float64Array.from(sample);
    /** @type {[number, Float64Array][]} */
    let known = [];
    if (i > 0 && this.done !== null && this.done.index === i - 1) {
      corrected = this.corrected(this.done, clean);
      known = [...this.believed].filter(([index]) => index === i - 2 || index === i - 1);
    }
    this.believed = new Map([...known, [i, clean]]);
    const order = Math.min(2, this.timesteps.length - i, 1 + known.length);
    this.done = { index: i, sample: corrected, order };
    const slope = order === 2 ? this.difference(i).map((value) => 0.5 * value) : null;
    return Float32Array.from(this.moved(i, corrected, slope));
  }

  /**
   * The sample at the end of a step, now that the clean latent is known there.
   * @param {Done} done
   * @param {Float64Array} clean
   */
  corrected(done, clean) {
    const before = this.belief(done.index);
    const arrived = float64(clean.length, (j) => clean[j] - before[j]);
    if (done.order === 1) return this.moved(done.index, done.sample, arrived.map((value) => 0.5 * value));
    const [first, second] = this.weights(done.index);
    const difference = this.difference(done.index);
    const slope = float64(clean.length, (j) => first * difference[j] + second * arrived[j]);
    return this.moved(done.index, done.sample, slope);
  }

  /**
   * x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - exp(-h)) (x_0 + slope).
   * @param {number} i
   * @param {Float64Array} sample
   * @param {Float64Array | null} slope
   */
  moved(i, sample, slope) {
    const [alpha, ratio] = [this.alpha(i + 1), this.sigmas[i + 1] / this.sigmas[i]];
    const [shrink, belief] = [(ratio * alpha) / this.alpha(i), this.belief(i)];
    return float64(
      sample.length,
      (j) => shrink * sample[j] + alpha * (1 - ratio) * (belief[j] + (slope === null ? 0 : slope[j])),
    );
  }

  /**
   * D_1 = (x_0 one step earlier - x_0) / r, with r the ratio of the strides, negative.
   * @param {number} i
   */
  difference(i) {
    const [earlier, belief, ratio] = [this.belief(i - 1), this.belief(i), this.ratio(i)];
    return float64(belief.length, (j) => (earlier[j] - belief[j]) / ratio);
  }

  /** @param {number} i */
  ratio(i) {
    return -this.stride(i - 1) / this.stride(i);
  }

  /** @param {number} i */
  belief(i) {
    const known = this.believed.get(i);
    if (known === undefined) throw new Error(`step ${i} is not known`);
    return known;
  }

  /**
   * rho_1, rho_2 of the corrector.
   * @param {number} i
   */
  weights(i) {
    const z = -this.stride(i);
    const grown = Math.expm1(z);
    const second = grown / z - 1;
    const third = second / z - 0.5;
    const [one, two] = [second / grown, (2 * third) / grown];
    const first = (one - two) / (1 - this.ratio(i));
    return [first, one - first];
  }
}
