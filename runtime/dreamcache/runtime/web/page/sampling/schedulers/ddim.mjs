/** DDIM without added noise: arXiv 2010.02502, eq. 12 (ddim.py). */

import { Scheduler, cleanAndNoise, clipped, float32, refuseNoisePredictionWithoutSignal } from "./base.mjs";
import { round, signalLevels, spacedTimesteps, visited } from "./noise_schedule.mjs";

/** @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec */

/** Deterministic, first order. */
export class DDIM extends Scheduler {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    super();
    const count = config.num_train_timesteps;
    const spaced = spacedTimesteps(config.timestep_spacing, count, steps, config.steps_offset);
    const timesteps = visited(spaced.map(round), count, config.timestep_spacing);
    const levels = signalLevels(config);
    const final = config.set_alpha_to_one ? 1 : levels[0];
    const stride = Math.floor(count / steps);
    this.config = config;
    this.signal = timesteps.map((at) => levels[at]);
    this.nextSignal = timesteps.map((at) => (at - stride >= 0 ? levels[at - stride] : final));
    this.timesteps = Float32Array.from(timesteps);
    refuseNoisePredictionWithoutSignal(config, this.signal);
  }

  /**
   * x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  step(prediction, i, sample) {
    const [clean, noise] = cleanAndNoise(prediction, sample, this.signal[i], this.config.prediction_type);
    const believed = clipped(this.config, clean);
    const [kept, added] = [Math.sqrt(this.nextSignal[i]), Math.sqrt(1 - this.nextSignal[i])];
    return float32(sample.length, (j) => kept * believed[j] + added * noise[j]);
  }

  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  predictedOriginal(prediction, i, sample) {
    const [clean] = cleanAndNoise(prediction, sample, this.signal[i], this.config.prediction_type);
    return Float32Array.from(clipped(this.config, clean));
  }
}
