/**
 * The instrument's protocol as far as a page can follow it (benchmarks/README.md): the same figures, fewer samples.
 *
 * @typedef {import("./pipeline.mjs").Pipeline} Pipeline
 * @typedef {{quick: boolean, sustained_s: number, steps: number}} Plan
 * @typedef {Record<string, number[]>} Samples milliseconds by what was timed
 */

import { withDecoder } from "./sampling/decoding.mjs";
import { Denoiser } from "./sampling/denoiser.mjs";
import { branches } from "./sampling/guidance.mjs";
import { noiseSource } from "./sampling/noise.mjs";
import { makeScheduler } from "./sampling/schedulers/index.mjs";

const PROMPT = "a toy robot on the beach";
const BLOCK = 4;
const WARM_BLOCKS = 3;
const WARM_WITHIN = 0.05;

/**
 * How many samples: of a whole run, and of a quick one, whose parts end sooner on a slow device.
 * @typedef {{load: number, stages: number, steps: number, pictures: number, warm: number, part_s: number}} Counts part_s:
 *   seconds after which no further sample is taken
 */
const COUNTS = {
  whole: { load: 5, stages: 8, steps: 64, pictures: 5, warm: 15, part_s: Infinity },
  quick: { load: 2, stages: 3, steps: 12, pictures: 2, warm: 4, part_s: 20 },
};

/**
 * Measure everything in turn.
 * @param {Pipeline} pipeline
 * @param {Plan} plan
 * @param {import("./pipeline.mjs").Reference} reference
 * @param {(line: string, share: number) => void} tell
 */
export async function measure(pipeline, plan, reference, tell) {
  const counts = plan.quick ? COUNTS.quick : COUNTS.whole;
  /** @type {Samples} */
  const samples = {};
  /** @type {Record<string, string>} */
  const absent = {};
  const observe = pipeline.observe;
  pipeline.observe = (stage, ms) => {
    (samples[stage] ??= []).push(ms);
    observe(stage, ms);
  };
  try {
    tell("loading the model again and again", 0.02);
    const texts = await pipeline.embed({ prompt: PROMPT, null: "" });
    const subject = await pipeline.cache(reference);
    samples.text = [];
    samples.cache = [];
    samples.vae_encode = [];
    await loads(pipeline, texts, subject, samples, counts);
    tell("text, reference and decoder", 0.1);
    await stages(pipeline, reference, samples, counts);
    tell("steps of the denoiser", 0.25);
    samples.step = [];
    const sustained = await steps(pipeline, texts, subject, samples, absent, counts, plan.sustained_s);
    tell("whole pictures", 0.7);
    const calls = samples.step;
    samples.step = [];
    await pictures(pipeline, subject, samples, counts, plan.steps);
    samples.step = calls;
    tell("done", 1);
    return { samples, absent, sustained, calls: callsOf(pipeline, plan.steps) };
  } finally {
    pipeline.observe = observe;
  }
}

/**
 * The denoiser's session, made anew each time, and its first call.
 * @param {Pipeline} pipeline
 * @param {any} texts
 * @param {any} subject
 * @param {Samples} samples
 * @param {Counts} counts
 */
async function loads(pipeline, texts, subject, samples, counts) {
  [samples.warm_load, samples.first_step] = [[], []];
  for (const _ of times(counts.load, counts.part_s)) {
    const began = performance.now();
    await pipeline.sessions.with("denoiser", async (graph) => {
      samples.warm_load.push(performance.now() - began);
      samples.first_step.push(await timed(call(pipeline, graph, texts, subject)));
    });
  }
}

/**
 * The other graphs alone, after one call that is not kept.
 * @param {Pipeline} pipeline
 * @param {import("./pipeline.mjs").Reference} reference
 * @param {Samples} samples
 * @param {Counts} counts
 */
async function stages(pipeline, reference, samples, { stages: count, part_s }) {
  const latent = noiseSource(1n, pipeline.latentSize)();
  const [ids] = pipeline.tokenizer.encode(PROMPT).chunks;
  const spec = pipeline.contract.graphs.text_encoder.inputs[0];
  const given = spec.dtype === "int32" ? Int32Array.from(ids) : BigInt64Array.from(ids, BigInt);
  await pipeline.sessions.with("text_encoder", (graph) =>
    repeat(samples, "text", times(count, part_s), () => graph.run({ [spec.name]: given })),
  );
  for (const _ of times(count, part_s)) await pipeline.cache(reference);
  samples.vae_decode = [];
  await withDecoder(pipeline.sessions, (decode) =>
    repeat(samples, "vae_decode", times(count, part_s), () => pipeline.decoded(decode, latent)),
  );
}

