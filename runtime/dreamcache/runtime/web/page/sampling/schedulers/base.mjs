/**
 * What every sampler offers, and the two things a denoiser may predict (schedulers/base.py).
 *
 * Arithmetic is in double precision; what leaves is float32. Where numpy multiplies a float32 array by a number, it
 * rounds to float32, and so does `scaled` here: a trajectory is then the same to the last bit.
 *
 * @typedef {object} SchedulerSpec the contract's `scheduler`, complete
 * @property {number} num_train_timesteps
 * @property {string} beta_schedule
 * @property {number} beta_start
 * @property {number} beta_end
 * @property {string} prediction_type
 * @property {string} timestep_spacing
 * @property {number} steps_offset
 * @property {boolean} set_alpha_to_one
 * @property {boolean} clip_sample
 * @property {number} clip_sample_range
 * @property {boolean} rescale_betas_zero_snr
 * @property {string} sigma_spacing
 * @property {number} original_inference_steps
 * @property {number} eta
 *
 * @typedef {Float32Array | Float64Array} Values
 * @typedef {() => Float32Array} NoiseSource
 */

/** A setting outside its range; its message is for the person. */
export class SettingsError extends Error {}

/** One trajectory from noise to latent. */
export class Scheduler {
  /** What the denoiser is told at each of its calls. */
  timesteps = new Float32Array();
  initNoiseSigma = 1;

  /**
   * The denoising step that call i belongs to.
   * @param {number} i
   */
  stepOf(i) {
    return i;
  }

  /**
   * @param {Float32Array} sample
   * @param {number} _i
   */
  scaleInput(sample, _i) {
    return sample;
  }

  /**
   * The sample of the next call.
   * @param {Float32Array} _prediction
   * @param {number} _i
   * @param {Float32Array} _sample
   * @param {NoiseSource} _noise
   * @returns {Float32Array}
   */
  step(_prediction, _i, _sample, _noise) {
    throw new Error("a sampler of its own is expected");
  }

  /**
   * The clean latent that the denoiser believes in: a preview.
   * @param {Float32Array} _prediction
   * @param {number} _i
   * @param {Float32Array} _sample
   * @returns {Float32Array}
   */
  predictedOriginal(_prediction, _i, _sample) {
    throw new Error("a sampler of its own is expected");
  }
}

/**
 * Float32 values, one for each index.
 * @param {number} length
 * @param {(i: number) => number} value
 */
export function float32(length, value) {
  const out = new Float32Array(length);
  for (let i = 0; i < length; i++) out[i] = value(i);
  return out;
}

/**
 * Float64 values, one for each index.
 * @param {number} length
 * @param {(i: number) => number} value
 */
export function float64(length, value) {
  const out = new Float64Array(length);
  for (let i = 0; i < length; i++) out[i] = value(i);
  return out;
}

/**
 * A number times a float32 array, in float32.
 * @param {number} factor
 * @param {Float32Array} values
 */
export function scaled(factor, values) {
  const single = Math.fround(factor);
  return float32(values.length, (i) => single * values[i]);
}

/**
 * (x_0, eps) that a prediction stands for; sample: in variance-preserving scale, signal: abar_t.
 * @param {Values} prediction
 * @param {Values} sample
 * @param {number} signal
 * @param {string} type
 * @returns {[Float64Array, Float64Array]}
 */
export function cleanAndNoise(prediction, sample, signal, type) {
  const [alpha, sigma, n] = [Math.sqrt(signal), Math.sqrt(1 - signal), sample.length];
  if (type === "v_prediction")
    return [
      float64(n, (i) => alpha * sample[i] - sigma * prediction[i]),
      float64(n, (i) => alpha * prediction[i] + sigma * sample[i]),
    ];
  return [float64(n, (i) => (sample[i] - sigma * prediction[i]) / alpha), Float64Array.from(prediction)];
}

/**
 * @param {SchedulerSpec} config
 * @param {ArrayLike<number>} signal
 */
export function refuseNoisePredictionWithoutSignal(config, signal) {
  if (config.prediction_type === "epsilon" && !Array.from(signal).every((level) => level > 0))
    throw new SettingsError("this scheduler starts where no signal is left; choose euler or dpmpp_2m");
}

/**
 * x_0 inside ±clip_sample_range when the base asks for it.
 * @param {SchedulerSpec} config
 * @param {Float64Array} clean
 */
export function clipped(config, clean) {
  const most = config.clip_sample_range;
  return config.clip_sample ? clean.map((value) => Math.min(most, Math.max(-most, value))) : clean;
}
