/** The page: from the first visit to a finished picture. What computes is in the worker; what is seen, in `view`. */

import { isTransfer } from "./bundle.mjs";
import { engineName, fastestThreads, measureDevice, rememberStage, reportKilled, shortName, showVerdict } from "./device.mjs";
import { inOrder } from "./engines.mjs";
import { looksWeighted } from "./sampling/prompt_weights.mjs";
import { SCHEDULERS } from "./sampling/schedulers/index.mjs";
import { SUFFIX } from "./subject.mjs";
import { sendUnsent } from "./unsent.mjs";
import { advise, backgroundSentence, duration, element, offerFile, pictureFile, progress, say, showPicture, showRange, showSubject } from "./view.mjs";
import { WorkerClient } from "./worker_client.mjs";

/**
 * @typedef {import("./bundle.mjs").Facts} Facts
 * @typedef {import("./engines.mjs").Engine} Engine
 * @typedef {import("./pipeline.mjs").Reference} Reference
 */

/** Bundles up to this size are checked on every visit. */
const CHECKED_AT_ONCE_BYTES = 128 << 20;
const field = (/** @type {string} */ id) => element(id, HTMLInputElement);
const choice = (/** @type {string} */ id) => element(id, HTMLSelectElement);
const button = (/** @type {string} */ id) => element(id, HTMLButtonElement);

/** @type {Facts} */
let facts;
/** @type {Engine[]} */
let engines = [];
/** @type {Engine} */
let engine;
/** @type {WorkerClient} */
let client;
/** @type {Reference} */
let reference;
/** @type {import("./check.mjs").Verdict | null} */
let verdict = null;
let began = 0;
/** Whether an engine runs and the model is there. */
let ready = false;

/** @param {any} message */
function told({ told: kind, ...said }) {
  if (kind === "stage") {
    rememberStage({ stage: said.name, engine, contract: facts.contract_sha256 });
    const part = /^vae_decoder_strip_(\d+)$/.exec(said.name);
    if (part !== null)
      say("status", `Decoding the picture: part ${Number(part[1]) + 1} of ${facts.contract.graphs.vae_decoder_strips.length}`);
  }
  if (kind === "fetched") {
    const megabytes = (/** @type {number} */ bytes) => (bytes / 1e6).toFixed(1);
    say("status", `Fetching the model: ${said.name}, ${megabytes(said.done)} of ${megabytes(said.total)} MB`);
    progress(said.done / said.total);
  }
  if (kind === "step") {
    const each = (performance.now() - began) / (said.index + 1);
    if (said.preview !== null) showPicture(said.preview);
    say("status", `Step ${said.index + 1} of ${said.total}, ${duration(each)} each`);
    progress((said.index + 1) / said.total);
  }
  if (kind === "checked") say("status", `Checking this device: ${said.name} ${said.db.toFixed(0)} dB`);
  if (kind === "measured") {
    say("status", `Measuring: ${said.line}`);
    progress(said.share);
  }
}

/**
 * Something that takes a while: no two at once, the screen stays on, and trouble is a sentence. What did not start, or
 * broke down, is started again first.
 * @param {() => Promise<void>} [work]
 */
async function busy(work) {
  const buttons = [...document.querySelectorAll("button, select, input[type=file]")];
  document.documentElement.dataset.state = "busy";
  say("trouble", "");
  for (const one of buttons) one.setAttribute("disabled", "");
  // Nobody waits for it: a browser may leave the answer open.
  const lock = navigator.wakeLock?.request("screen").catch(() => null);
  try {
    if (!ready) await open();
    await work?.();
  } catch (error) {
    ready &&= !client.closed;
    say("trouble", error instanceof Error ? error.message : String(error));
    say("status", "Stopped.");
  } finally {
    rememberStage(null);
    void lock?.then((held) => held?.release()).catch(() => {});
    progress(null);
    document.documentElement.dataset.state = "ready";
    for (const one of buttons) one.removeAttribute("disabled");
  }
}

/**
 * A worker with an engine; one that fails or computes wrongly gives way to the next.
 * @param {Engine[]} candidates
 */
