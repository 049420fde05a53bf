/** PNDM without Runge-Kutta steps (PLMS): arXiv 2202.09778, eq. 12 (pndm.py). */

import { Scheduler, cleanAndNoise, float32, float64 } from "./base.mjs";
import { refuseZeroTerminalSnr, round, signalLevels, spacedTimesteps, visited } from "./noise_schedule.mjs";

/** @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec */

/** Weights of the newest prediction and those before it. */
const ADAMS_BASHFORTH = [
  [1],
  [3 / 2, -1 / 2],
  [23 / 12, -16 / 12, 5 / 12],
  [55 / 24, -59 / 24, 37 / 24, -9 / 24],
];

/** Deterministic, fourth order; n + 1 denoiser calls in n steps: only the first step is made twice. */
export class PNDM extends Scheduler {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    super();
    refuseZeroTerminalSnr(config, "pndm");
    const count = config.num_train_timesteps;
    const stride = Math.floor(count / steps);
    const spaced = spacedTimesteps(config.timestep_spacing, count, steps, config.steps_offset);
    const once = Array.from(visited(spaced.map(round), count, config.timestep_spacing));
    const timesteps = steps > 1 ? [once[0], once[1], ...once.slice(1)] : once;
    const [starts, ends] = [[...timesteps], timesteps.map((at) => at - stride)];
    if (steps > 1) [starts[1], ends[1]] = [timesteps[1] + stride, timesteps[1]];
    const levels = signalLevels(config);
    const final = config.set_alpha_to_one ? 1 : levels[0];
    this.predictionType = config.prediction_type;
    this.signal = timesteps.map((at) => levels[at]);
    this.startSignal = starts.map((at) => levels[at]);
    this.endSignal = ends.map((at) => (at >= 0 ? levels[at] : final));
    this.timesteps = Float32Array.from(timesteps);
    /** @type {Float64Array[]} */
    this.predictions = [];
    /** @type {Float32Array} */
    this.start = new Float32Array();
  }

  /** @param {number} i */
  stepOf(i) {
    return Math.max(i - 1, 0);
  }

  /**
   * DDIM's step, by the combined prediction.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  step(prediction, i, sample) {
    let predicted = Float64Array.from(prediction);
    if (i === 0) [this.predictions, this.start] = [[], sample];
    if (i === 1) {
      const [first, second] = [this.predictions[this.predictions.length - 1], predicted];
      predicted = float64(sample.length, (j) => (second[j] + first[j]) / 2);
      sample = this.start;
    } else {
      this.predictions = [...this.predictions.slice(-3), predicted];
      const weights = ADAMS_BASHFORTH[this.predictions.length - 1];
      const newestFirst = [...this.predictions].reverse();
      predicted = float64(sample.length, (j) => weights.reduce((sum, w, k) => sum + w * newestFirst[k][j], 0));
    }
    const [clean, direction] = cleanAndNoise(predicted, sample, this.startSignal[i], this.predictionType);
    const [kept, added] = [Math.sqrt(this.endSignal[i]), Math.sqrt(1 - this.endSignal[i])];
    return float32(sample.length, (j) => kept * clean[j] + added * direction[j]);
  }

  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  predictedOriginal(prediction, i, sample) {
    return Float32Array.from(cleanAndNoise(prediction, sample, this.signal[i], this.predictionType)[0]);
  }
}
