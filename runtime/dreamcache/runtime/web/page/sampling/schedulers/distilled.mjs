/** Samplers of distilled bases: LCM (arXiv 2310.04378) and TCD (arXiv 2402.19159, algorithm 4) (distilled.py). */

import { Scheduler, cleanAndNoise, clipped, float32, float64, refuseNoisePredictionWithoutSignal, scaled } from "./base.mjs";
import { distilledTimesteps, signalLevels } from "./noise_schedule.mjs";

/**
 * @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec
 * @typedef {import("./base.mjs").NoiseSource} NoiseSource
 */

const TIMESTEP_SCALING = 10;
const SIGMA_DATA = 0.5;

/** Stochastic: each step jumps to the clean latent and renoises it. */
export class LCM extends Scheduler {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    super();
    const [timesteps, levels] = [distilledTimesteps(config, "lcm", steps), signalLevels(config)];
    this.config = config;
    this.signal = timesteps.map((at) => levels[at]);
    this.timesteps = Float32Array.from(timesteps);
    refuseNoisePredictionWithoutSignal(config, this.signal);
  }

  /**
   * x_{i+1} = sqrt(abar) f + sqrt(1 - abar) z, with f = c_out x_0 + c_skip x_i; the last step is f.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   * @param {NoiseSource} noise
   */
  step(prediction, i, sample, noise) {
    const at = this.timesteps[i] * TIMESTEP_SCALING;
    const spread = at ** 2 + SIGMA_DATA ** 2;
    const [out, clean] = [at / Math.sqrt(spread), this.clean(prediction, i, sample)];
    const skip = scaled(SIGMA_DATA ** 2 / spread, sample);
    const jump = float64(sample.length, (j) => out * clean[j] + skip[j]);
    if (i === this.timesteps.length - 1) return Float32Array.from(jump);
    const kept = Math.sqrt(this.signal[i + 1]);
    const fresh = scaled(Math.sqrt(1 - this.signal[i + 1]), noise());
    return float32(sample.length, (j) => kept * jump[j] + fresh[j]);
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
    return clipped(this.config, cleanAndNoise(prediction, sample, this.signal[i], this.config.prediction_type)[0]);
  }
}

/** Stochastic where eta is above 0: each step jumps to an earlier point of the trajectory. */
export class TCD extends Scheduler {
  /**
   * @param {SchedulerSpec} config
   * @param {number} steps
   */
  constructor(config, steps) {
    super();
    const [timesteps, levels] = [distilledTimesteps(config, "tcd", steps), signalLevels(config)];
    const following = Float64Array.of(...timesteps.slice(1), 0);
    const share = Math.fround(1 - config.eta);
    this.config = config;
    this.signal = timesteps.map((at) => levels[at]);
    this.nextSignal = following.map((at) => levels[at]);
    this.jumpSignal = following.map((at) => levels[Math.floor(Math.fround(share * at))]);
    this.timesteps = Float32Array.from(timesteps);
    refuseNoisePredictionWithoutSignal(config, this.signal);
  }

  /**
   * x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s) eps, s = (1 - eta) t; then noised from s to the next timestep t.
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   * @param {NoiseSource} noise
   */
  step(prediction, i, sample, noise) {
    const [clean, direction] = cleanAndNoise(prediction, sample, this.signal[i], this.config.prediction_type);
    const [reached, target] = [this.jumpSignal[i], this.nextSignal[i]];
    const [signal, rest] = [Math.sqrt(reached), Math.sqrt(1 - reached)];
    const following = float64(sample.length, (j) => signal * clean[j] + rest * direction[j]);
    if (this.config.eta === 0 || i === this.timesteps.length - 1) return Float32Array.from(following);
    const kept = Math.sqrt(target / reached);
    const fresh = scaled(Math.sqrt(1 - target / reached), noise());
    return float32(sample.length, (j) => kept * following[j] + fresh[j]);
  }

  /**
   * @param {Float32Array} prediction
   * @param {number} i
   * @param {Float32Array} sample
   */
  predictedOriginal(prediction, i, sample) {
    return Float32Array.from(cleanAndNoise(prediction, sample, this.signal[i], this.config.prediction_type)[0]);
  }
}