async function start(candidates) {
  for (const [index, candidate] of candidates.entries()) {
    const last = index + 1 === candidates.length;
    try {
      await load(candidate);
      if (candidate.provider === "wasm") return await keepFastest(candidates.slice(index + 1));
      if (verdict?.right) return;
      advise("gpu", "The GPU of this device is not right, or cannot be checked: the processor draws.");
    } catch (error) {
      const said = error instanceof Error ? error.message : String(error);
      if (last || isTransfer(error)) throw error;
      advise("gpu", `${engineName(candidate)} does not run this bundle (${said}); another engine is tried.`);
    }
  }
}

/**
 * Fewer threads can be faster, where cores are of two kinds or busy: each number is timed once, and the best is kept.
 * @param {Engine[]} fewer
 */
async function keepFastest(fewer) {
  if (engine.threads === fastestThreads() || verdict === null) return;
  for (const candidate of fewer.filter(({ provider }) => provider === "wasm")) {
    const [kept, took] = [engine, verdict.call_ms];
    await load(candidate);
    if (verdict.call_ms < took) continue;
    await load(kept);
    break;
  }
  fastestThreads(engine);
}

/** @param {Engine} candidate */
async function load(candidate) {
  const next = new WorkerClient(told);
  // Where the desk cannot be reached, the engine that runs goes on.
  await next.ask("facts").catch((error) => {
    next.close("it did not start");
    throw error;
  });
  client.close("another engine was chosen");
  [engine, client] = [candidate, next];
  say("engine", shortName(engine));
  const { note } = await client.ask("load", { engine });
  advise("storage", note);
  const sizes = Object.values(facts.contract.files).map((record) => /** @type {{size: number}} */ (record).size);
  const total = sizes.reduce((sum, size) => sum + size, 0);
  verdict = null;
  if (engine.provider === "webgpu" || total <= CHECKED_AT_ONCE_BYTES) verdict = await client.ask("check");
  showVerdict(verdict);
}

/**
 * Take a reference and cache it.
 * @param {Blob | null} photograph null: the desk's picture
 */
async function takeReference(photograph) {
  say("status", photograph === null ? "Fetching the toy" : "Your desk cuts the subject out");
  reference = await client.ask("reference", { photograph });
  await cacheReference();
}

/** Cache the reference that was taken. */
async function cacheReference() {
  showSubject(reference.thumbnail, true);
  say("background", backgroundSentence(reference.background));
  await client.ask("cache", { reference });
  say("status", "Ready.");
}

/** The settings as they stand. */
function settings() {
  const seed = field("seed").value.trim();
  if (!/^[0-9]{0,18}$/.test(seed)) throw new Error(`Seed: at most 18 digits are expected, received ${seed}; none is a random one.`);
  return {
    prompt: element("prompt", HTMLTextAreaElement).value,
    negative_prompt: field("negative").value,
    prompt_weights: field("prompt-weights").checked,
    seed: seed || String(crypto.getRandomValues(new Uint32Array(1))[0]),
    steps: Number(field("steps").value),
    scheduler: choice("scheduler").value,
    step_cache: Number(choice("step-cache").value),
    guidance: {
      mode: choice("mode").value,
      guidance_scale: Number(field("guidance-scale").value),
      reference_guidance_scale: facts.contract.guidance.reference_guidance_scale,
      strength: Number(field("strength").value),
    },
  };
}

async function draw() {
  const asked = settings();
  began = performance.now();
  say("status", "Reading the prompt");
  progress(0);
  const { picture, lost } = await client.ask("draw", { settings: asked });
  showPicture(picture);
  element("finished", HTMLElement).hidden = false;
  say("status", `Done in ${duration(performance.now() - began)}, seed ${asked.seed}.`);
  const weights = !asked.prompt_weights && (looksWeighted(asked.prompt) || looksWeighted(asked.negative_prompt));
  const said = [
    lost > 0 ? `The prompt is ${lost} token${lost > 1 ? "s" : ""} too long: its end was not read.` : "",
    weights ? "Weights such as (word:1.3) were read as text; under More they can be switched on." : "",
  ];
  advise("prompt", said.filter(Boolean).join(" "));
}

