// Runs the page's arithmetic on cases from stdin, for tests that compare it with Python's; answers as JSON.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [page] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${page}/${name}`).href);
const { noiseSource, noisedReference } = await load("sampling/noise.mjs");
const { makeScheduler } = await load("sampling/schedulers/index.mjs");
const { trajectory } = await load("sampling/trajectory.mjs");
const { branches, combine } = await load("sampling/guidance.mjs");
const { PromptTokenizer } = await load("sampling/prompts.mjs");
const { looksWeighted, weightedParts } = await load("sampling/prompt_weights.mjs");
const { decodeInStrips } = await load("sampling/decoding.mjs");
const { inOrder, unfit } = await load("engines.mjs");
const { times } = await load("bench.mjs");
const { sendRecord } = await load("unsent.mjs");
const { backgroundSentence } = await load("view.mjs");
const { Session, explained, lowerMemoryWhereRefused } = await load("sessions.mjs");

const answers = {
  noise: ({ seed, count, draws }) => {
    const draw = noiseSource(BigInt(seed), count);
    return Array.from({ length: draws }, () => Array.from(draw()));
  },
  noised: ({ latent, scheduler, timestep }) =>
    Array.from(noisedReference(Float32Array.from(latent), scheduler, timestep)),
  combine: ({ guidance, predictions }) =>
    Array.from(combine(guidance, predictions.map((one) => Float32Array.from(one)))),
  memory: ({ asked, most }) => {
    // A browser that refuses a maximum above `most` pages.
    const { Memory } = WebAssembly;
    WebAssembly.Memory = function (descriptor) {
      if (descriptor.maximum > most) throw new RangeError("too large");
      return descriptor;
    };
    try {
      lowerMemoryWhereRefused();
      return new WebAssembly.Memory(asked);
    } finally {
      WebAssembly.Memory = Memory;
    }
  },
  turns: ({ count, seconds, each }) => {
    let now = 0;
    return [...times(count, seconds, () => (now += each))].length;
  },
  // Without a browser's storage, as in some private windows.
  sent: ({ kept }) =>
    sendRecord({ ask: async () => (kept ? { kept } : Promise.reject(new Error("The connection to the desk is lost."))) }, {}),
  background: ({ how }) => backgroundSentence(how),
  explained: ({ said, graph }) => explained(new Error(said), graph),
  order: ({ found, threads }) => inOrder(found, threads),
  unfit: ({ features, limits, contract }) => unfit({ features: new Set(features), limits }, contract),
  branches: ({ guidance, reference }) => branches(guidance, reference),
  tokens: async ({ library, rules, text, length, chunks, prompts, weighted }) => {
    const { Tokenizer } = await import(pathToFileURL(library).href);
    const tokenizer = new PromptTokenizer(new Tokenizer(JSON.parse(rules), {}), text, length, chunks);
    return prompts.map((prompt) => tokenizer.encode(prompt, weighted));
  },
  // In ONNX Runtime Web, as on the page.
  strips: async ({ library, folder, graphs, latent, held }) => {
    const ort = await import(pathToFileURL(library).href);
    ort.env.wasm.numThreads = 1;
    const sessions = {
      graphs,
      with: async (name, use) => {
        const graph = await ort.InferenceSession.create(readFileSync(`${folder}/${graphs[name].file}`));
        return use(new Session(ort, graph, graphs[name]));
      },
    };
    return Array.from(await decodeInStrips(sessions, Float32Array.from(latent), held));
  },
  parts: ({ prompt }) => ({ parts: weightedParts(prompt), looks: looksWeighted(prompt) }),
  trajectory: async ({ scheduler, kind, steps, guidance, seed, count }) => {
    const made = makeScheduler(scheduler, kind, steps);
    const denoiser = {
      hasReference: true,
      predict: async (latent, timestep, asked) =>
        asked.map((_, k) => latent.map((x, i) => Math.fround(x * Math.fround(((i % 7) - k) / 8)) + timestep / 1024)),
    };
    const latents = [];
    for await (const step of trajectory(denoiser, made, guidance, noiseSource(BigInt(seed), count)))
      latents.push(Array.from(step.latent), Array.from(step.preview));
    return { timesteps: Array.from(made.timesteps), latents };
  },
};

const results = [];
for (const { ask, ...rest } of JSON.parse(readFileSync(0, "utf8"))) {
  try {
    results.push(await answers[ask](rest));
  } catch (error) {
    results.push({ error: error.message });
  }
}
process.stdout.write(JSON.stringify(results));
