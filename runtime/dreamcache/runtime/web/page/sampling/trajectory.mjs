/** The denoising loop: from noise to a clean latent, one step at a time (trajectory.py). */

import { branches, combine } from "./guidance.mjs";
import { scaled } from "./schedulers/base.mjs";

/**
 * @typedef {import("./guidance.mjs").Guidance} Guidance
 * @typedef {import("./guidance.mjs").Branch} Branch
 * @typedef {import("./schedulers/base.mjs").Scheduler} Scheduler
 * @typedef {{index: number, total: number, latent: Float32Array, preview: Float32Array}} Step
 * @typedef {object} Predictor
 * @property {boolean} hasReference
 * @property {(latent: Float32Array, timestep: number, branches: Branch[], step: number) => Promise<Float32Array[]>} predict
 */

/**
 * @param {Predictor} denoiser
 * @param {Scheduler} scheduler
 * @param {Guidance} guidance
 * @param {() => Float32Array} noise
 * @returns {AsyncGenerator<Step>}
 */
export async function* trajectory(denoiser, scheduler, guidance, noise) {
  /** @type {Float32Array} */
  let latent = scaled(scheduler.initNoiseSigma, noise());
  const calls = scheduler.timesteps.length;
  const total = scheduler.stepOf(calls - 1) + 1;
  const asked = branches(guidance, denoiser.hasReference);
  for (let call = 0; call < calls; call++) {
    const index = scheduler.stepOf(call);
    const input = scheduler.scaleInput(latent, call);
    const combined = combine(guidance, await denoiser.predict(input, scheduler.timesteps[call], asked, index));
    const preview = scheduler.predictedOriginal(combined, call, latent);
    latent = scheduler.step(combined, call, latent, noise);
    if (call + 1 === calls || scheduler.stepOf(call + 1) > index) yield { index, total, latent, preview };
  }
}
