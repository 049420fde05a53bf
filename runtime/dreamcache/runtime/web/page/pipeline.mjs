/**
 * From a reference and a prompt to a picture: the stages of the runner, one graph in memory at a time (pipeline.py).
 *
 * @typedef {import("./bundle.mjs").Facts} Facts
 * @typedef {import("./sampling/guidance.mjs").Guidance} Guidance
 * @typedef {import("./subject.mjs").Subject} Subject
 * @typedef {import("./sessions.mjs").Session} Session
 * @typedef {import("./sampling/decoding.mjs").Decode} Decode
 * @typedef {{side: number, pixels: string, background: string, thumbnail: string}} Reference as the desk prepared it
 * @typedef {{width: number, height: number, pixels: Uint8ClampedArray<ArrayBuffer>}} Picture RGBA
 * @typedef {{prompt: string, negative_prompt: string, seed: string, steps: number, scheduler: string, guidance: Guidance, step_cache?: number, prompt_weights?: boolean}} Settings step_cache:
 *   steps per run of the whole denoiser
 * @typedef {{index: number, total: number, preview: Picture | null}} Drawn
 */

import { inStrips, withDecoder } from "./sampling/decoding.mjs";
import { Denoiser, joined } from "./sampling/denoiser.mjs";
import { noiseSource, noisedReference } from "./sampling/noise.mjs";
import { PromptTokenizer } from "./sampling/prompts.mjs";
import { makeScheduler } from "./sampling/schedulers/index.mjs";
import { trajectory } from "./sampling/trajectory.mjs";

const f = Math.fround;
const SMALL_DECODER_BYTES = 32 << 20;

/** A loaded bundle. */
export class Pipeline {
  /**
   * @param {Facts} facts
   * @param {import("./sessions.mjs").SessionOpener} sessions
   * @param {import("./sampling/prompts.mjs").Encoder} encoder
   * @param {(stage: string, ms: number) => void} observe called with each stage's milliseconds
   */
  constructor(facts, sessions, encoder, observe) {
    this.facts = facts;
    this.contract = facts.contract;
    this.sessions = sessions;
    const { text_length: length, text_chunks: chunks } = this.contract.architecture;
    this.tokenizer = new PromptTokenizer(encoder, this.contract.text, length, chunks);
    this.observe = observe;
  }

  /** Values of one latent. */
  get latentSize() {
    const { latent_channels: z, latent_height: h, latent_width: w } = this.contract.architecture;
    return z * h * w;
  }

  /** Whether a decoder stands by for previews: a small one, since a large one would not fit beside the denoiser. */
  get decodesPreviews() {
    const { graphs, files } = this.contract;
    const { file, weights } = graphs.vae_decoder;
    const bytes = [file, ...weights].reduce((sum, name) => sum + files[name].size, 0);
    return !inStrips(graphs) && bytes <= SMALL_DECODER_BYTES;
  }

  /**
   * Run the caching graph on a prepared reference.
   * @param {Reference} reference
   * @returns {Promise<Subject>}
   */
  async cache(reference) {
    const latent = await this.encode(reference);
    const noised = noisedReference(latent, this.contract.scheduler, this.contract.cache_timestep);
    const tensors = await this.stage("cache", "cache", (graph) => graph.run({ latent: noised }));
    return { tensors, background: reference.background, thumbnail: reference.thumbnail };
  }

  /**
   * The scaled latent of a reference: the encoder's mean.
   * @param {Reference} reference
   */
  async encode(reference) {
    const { vae, graphs } = this.contract;
    const spec = graphs.vae_encoder;
    const colours = Uint8Array.from(atob(reference.pixels), (sign) => sign.charCodeAt(0));
    const plane = reference.side ** 2;
    const pixels = new Float32Array(3 * plane);
    for (let i = 0; i < plane; i++)
      for (let c = 0; c < 3; c++) pixels[c * plane + i] = f(colours[3 * i + c] / f(127.5)) - 1;
    const output = spec.outputs[0];
    const given = await this.stage("vae_encoder", "vae_encode", (graph) => graph.run({ [spec.inputs[0].name]: pixels }));
    const [, , height, width] = output.shape;
    const mean = given[output.name].slice(0, this.contract.architecture.latent_channels * height * width);
    const shift = f(vae.shift_factor ?? 0);
    const scale = f(vae.scaling_factor);
    return mean.map((value) => f(value - shift) * scale);
  }

