/** The worker: everything that computes, so that the page stays alive under the finger. */

import { BundleFiles, asked } from "./bundle.mjs";
import { measure } from "./bench.mjs";
import { GOLDEN, selfCheck } from "./check.mjs";
import { Pipeline } from "./pipeline.mjs";
import { engines } from "./engines.mjs";
import { decoderGraphs } from "./sampling/decoding.mjs";
import { SessionOpener } from "./sessions.mjs";
import { loadSubject, saveSubject } from "./subject.mjs";

/** @typedef {import("./subject.mjs").Subject} Subject */

const root = new URL("../", import.meta.url).href;
const send = (/** @type {object} */ message) => postMessage(message);
const stage = (/** @type {string} */ name) => send({ told: "stage", name });

const KEPT_OPEN_BYTES = 128 << 20;

/** @type {import("./bundle.mjs").Facts} */
let facts;
/** @type {BundleFiles} */
let files;
/** @type {Pipeline} */
let pipeline;
/** @type {Subject | null} */
let subject = null;

/** @type {Record<string, (given: any) => Promise<any>>} */
const answers = {
  /** Facts of the bundle, and the engines of this browser. */
  async facts() {
    facts = await (await asked(`${root}facts`)).json();
    const checkable = Object.hasOwn(facts.contract.files, GOLDEN);
    return { facts, ...(await engines(facts.contract, checkable, globalThis.crossOriginIsolated)) };
  },

  /** Make ready to run on one engine; once in a worker's life. */
  async load({ engine }) {
    files = new BundleFiles(root, facts, (name, done, total) => send({ told: "fetched", name, done, total }));
    const { graphs } = facts.contract;
    stage("loading");
    const sessions = await SessionOpener.load(root, engine, files, graphs);
    const { Tokenizer } = await import(`${root}runtime/tokenizers.min.mjs`);
    const rules = await (await asked(`${root}tokenizer`)).json();
    pipeline = new Pipeline(facts, sessions, new Tokenizer(rules, {}), () => {});
    sessions.begin = stage;
    // Everything is fetched and checked before anything is drawn.
    const needed = ["text_encoder", "vae_encoder", "cache", "denoiser", ...decoderGraphs(graphs), "shallow"];
    for (const name of needed.filter((one) => graphs[one]))
      for (const file of [graphs[name].file, ...graphs[name].weights]) await files.bytes(file);
    // A small bundle stays open: the next picture comes sooner.
    const bytes = Object.values(files.records).reduce((sum, record) => sum + record.size, 0);
    await sessions.keep(bytes <= KEPT_OPEN_BYTES);
    return { note: files.note };
  },

  /** The reference that the desk offers, or a photograph that it prepares. */
  async reference({ photograph }) {
    const address = `${root}reference`;
    const most = facts.photograph_bytes;
    if (photograph !== null && photograph.size > most)
      throw new Error(`This picture has ${Math.ceil(photograph.size / (1 << 20))} MiB, and the desk takes ${most >> 20}. Choose a smaller one.`);
    const sent = photograph === null ? {} : { method: "POST", body: photograph };
    return (await asked(address, sent)).json();
  },

  async cache({ reference }) {
    subject = await pipeline.cache(reference);
    return null;
  },

  /** The subject's file, to keep; it opens at the desk too. */
  async saveSubject() {
    return subject === null ? null : saveSubject(subject, facts);
  },

  async openSubject({ file }) {
    subject = loadSubject(new Uint8Array(file), facts);
    return { thumbnail: subject.thumbnail };
  },

  async draw({ settings }) {
    const picture = await pipeline.draw(settings, subject, (step) => send({ told: "step", ...step }));
    return { picture, lost: pipeline.tokenizer.encode(settings.prompt, settings.prompt_weights).lost };
  },

  async check() {
    return selfCheck(pipeline, files, (name, db) => send({ told: "checked", name, db }));
  },

  async bench({ plan, reference }) {
    const { keeping } = pipeline.sessions;
    await pipeline.sessions.keep(false);
    try {
      return await measure(pipeline, plan, reference, (line, share) => send({ told: "measured", line, share }));
    } finally {
      await pipeline.sessions.keep(keeping);
    }
  },

  async record({ record }) {
    const options = { method: "POST", body: JSON.stringify(record) };
    return (await asked(`${root}records`, options)).json();
  },
};

addEventListener("message", async ({ data: { id, ask, given } }) => {
  try {
    send({ id, answer: await answers[ask](given) });
  } catch (error) {
    const { name, message } = /** @type {Error} */ (error);
    send({ id, error: message, kind: name });
  }
});
