/** The part "This device": is it right, how fast is it, and what became of it when its browser stopped the page. */

import { toRecord } from "./record.mjs";
import { sendRecord } from "./unsent.mjs";
import { advise, duration, element, say, showFigures } from "./view.mjs";

/**
 * @typedef {import("./bundle.mjs").Facts} Facts
 * @typedef {import("./check.mjs").Verdict} Verdict
 * @typedef {import("./engines.mjs").Engine} Engine
 */

const STAGE_KEY = "dreamcache-stage-";
/** This tab among others of the same page; it holds a lock of this name as long as it lives. */
const TAB = STAGE_KEY + crypto.getRandomValues(new Uint32Array(2)).join("");
const THREADS_KEY = "dreamcache-threads";
const SUSTAINED_S = 120;
const TITLES = {
  text_encoder: "Text",
  vae_encoder: "Reference",
  cache: "Caching",
  denoiser: "Denoiser",
  vae_decoder: "Picture",
};

/** @param {Engine} engine */
export function engineName({ provider, threads }) {
  return provider === "webgpu" ? "GPU (WebGPU)" : `Processor, ${threads} thread${threads > 1 ? "s" : ""}`;
}

/** @param {Engine} engine */
export function shortName({ provider, threads }) {
  return provider === "webgpu" ? "GPU" : `${threads} thread${threads > 1 ? "s" : ""}`;
}

/** @param {Verdict | null} verdict */
export function showVerdict(verdict) {
  if (verdict === null) {
    say("verdict", "This bundle brings no values to check this device by.");
    return;
  }
  const { db, ratios, right } = verdict;
  say(
    "verdict",
    right
      ? "Checked: this device computes what PyTorch computed."
      : "This device is NOT right: its pictures and speeds mean nothing. Choose another engine under More, or another browser.",
  );
  showFigures("checks", [
    ...Object.entries(db).map(
      ([name, value]) => /** @type {[string, string, boolean]} */ ([/** @type {any} */ (TITLES)[name] ?? name, `${value.toFixed(0)} dB`, right]),
    ),
    ["Effect of the reference", ratios.reference.toFixed(3), right],
    ["Effect of the text", ratios.text.toFixed(3), right],
  ]);
}

/**
 * Measure, show, and send the record to the desk.
 * @param {import("./worker_client.mjs").WorkerClient} client
 * @param {Facts} facts
 * @param {Engine} engine
 * @param {Verdict | null} verdict
 * @param {import("./pipeline.mjs").Reference} reference
 * @param {boolean} quick
 */
export async function measureDevice(client, facts, engine, verdict, reference, quick) {
  const sustained = element("sustained", HTMLInputElement).checked ? SUSTAINED_S : 0;
  const plan = { quick, steps: quick ? 4 : 20, sustained_s: sustained };
  const measured = await client.ask("bench", { plan, reference });
  const record = await toRecord(facts, engine, plan, measured, verdict?.db ?? null);
  const { metrics } = record;
  showFigures(
    "figures",
    /** @type {[string, number | null][]} */ ([
      ["One denoiser call", metrics.step_ms_p50],
      ["First call", metrics.first_step_ms],
      ["Loading the denoiser", metrics.warm_load_ms],
      ["Reference", metrics.cache_ms],
      ["Text", metrics.text_ms],
      ["Decoding", metrics.vae_decode_ms],
      [`Picture of ${plan.steps} steps`, metrics.e2e_ms_p50],
    ]).map(([title, ms]) => [title, ms === null ? "–" : duration(ms)]),
  );
  if (record.sustained !== null) {
    const percent = (100 * record.sustained.ratio).toFixed(0);
    say("verdict", `After two minutes it still has ${percent} % of its first speed.`);
  }
  say("status", "Measured.");
  say("kept", await sendRecord(client, record));
}

/**
 * Remember what is going on, for the next visit to know what a killed page was doing.
 * @param {{stage: string, engine: Engine, contract: string} | null} state null: all is well
 */
export function rememberStage(state) {
  try {
    if (state === null) localStorage.removeItem(TAB);
    else localStorage.setItem(TAB, JSON.stringify(state));
  } catch {
    // private windows may refuse
  }
}

/**
 * The number of threads that was the fastest on an earlier visit; 0: none is known.
 * @param {Engine} [fastest] remember this one
 */
export function fastestThreads(fastest) {
  try {
    if (fastest !== undefined) localStorage.setItem(THREADS_KEY, String(fastest.threads));
    return Number(localStorage.getItem(THREADS_KEY) ?? 0);
  } catch {
    return 0;
  }
}

// A tab that its person closes or reloads was not killed.
addEventListener("pagehide", () => rememberStage(null));
void navigator.locks?.request(TAB, () => new Promise(() => {}));

/**
 * What pages that live no more were doing; it is forgotten by this.
 * @returns {Promise<any[]>}
 */
async function leftBehind() {
  const alive = new Set((await navigator.locks?.query())?.held?.map(({ name }) => name));
  const found = [];
  try {
    for (const key of Object.keys(localStorage).filter((name) => name.startsWith(STAGE_KEY) && !alive.has(name))) {
      const text = localStorage.getItem(key) ?? "null";
      localStorage.removeItem(key);
      found.push(JSON.parse(text));
    }
  } catch {
    // private windows may refuse, and others may have written there
  }
  return found;
}

/**
 * Tell of a page that was killed at work, and send that as a record too.
 * @param {import("./worker_client.mjs").WorkerClient} client
 * @param {Facts} facts
 */
export async function reportKilled(client, facts) {
  const states = await leftBehind();
  const state = states.find((one) => one?.contract === facts.contract_sha256 && one.engine?.provider);
  if (state === undefined) return;
  const { graphs, files } = facts.contract;
  const graph = Object.hasOwn(graphs, state.stage) ? graphs[state.stage] : null;
  const names = graph === null ? Object.keys(files) : [graph.file, ...graph.weights];
  const bytes = names.reduce((sum, name) => sum + files[name].size, 0);
  const what = `killed in ${graph === null ? "loading" : state.stage}, whose files have ${(bytes / 1e6).toFixed(0)} MB`;
  advise(
    "killed",
    `Last time the browser stopped this page (${what}). Close other tabs and apps, or take a smaller bundle.`,
  );
  const measured = { samples: {}, absent: { e2e_ms_p50: what }, sustained: null, calls: 1 };
  const record = await toRecord(facts, state.engine, { quick: true, steps: 1 }, measured, null);
  await sendRecord(client, record).catch(() => {});
}
