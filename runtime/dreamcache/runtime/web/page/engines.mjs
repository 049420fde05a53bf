/**
 * Engines of this browser: the GPU, and the processor with so many threads.
 *
 * @typedef {"wasm" | "webgpu"} Provider
 * @typedef {{provider: Provider, threads: number}} Engine
 * @typedef {{precision: string, parity: {needs: Record<string, {largest_mb: number}>}}} Contract
 */

import { inStrips } from "./sampling/decoding.mjs";

/**
 * Engines that this browser has for a bundle, the likely best first; and what to know of a GPU that is left out.
 * @param {Contract} contract
 * @param {boolean} checkable whether the bundle holds golden tensors: a GPU is taken at once only if it proves right
 * @param {boolean} isolated whether the page may have threads
 * @returns {Promise<{engines: Engine[], note: string}>}
 */
export async function engines(contract, checkable, isolated) {
  const cores = Math.max(1, navigator.hardwareConcurrency ?? 1);
  const counts = isolated ? [4, 2, 1].filter((count) => count <= cores) : [1];
  /** @type {Engine[]} */
  const found = counts.map((threads) => ({ provider: "wasm", threads }));
  // 8-bit kernels are not on the GPU: such a bundle would be copied to and fro at every layer.
  if (contract.precision === "int8") return { engines: found, note: "" };
  const adapter = await gpuAdapter();
  if (adapter === null) return { engines: found, note: "" };
  const note = unfit(adapter, contract);
  if (note) return { engines: found, note };
  /** @type {Engine} */
  const gpu = { provider: "webgpu", threads: 1 };
  return { engines: checkable ? [gpu, ...found] : [...found, gpu], note };
}

/**
 * Why a GPU cannot run a bundle; empty where it may. Sessions would open, and fail when they run.
 * @param {{features: {has: (name: string) => boolean}, limits: {maxStorageBufferBindingSize: number}}} adapter
 * @param {Contract} contract
 */
export function unfit(adapter, contract) {
  if (contract.precision === "web" && !adapter.features.has("shader-f16"))
    return "The GPU of this device has no 16-bit arithmetic: the processor draws. A bundle exported with --precision web8 runs on this GPU.";
  const { needs } = contract.parity;
  const run = Object.keys(needs).filter((name) => name !== "plain" && (name !== "vae_decoder" || !inStrips(needs)));
  const largest = Math.max(0, ...run.map((name) => needs[name].largest_mb));
  const bound = adapter.limits.maxStorageBufferBindingSize / 1e6;
  // Bundles may hold their figures rounded to 0.001.
  if (largest <= bound + 0.0005) return "";
  return `The GPU of this device binds at most ${bound.toFixed(0)} MB at once, and this bundle needs ${largest.toFixed(0)}: the processor draws. Export with --precision web8 or a smaller --resolution.`;
}

/** @returns {Promise<any>} */
async function gpuAdapter() {
  try {
    return (await /** @type {any} */ (navigator).gpu?.requestAdapter()) ?? null;
  } catch {
    return null;
  }
}

/**
 * The order in which engines are tried: a GPU that can be checked, the number of threads that was the fastest, the rest.
 * @param {Engine[]} found
 * @param {number} threads
 */
export function inOrder(found, threads) {
  const gpu = found.slice(0, 1).filter(({ provider }) => provider === "webgpu");
  const known = found.filter((one) => one.provider === "wasm" && one.threads === threads);
  return [...new Set([...gpu, ...known, ...found])];
}