/** Choices and defaults of the bundle. */
function fillForm() {
  const { guidance, scheduler, architecture } = facts.contract;
  for (const kind of Object.keys(SCHEDULERS).filter((name) => name !== "dpm"))
    choice("scheduler").add(new Option(kind, kind));
  choice("scheduler").value = guidance.scheduler === "dpm" ? "dpmpp_2m" : guidance.scheduler;
  engines.forEach((one, index) => choice("engines").add(new Option(engineName(one), String(index))));
  choice("mode").value = guidance.mode;
  field("steps").max = String(Math.min(50, scheduler.num_train_timesteps));
  for (const [id, value] of /** @type {[string, number][]} */ ([
    ["steps", guidance.steps],
    ["strength", guidance.strength],
    ["guidance-scale", guidance.guidance_scale],
  ])) {
    showRange(id, value);
  }
  element("step-caching", HTMLElement).hidden = !facts.contract.graphs.shallow;
  const size = `${architecture.image_width} × ${architecture.image_height} px`;
  const gpu = engines.some(({ provider }) => provider === "webgpu") || facts.contract.precision === "int8";
  const none = gpu || !globalThis.isSecureContext ? "" : ". No WebGPU: a newer Chrome, Edge or Safari draws on the GPU";
  say("facts", `${facts.name}, ${facts.contract.precision}, ${size}, DreamCache ${facts.version}${none}`);
}

function listen() {
  const on = (/** @type {string} */ id, /** @type {() => Promise<void>} */ work) =>
    button(id).addEventListener("click", () => void busy(work));
  element("draw", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    void busy(draw);
  });
  on("toy", () => takeReference(null));
  on("again", () => {
    field("seed").value = "";
    return draw();
  });
  on("save", async () => {
    const file = await pictureFile();
    offerFile(file, file.name);
  });
  on("share", async () => {
    const shared = { files: [await pictureFile()] };
    await navigator.share(shared).catch((error) => {
      if (error.name !== "AbortError") throw error;
    });
  });
  on("keep-subject", async () => offerFile(new Blob([await client.ask("saveSubject")]), `phone${SUFFIX}`));
  on("quick", () => measureDevice(client, facts, engine, verdict, reference, true));
  on("whole", () => measureDevice(client, facts, engine, verdict, reference, false));
  /** @type {(id: string, use: (file: File) => Promise<void>) => void} */
  const onFile = (id, use) =>
    field(id).addEventListener("change", () => {
      const file = field(id).files?.[0];
      if (file !== undefined) void busy(() => use(file)).then(() => (field(id).value = ""));
    });
  onFile("photograph", takeReference);
  onFile("open-subject", async (file) => {
    const { thumbnail } = await client.ask("openSubject", { file: await file.arrayBuffer() });
    showSubject(thumbnail, true);
    say("background", `Subject of ${file.name}.`);
    say("status", "Ready.");
  });
  choice("engines").addEventListener("change", () => {
    const chosen = engines[Number(choice("engines").value)];
    void busy(async () => {
      await load(chosen);
      await cacheReference();
    }).then(() => (choice("engines").value = String(engines.indexOf(engine))));
  });
  const empty = new File([""], "picture.png", { type: "image/png" });
  button("share").hidden = !(navigator.canShare?.({ files: [empty] }) ?? false);
}

/** Everything from the desk's facts to a cached reference. */
async function open() {
  client?.close("it was opened anew");
  client = new WorkerClient(told);
  const answer = await client.ask("facts");
  ({ facts, engines } = answer);
  if (choice("scheduler").length === 0) fillForm();
  if (!globalThis.isSecureContext)
    advise("connection", "Plain http: one thread, no GPU, and nothing is kept on this device. Without --http all of it is there.");
  advise("gpu", answer.note);
  const sent = await sendUnsent(client);
  if (sent > 0) say("kept", `${sent === 1 ? "A record" : `${sent} records`} of an earlier visit came to your desk.`);
  await reportKilled(client, facts);
  await start(inOrder(engines, fastestThreads()));
  choice("engines").value = String(engines.indexOf(engine));
  ready = true;
  await (reference === undefined ? takeReference(null) : cacheReference());
}

listen();
await busy();
