/** Samplers, each equal to its namesake in Python over a whole trajectory (schedulers/__init__.py). */

import { SettingsError } from "./base.mjs";
import { DDIM } from "./ddim.mjs";
import { DEIS } from "./deis.mjs";
import { LCM, TCD } from "./distilled.mjs";
import { DPMSolverPlusPlus2M, DPMSolverPlusPlus2MSDE } from "./dpm_solver.mjs";
import { Euler, EulerAncestral } from "./euler.mjs";
import { Heun } from "./heun.mjs";
import { PNDM } from "./pndm.mjs";
import { UniPC } from "./unipc.mjs";

/**
 * @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec
 * @typedef {import("./base.mjs").Scheduler} Scheduler
 */

/** @type {Record<string, new (config: SchedulerSpec, steps: number) => Scheduler>} */
export const SCHEDULERS = {
  ddim: DDIM,
  euler: Euler,
  dpm: DPMSolverPlusPlus2M,
  lcm: LCM,
  euler_a: EulerAncestral,
  heun: Heun,
  dpmpp_2m: DPMSolverPlusPlus2M,
  dpmpp_2m_sde: DPMSolverPlusPlus2MSDE,
  unipc: UniPC,
  deis: DEIS,
  tcd: TCD,
  pndm: PNDM,
};
const TIMESTEPS_ALONE = ["ddim", "pndm", "euler_a", "lcm", "tcd"];

/**
 * A sampler of `kind`, ready for one trajectory; the base's own spacing as far as the kind knows it.
 * @param {SchedulerSpec} config
 * @param {string} kind
 * @param {number} steps
 * @returns {Scheduler}
 */
export function makeScheduler(config, kind, steps) {
  if (!Object.hasOwn(SCHEDULERS, kind)) throw new SettingsError(`${kind} is not a scheduler of this page`);
  const most = config.num_train_timesteps;
  if (!Number.isInteger(steps) || steps < 1 || steps > most)
    throw new SettingsError(`steps: a whole number from 1 to ${most} is expected; try 20`);
  const spaced = { ...config };
  if (["karras", "exponential"].includes(config.sigma_spacing) && TIMESTEPS_ALONE.includes(kind))
    spaced.sigma_spacing = "timesteps";
  if (config.sigma_spacing === "sgm_uniform") spaced.timestep_spacing = "trailing";
  return new SCHEDULERS[kind](spaced, steps);
}
