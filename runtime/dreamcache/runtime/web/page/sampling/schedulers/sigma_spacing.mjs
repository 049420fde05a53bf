/** Where a trajectory's noise levels lie: sigma = sqrt(1 - abar) / sqrt(abar) (sigma_spacing.py). */

import { SettingsError } from "./base.mjs";
import { levelsNeverZero, linspace, round, spacedTimesteps, visited } from "./noise_schedule.mjs";

/**
 * @typedef {import("./base.mjs").SchedulerSpec} SchedulerSpec
 * @typedef {{timesteps: Float64Array, sigmas: Float64Array}} SigmaPath noisiest first
 */

const KARRAS_RHO = 7;
const BY_TIMESTEPS = ["timesteps", "sgm_uniform"];
const f = Math.fround;

/**
 * The path of Euler's and Heun's methods, whose timesteps may lie between those of training.
 * @param {SchedulerSpec} config
 * @param {number} steps
 * @returns {SigmaPath}
 */
export function fractionalPath(config, steps) {
  const count = config.num_train_timesteps;
  const spaced = spacedTimesteps(config.timestep_spacing, count, steps, config.steps_offset);
  const timesteps = visited(spaced, count, config.timestep_spacing);
  const table = sigmaTable(config);
  const sigmas = timesteps.map((at) => {
    const below = Math.min(Math.floor(at), count - 2);
    if (count === 1) return table[0];
    return at === below ? table[below] : (table[below + 1] - table[below]) * (at - below) + table[below];
  });
  if (BY_TIMESTEPS.includes(config.sigma_spacing)) return { timesteps, sigmas };
  const respaced = respacedSigmas(sigmas[0], sigmas[sigmas.length - 1], steps, config.sigma_spacing);
  return falling({ timesteps: timestepsOf(respaced, table), sigmas: respaced }, config);
}

/**
 * The path of multistep samplers, whose timesteps are whole.
 * @param {SchedulerSpec} config
 * @param {number} steps
 * @param {boolean} roundsCosine
 * @returns {SigmaPath}
 */
export function wholePath(config, steps, roundsCosine = true) {
  const [count, table] = [config.num_train_timesteps, sigmaTable(config)];
  if (BY_TIMESTEPS.includes(config.sigma_spacing)) {
    const timesteps = visited(solverTimesteps(config, steps), count, config.timestep_spacing);
    return { timesteps, sigmas: timesteps.map((at) => table[at]) };
  }
  const sigmas = respacedSigmas(table[count - 1], table[0], steps, config.sigma_spacing);
  const exact = timestepsOf(sigmas, table);
  const cosine = config.beta_schedule === "squaredcos_cap_v2";
  const rounds = config.sigma_spacing === "karras" && (roundsCosine || !cosine);
  return falling({ timesteps: exact.map(rounds ? round : Math.trunc), sigmas }, config);
}

/**
 * Sigma at each training timestep, in single precision.
 * @param {SchedulerSpec} config
 * @returns {Float32Array}
 */
function sigmaTable(config) {
  return levelsNeverZero(config).map((level) => Math.sqrt(f(f(1 - level) / level)));
}

/**
 * Sigma at training timestep 0.
 * @param {SchedulerSpec} config
 */
export function smallestSigma(config) {
  return sigmaTable(config)[0];
}

/**
 * @param {SchedulerSpec} config
 * @param {number} steps
 */
function solverTimesteps(config, steps) {
  const { num_train_timesteps: count, timestep_spacing: spacing, steps_offset: offset } = config;
  if (spacing === "linspace")
    return linspace(0, count - 1, steps + 1)
      .map(round)
      .reverse()
      .slice(0, steps);
  if (spacing === "leading") {
    const stride = Math.floor(count / (steps + 1));
    return Float64Array.from({ length: steps }, (_, i) => (steps - i) * stride + offset);
  }
  return spacedTimesteps(spacing, count, steps, offset);
}

/**
 * [steps] sigmas from the largest to the smallest.
 * @param {number} largest
 * @param {number} smallest
 * @param {number} steps
 * @param {string} spacing
 */
function respacedSigmas(largest, smallest, steps, spacing) {
  if (spacing === "exponential") return linspace(Math.log(largest), Math.log(smallest), steps).map(Math.exp);
  const [high, low] = [largest ** (1 / KARRAS_RHO), smallest ** (1 / KARRAS_RHO)];
  return linspace(0, 1, steps).map((share) => (high + share * (low - high)) ** KARRAS_RHO);
}

/**
 * [steps], fractional: interpolated in log sigma and never outside training.
 * @param {Float64Array} sigmas
 * @param {Float32Array} table
 */
function timestepsOf(sigmas, table) {
  const logs = table.map(Math.log);
  return sigmas.map((sigma) => {
    const wanted = Math.log(Math.max(sigma, 1e-10));
    let above = 0;
    while (above < logs.length && logs[above] <= wanted) above++;
    const below = Math.min(Math.max(above - 1, 0), logs.length - 2);
    const share = Math.min(1, Math.max(0, (logs[below] - wanted) / f(logs[below] - logs[below + 1])));
    return (1 - share) * below + share * (below + 1);
  });
}

/**
 * The path unchanged when its sigmas fall and its start is told apart from the second step.
 * @param {SigmaPath} path
 * @param {SchedulerSpec} config
 */
function falling(path, config) {
  const falls = path.sigmas.every((sigma, i) => i === 0 || sigma < path.sigmas[i - 1]);
  if (falls && (path.timesteps.length === 1 || path.timesteps[0] > path.timesteps[1])) return path;
  throw new SettingsError(
    `${path.timesteps.length} steps are too many for ${config.sigma_spacing} spacing; ask for fewer`,
  );
}
