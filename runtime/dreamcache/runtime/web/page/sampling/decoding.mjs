/**
 * From an unscaled latent to a picture's values: the decoder in one graph, or in strips of rows (decoding.py).
 *
 * A bundle that has strips is decoded in strips, in a part of the memory: whole, Stable Diffusion's decoder at 512 px binds more
 * at once than many GPUs may.
 *
 * @typedef {import("../sessions.mjs").Session} Session
 * @typedef {import("../sessions.mjs").SessionOpener} SessionOpener
 * @typedef {import("../bundle.mjs").GraphSpec} GraphSpec
 * @typedef {(latent: Float32Array) => Promise<Float32Array>} Decode unscaled latent -> picture [3, H, W] in -1…1
 */

import { chainLength, scaleOf } from "./decoder_strips.mjs";
import { RowMap } from "./row_map.mjs";
import { runChain, runStrip } from "./strips.mjs";

/** Maps that lie beside each other are stored up to this size, and made again above. */
const HELD_BYTES = 1 << 27;
const HEAD = "vae_decoder_head";
const stripName = (/** @type {number} */ index) => `vae_decoder_strip_${index}`;

/**
 * Names of the graphs that a bundle is decoded with.
 * @param {any} graphs of the contract, strips by name too
 * @returns {string[]}
 */
export function decoderGraphs(graphs) {
  return inStrips(graphs) ? [HEAD, ...graphs.vae_decoder_strips.map((/** @type {any} */ _, /** @type {number} */ i) => stripName(i))] : ["vae_decoder"];
}

/** @param {any} graphs */
export const inStrips = (graphs) => Boolean(graphs[HEAD]);

/**
 * Use a decoder: open in between where it is whole, strip after strip within each call where it is not.
 * @template T
 * @param {SessionOpener} sessions
 * @param {(decode: Decode) => Promise<T>} use
 * @returns {Promise<T>}
 */
export async function withDecoder(sessions, use) {
  const graphs = /** @type {any} */ (sessions.graphs);
  if (inStrips(graphs)) return sessions.files.holding(graphs[HEAD].weights, () => use((latent) => decodeInStrips(sessions, latent)));
  const { inputs, outputs } = graphs.vae_decoder;
  return sessions.with("vae_decoder", (graph) =>
    use(async (latent) => (await graph.run({ [inputs[0].name]: latent }))[outputs[0].name]),
  );
}

/**
 * One graph or chain after the other.
 * @param {{with: SessionOpener["with"], graphs: any}} sessions
 * @param {Float32Array} latent
 * @param {number} [heldBytes]
 */
export async function decodeInStrips(sessions, latent, heldBytes = HELD_BYTES) {
  const { [HEAD]: head, vae_decoder_strips: strips } = sessions.graphs;
  let [, channels, , width] = head.outputs[0].shape;
  const given = await sessions.with(HEAD, (graph) => graph.run({ [head.inputs[0].name]: latent }));
  const features = new RowMap(channels, width);
  features.append(given[head.outputs[0].name]);
  /** @type {import("./strips.mjs").StripState} */
  let state = { features, residual: null, statistics: new Float32Array() };
  for (let index = 0; index < strips.length; ) {
    const count = chainLength(strips.slice(index), width, state.features.height, heldBytes);
    const chain = strips.slice(index, index + count);
    const read = state;
    state = await together(sessions, chain.map((/** @type {any} */ _, /** @type {number} */ i) => stripName(index + i)), (graphs) =>
      count === 1 ? runStrip(graphs[0], chain[0], read) : runChain(graphs, chain, read),
    );
    width *= scaleOf(chain[0]);
    index += count;
  }
  return state.features.rows(0, state.features.height);
}

/**
 * Use several graphs at once.
 * @template T
 * @param {{with: SessionOpener["with"]}} sessions
 * @param {string[]} names
 * @param {(graphs: Session[]) => Promise<T>} use
 * @param {Session[]} [opened]
 * @returns {Promise<T>}
 */
function together(sessions, [name, ...others], use, opened = []) {
  if (name === undefined) return use(opened);
  return sessions.with(name, (graph) => together(sessions, others, use, [...opened, graph]));
}
