/**
 * What the page measured, as a record of `dreamcache bench --json` (benchmarks/record.py), which `--merge` reads.
 *
 * A figure that was not measured is null, with the reason under `absent`.
 *
 * @typedef {import("./bundle.mjs").Facts} Facts
 * @typedef {import("./engines.mjs").Engine} Engine
 * @typedef {{samples: Record<string, number[]>, absent: Record<string, string>, sustained: number[] | null, calls: number}} Measured
 */

import { median, percentile } from "./bench.mjs";

const SCHEMA_VERSION = 1;
const P90_NEEDS = 64;
const SPREAD_NEEDS = 4;
const UNSTABLE_ABOVE = 0.1;
const WINDOW_S = 60;

/** What no page can measure, and why. */
const NEVER = {
  cold_load_ms: "a page cannot drop the browser's caches",
  plain_step_ms_p50: "the page does not run the plain graph",
  peak_private_mb: "a browser does not say what memory a page takes",
};

/**
 * The whole record.
 * @param {Facts} facts
 * @param {Engine} engine
 * @param {{quick: boolean, steps: number}} plan
 * @param {Measured} measured
 * @param {Record<string, number> | null} selfCheck decibels by graph
 */
export async function toRecord(facts, engine, plan, measured, selfCheck) {
  const { samples } = measured;
  /** @type {Record<string, string>} */
  const absent = { ...NEVER, ...measured.absent };
  if ((samples.step ?? []).length < P90_NEEDS) absent.step_ms_p90 = "a 90th percentile needs 64 samples";
  if (selfCheck === null) absent.self_check = "the bundle holds no golden tensors, or they were not compared";
  const middle = (/** @type {string} */ name) => (samples[name]?.length ? median(samples[name]) : null);
  return {
    schema_version: SCHEMA_VERSION,
    created: new Date().toISOString(),
    quick: plan.quick,
    host: await describeHost(engine),
    versions: { dreamcache: facts.version, "onnxruntime-web": "1.30.0" },
    bundle: bundleFacts(facts),
    fidelity: { ...fidelity(facts), self_check_db: selfCheck },
    conditions: conditions(facts, engine, plan.steps, measured.calls),
    metrics: {
      warm_load_ms: middle("warm_load"),
      first_step_ms: middle("first_step"),
      text_ms: middle("text"),
      cache_ms: middle("cache"),
      step_ms_p50: middle("step"),
      step_ms_p90: "step_ms_p90" in absent ? null : percentile(samples.step, 0.9),
      vae_decode_ms: middle("vae_decode"),
      e2e_ms_p50: middle("e2e"),
      cache_bytes: facts.cache_tensors.reduce((sum, { shape }) => sum + 4 * shape.reduce((a, b) => a * b, 1), 0),
      disk_bytes: Object.values(facts.contract.files).reduce((sum, { size }) => sum + size, 0),
    },
    samples,
    spread: Object.fromEntries(Object.entries(samples).map(([name, taken]) => [name, spread(taken)])),
    absent,
    sustained: measured.sustained === null ? null : sustained(measured.sustained),
  };
}

/** @param {Facts} facts */
function bundleFacts(facts) {
  const { architecture, weights, precision, fingerprints, versions } = facts.contract;
  const { name, contract_sha256 } = facts;
  return { name, architecture: architecture.name, weights, precision, contract_sha256, fingerprints, versions };
}

/**
 * The exporter's gate, as `dreamcache bench` says it.
 * @param {Facts} facts
 */
function fidelity(facts) {
  const { psnr_db: db, condition, trajectory_db: trajectory } = facts.contract.parity;
  const { least_db: least, condition_tolerance: tolerance } = facts.gates;
  const problems = [];
  for (const name of ["denoiser", "cache"])
    if (least !== null && db[name] < least) problems.push(`${name} ${db[name].toFixed(0)} dB, at least ${least} expected`);
  for (const name of ["reference", "text"])
    if (Math.abs(condition[name] - 1) > tolerance)
      problems.push(`condition on the ${name} at ${condition[name].toFixed(3)} of PyTorch's`);
  return {
    passed: problems.length === 0,
    reason: problems.join("; "),
    denoiser_db: db.denoiser ?? null,
    cache_db: db.cache ?? null,
    final_latent_db: trajectory.length ? trajectory[trajectory.length - 1] : null,
    reference_ratio: condition.reference ?? null,
    text_ratio: condition.text ?? null,
  };
}