  /**
   * What the denoiser reads of prompts.
   * @param {{prompt: string, null: string}} prompts
   * @param {boolean} [weighted] whether they have weights
   */
  async embed(prompts, weighted = false) {
    const spec = this.contract.graphs.text_encoder;
    return this.stage("text_encoder", "text", async (graph) => {
      const read = async (/** @type {string} */ prompt) => {
        /** @type {Float32Array[]} */
        const made = [];
        const { chunks, weights } = this.tokenizer.encode(prompt, weighted);
        for (const [i, chunk] of chunks.entries()) {
          const given = spec.inputs[0].dtype === "int32" ? Int32Array.from(chunk) : BigInt64Array.from(chunk, BigInt);
          const embedding = (await graph.run({ [spec.inputs[0].name]: given }))[spec.outputs[0].name];
          const width = embedding.length / chunk.length;
          made.push(embedding.map((value, j) => value * f(weights[i][Math.floor(j / width)])));
        }
        return joined(made);
      };
      return { prompt: await read(prompts.prompt), null: await read(prompts.null) };
    });
  }

  /**
   * The steps of one picture, with a preview after each, and the picture.
   * @param {Settings} settings
   * @param {Subject | null} subject
   * @param {((step: Drawn) => void) | null} tell null: no previews are made
   * @returns {Promise<Picture>}
   */
  async draw(settings, subject, tell) {
    const scheduler = makeScheduler(this.contract.scheduler, settings.scheduler, settings.steps);
    const prompts = { prompt: settings.prompt, null: settings.negative_prompt };
    const texts = await this.embed(prompts, settings.prompt_weights);
    const noise = noiseSource(BigInt(settings.seed), this.latentSize);
    /** @type {Float32Array} */
    let latent = new Float32Array();
    const every = settings.step_cache ?? 1;
    const between = (/** @type {(shallow: Session | null) => Promise<void>} */ use) =>
      every > 1 ? this.sessions.with("shallow", use) : use(null);
    const steps = async (/** @type {Decode | null} */ decode) =>
      this.stage("denoiser", "denoise", (graph) => between(async (shallow) => {
        const batch = this.contract.architecture.batch;
        const { cache_tensors: specs } = this.facts;
        const denoiser = new Denoiser(graph, batch, texts, subject?.tensors ?? null, specs, shallow, every);
        let began = performance.now();
        for await (const step of trajectory(denoiser, scheduler, settings.guidance, noise)) {
          this.observe("step", performance.now() - began);
          latent = step.latent;
          if (tell !== null) {
            const last = step.index + 1 === step.total;
            const preview = last ? null : await this.preview(decode, step.preview);
            tell({ index: step.index, total: step.total, preview });
          }
          began = performance.now();
        }
      }));
    if (tell !== null && this.decodesPreviews) await withDecoder(this.sessions, steps);
    else await steps(null);
    return withDecoder(this.sessions, (decode) => this.timed("vae_decode", () => this.decoded(decode, latent)));
  }

  /**
   * The picture of a scaled latent.
   * @param {Decode} decode
   * @param {Float32Array} latent
   * @returns {Promise<Picture>}
   */
  async decoded(decode, latent) {
    const { vae, graphs } = this.contract;
    const [scale, shift] = [f(vae.scaling_factor), f(vae.shift_factor ?? 0)];
    const unscaled = latent.map((value) => f(value / scale) + shift);
    const values = await decode(unscaled);
    const [, , height, width] = graphs.vae_decoder.outputs[0].shape;
    const plane = height * width;
    const pixels = new Uint8ClampedArray(4 * plane);
    for (let i = 0; i < plane; i++) {
      // Uint8ClampedArray rounds halves to even, as numpy does.
      for (let c = 0; c < 3; c++) pixels[4 * i + c] = f(Math.min(1, Math.max(0, f(values[c * plane + i] / 2 + 0.5))) * 255);
      pixels[4 * i + 3] = 255;
    }
    return { width, height, pixels };
  }

  /**
   * The picture of a latent where a decoder is open, else three of its channels as colours, which costs nothing.
   * @param {Decode | null} decode
   * @param {Float32Array} latent
   * @returns {Promise<Picture>}
   */
  async preview(decode, latent) {
    if (decode !== null) return this.decoded(decode, latent);
    const { latent_channels: z, latent_height: height, latent_width: width } = this.contract.architecture;
    const plane = width * height;
    const pixels = new Uint8ClampedArray(4 * plane);
    for (let i = 0; i < plane; i++) {
      for (let c = 0; c < 3; c++) pixels[4 * i + c] = 128 + 48 * latent[Math.min(c, z - 1) * plane + i];
      pixels[4 * i + 3] = 255;
    }
    return { width, height, pixels };
  }

  /**
   * Open a graph, use it and tell how long the use took.
   * @template T
   * @param {string} name
   * @param {string} stage
   * @param {(graph: Session) => Promise<T>} use
   */
  stage(name, stage, use) {
    return this.sessions.with(name, (graph) => this.timed(stage, () => use(graph)));
  }

  /**
   * @template T
   * @param {string} stage
   * @param {() => Promise<T>} use
   */
  async timed(stage, use) {
    const began = performance.now();
    const result = await use();
    this.observe(stage, performance.now() - began);
    return result;
  }
}