/**
 * Calls of the denoiser in blocks, after warm-up; and a long loop where one was asked for.
 * @param {Pipeline} pipeline
 * @param {any} texts
 * @param {any} subject
 * @param {Samples} samples
 * @param {Record<string, string>} absent
 * @param {Counts} counts
 * @param {number} sustained
 */
async function steps(pipeline, texts, subject, samples, absent, counts, sustained) {
  return pipeline.sessions.with("denoiser", async (graph) => {
    const run = call(pipeline, graph, texts, subject);
    /** @type {number[]} */
    const medians = [];
    for (const _ of times(counts.warm, counts.part_s)) {
      const taken = [];
      for (let i = 0; i < BLOCK; i++) taken.push(await timed(run));
      medians.push(median(taken));
      if (warm(medians)) break;
    }
    if (!warm(medians))
      absent.warm_up =
        medians.length < WARM_BLOCKS ? "a quick run on a slow device ends its warm-up early" : "the last blocks of the warm-up differ by more than 5 %";
    for (const _ of times(counts.steps, counts.part_s)) samples.step.push(await timed(run));
    if (sustained === 0) return null;
    const [began, ends] = [performance.now(), /** @type {number[]} */ ([])];
    while (performance.now() - began < 1000 * sustained) {
      await run();
      ends.push((performance.now() - began) / 1000);
    }
    return ends;
  });
}

/**
 * From prompt to picture of a cached subject.
 * @param {Pipeline} pipeline
 * @param {any} subject
 * @param {Samples} samples
 * @param {Counts} counts
 * @param {number} steps
 */
async function pictures(pipeline, subject, samples, counts, steps) {
  const defaults = pipeline.contract.guidance;
  const settings = {
    prompt: PROMPT,
    negative_prompt: "",
    seed: "0",
    steps,
    scheduler: defaults.scheduler,
    guidance: defaults,
  };
  const kept = { text: [...samples.text], vae_decode: [...samples.vae_decode] };
  samples.e2e = [];
  for (const _ of times(counts.pictures, counts.part_s)) samples.e2e.push(await timed(() => pipeline.draw(settings, subject, null)));
  Object.assign(samples, kept);
  delete samples.denoise;
}

/**
 * One call at strength 1 with a real cache in the middle of the schedule.
 * @param {Pipeline} pipeline
 * @param {import("./sessions.mjs").Session} graph
 * @param {any} texts
 * @param {import("./subject.mjs").Subject} subject
 */
function call(pipeline, graph, texts, subject) {
  const { architecture, scheduler } = pipeline.contract;
  const denoiser = new Denoiser(graph, architecture.batch, texts, subject.tensors, pipeline.facts.cache_tensors);
  const latent = noiseSource(1n, pipeline.latentSize)();
  const middle = Math.floor(scheduler.num_train_timesteps / 2);
  return () => denoiser.predict(latent, middle, [{ text: "prompt", strength: 1 }]);
}

/**
 * Denoiser calls of one picture.
 * @param {Pipeline} pipeline
 * @param {number} steps
 */
function callsOf(pipeline, steps) {
  const { scheduler, guidance, architecture } = pipeline.contract;
  const rows = branches(guidance, true).length;
  return makeScheduler(scheduler, guidance.scheduler, steps).timesteps.length * Math.ceil(rows / architecture.batch);
}

/**
 * @param {Samples} samples
 * @param {string} name
 * @param {Iterable<number>} turns
 * @param {() => Promise<any>} run
 */
async function repeat(samples, name, turns, run) {
  await run();
  for (const _ of turns) samples[name].push(await timed(run));
}

/**
 * Turns of a loop: at least one, and no further one after so many seconds.
 * @param {number} count
 * @param {number} seconds
 * @param {() => number} now milliseconds
 */
export function* times(count, seconds, now = () => performance.now()) {
  const began = now();
  for (let i = 0; i < count && (i === 0 || now() - began < 1000 * seconds); i++) yield i;
}

/** @param {() => Promise<any>} run */
async function timed(run) {
  const began = performance.now();
  await run();
  return performance.now() - began;
}

/** @param {number[]} medians of blocks */
function warm(medians) {
  const last = medians.slice(-WARM_BLOCKS);
  return last.length === WARM_BLOCKS && Math.max(...last) <= (1 + WARM_WITHIN) * Math.min(...last);
}

/** @param {number[]} values */
export function median(values) {
  return percentile(values, 0.5);
}

/**
 * With linear interpolation (Hyndman and Fan's type 7).
 * @param {number[]} values
 * @param {number} share
 */
export function percentile(values, share) {
  const sorted = [...values].sort((one, two) => one - two);
  const at = (sorted.length - 1) * share;
  const [below, above] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]];
  return below + (above - below) * (at - Math.floor(at));
}