/**
 * @param {Facts} facts
 * @param {Engine} engine
 * @param {number} steps
 * @param {number} calls
 */
function conditions(facts, engine, steps, calls) {
  const { architecture, guidance } = facts.contract;
  return {
    profile: "speed",
    providers: [engine.provider],
    threads: engine.threads,
    width: architecture.image_width,
    height: architecture.image_height,
    batch: architecture.batch,
    steps,
    guidance: guidance.mode,
    unet_calls: calls,
  };
}

/** @param {number[]} taken */
function spread(taken) {
  const [middle, iqr] = [median(taken), percentile(taken, 0.75) - percentile(taken, 0.25)];
  const unstable = taken.length >= SPREAD_NEEDS ? iqr > UNSTABLE_ABOVE * middle : null;
  return { n: taken.length, median: middle, iqr, unstable };
}

/**
 * Calls a second in the first and the last window of a long loop.
 * @param {number[]} ends seconds at which each call ended
 */
function sustained(ends) {
  const total = ends[ends.length - 1];
  const window = Math.min(WINDOW_S, total / 2);
  const calls = (/** @type {number} */ from, /** @type {number} */ to) =>
    ends.reduce((sum, end, i) => {
      const start = i === 0 ? 0 : ends[i - 1];
      return sum + Math.max(0, Math.min(end, to) - Math.max(start, from)) / (end - start);
    }, 0) / window;
  const [first, last] = [calls(0, window), calls(total - window, total)];
  return { minutes: total / 60, window_s: window, first_per_s: first, last_per_s: last, ratio: last / first, ends_s: ends };
}

/**
 * The device, as far as its browser tells.
 * @param {Engine} engine
 */
async function describeHost(engine) {
  const told = /** @type {any} */ (navigator).userAgentData;
  const more = await told?.getHighEntropyValues(["model", "platformVersion", "architecture"]).catch(() => null);
  const browser = told?.brands?.filter((/** @type {any} */ one) => !/not.*brand/i.test(one.brand)) ?? [];
  const shown = browser.length ? `${browser[browser.length - 1].brand} ${browser[browser.length - 1].version}` : agent();
  const cores = Math.max(1, navigator.hardwareConcurrency ?? 1);
  const memory = /** @type {any} */ (navigator).deviceMemory;
  return {
    system: more ? `${told.platform} ${more.platformVersion}`.trim() : navigator.platform || "unknown",
    machine: more?.architecture || "unknown",
    cpu: [more?.model || told?.platform || navigator.platform || "device", shown, ...(await gpuName(engine))].join(", "),
    cores,
    usable_cores: cores,
    ram_bytes: memory ? memory * 2 ** 30 : null,
  };
}

/**
 * The GPU of an engine that has one; a software adapter says so, since its speed is no device's.
 * @param {Engine} engine
 */
async function gpuName(engine) {
  if (engine.provider !== "webgpu") return [];
  const info = (await /** @type {any} */ (navigator).gpu.requestAdapter())?.info ?? {};
  const name = [info.vendor, info.architecture, info.description].filter(Boolean).join(" ") || "unnamed GPU";
  const software = info.isFallbackAdapter || /swiftshader|llvmpipe|basic render/i.test(name);
  return [software ? `${name}: software, not a device` : name];
}

/** Name and version of a browser that has no better way to say them. */
function agent() {
  const found = /(Firefox|Version|Chrome)\/([\d.]+)/.exec(navigator.userAgent);
  if (found === null) return "a browser";
  return found[1] === "Version" ? `Safari ${found[2]}` : `${found[1]} ${found[2]}`;
}
