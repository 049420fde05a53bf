/**
 * Is this device right? Every graph that the page runs, on the bundle's golden inputs, against what PyTorch computed
 * in fp32 (docs/concepts/bundle.md, "Golden tensors").
 *
 * The denoiser runs once more at the end: one GPU was right only the first time.
 *
 * @typedef {import("./pipeline.mjs").Pipeline} Pipeline
 * @typedef {import("./safetensors.mjs").Tensor} Tensor
 * @typedef {Record<string, Tensor>} Golden
 * @typedef {{db: Record<string, number>, ratios: {reference: number, text: number}, right: boolean, call_ms: number}} Verdict
 */

import { readSafetensors } from "./safetensors.mjs";
import { withDecoder } from "./sampling/decoding.mjs";
import { sizeOf } from "./sessions.mjs";

/** The file of golden tensors in a bundle. */
export const GOLDEN = "check.safetensors";
const FORMAT = "dreamcache-check-1";
const ALONE = ["text_encoder", "vae_encoder", "cache"];
const DECODER = "vae_decoder";
const CASES = ["denoiser", "denoiser:stock", "denoiser:null"];

/**
 * Decibels of each graph, and the effects of reference and text; null where the bundle holds no golden tensors.
 * @param {Pipeline} pipeline
 * @param {import("./bundle.mjs").BundleFiles} files
 * @param {(name: string, db: number) => void} tell
 * @returns {Promise<Verdict | null>}
 */
export async function selfCheck(pipeline, files, tell) {
  if (!Object.hasOwn(files.records, GOLDEN)) return null;
  const { tensors, metadata } = readSafetensors(await files.bytes(GOLDEN));
  if (metadata.format !== FORMAT) return null;
  const { graphs } = pipeline.contract;
  const gates = pipeline.facts.gates;
  /** @type {Record<string, number>} */
  const db = {};
  for (const name of ALONE) {
    const outputs = await pipeline.stage(name, "check", (graph) => graph.run(inputsOf(tensors, name, graphs[name])));
    db[name] = worst(tensors, name, outputs, gates.max_db);
    tell(name, db[name]);
  }
  const [latent] = Object.values(inputsOf(tensors, DECODER, graphs[DECODER]));
  const values = await withDecoder(pipeline.sessions, (decode) => decode(latent));
  db[DECODER] = worst(tensors, DECODER, { [graphs[DECODER].outputs[0].name]: values }, gates.max_db);
  tell(DECODER, db[DECODER]);
  /** @type {Float32Array[]} */
  const predictions = [];
  let call_ms = Infinity;
  await pipeline.stage("denoiser", "check", async (graph) => {
    db.denoiser = Infinity;
    for (const name of [...CASES, CASES[0]]) {
      const inputs = inputsOf(tensors, name, graphs.denoiser);
      const began = performance.now();
      const outputs = await graph.run(inputs, ["prediction"]);
      call_ms = Math.min(call_ms, performance.now() - began);
      predictions.push(outputs.prediction);
      db.denoiser = Math.min(db.denoiser, worst(tensors, name, outputs, gates.max_db));
    }
  });
  tell("denoiser", db.denoiser);
  const ratios = { reference: effect(tensors, predictions, 1), text: effect(tensors, predictions, 2) };
  const conditioned = Object.values(ratios).every((ratio) => Math.abs(ratio - 1) <= gates.condition_tolerance);
  return { db, ratios, call_ms, right: conditioned && Object.values(db).every((value) => value >= gates.device_db) };
}

/**
 * A case's inputs at the graph's shapes; what it does not store is the plain case's.
 * @param {Golden} golden
 * @param {string} name
 * @param {import("./bundle.mjs").GraphSpec} spec
 */
function inputsOf(golden, name, spec) {
  /** @type {Record<string, any>} */
  const inputs = {};
  for (const { name: input, shape, dtype } of spec.inputs) {
    const stored = golden[`${name}/input/${input}`] ?? golden[`${name.split(":")[0]}/input/${input}`];
    const values = repeated(stored, shape);
    inputs[input] = dtype === "int32" ? Int32Array.from(values, Number) : values;
  }
  return inputs;
}

/**
 * A stored tensor repeated along each axis.
 * @param {Tensor} stored
 * @param {number[]} shape
 */
function repeated({ data, shape: small }, shape) {
  if (String(small) === String(shape)) return data;
  const whole = data instanceof Float32Array ? new Float32Array(sizeOf(shape)) : new BigInt64Array(sizeOf(shape));
  for (let i = 0; i < whole.length; i++) {
    let [rest, at, stride] = [i, 0, 1];
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      at += ((rest % shape[axis]) % small[axis]) * stride;
      stride *= small[axis];
      rest = Math.floor(rest / shape[axis]);
    }
    whole[i] = data[at];
  }
  return whole;
}

/**
 * The stored outputs of a case, each with the values that belong to them.
 * @param {Golden} golden
 * @param {string} name
 * @param {Record<string, Float32Array>} outputs
 * @returns {[Float32Array, Float32Array][]}
 */
function compared(golden, name, outputs) {
  return Object.entries(outputs).flatMap(([output, values]) => {
    const stored = golden[`${name}/output/${output}`]?.data;
    return stored instanceof Float32Array ? [[stored, sampled(values, stored.length)]] : [];
  });
}

/**
 * k of a flat array's values, evenly spread.
 * @param {Float32Array} values
 * @param {number} k
 */
function sampled(values, k) {
  return Float32Array.from({ length: k }, (_, i) => values[Math.floor((i * values.length) / k)]);
}

/**
 * Decibels of a case's worst output: largest stored magnitude over the root mean square error.
 * @param {Golden} golden
 * @param {string} name
 * @param {Record<string, Float32Array>} outputs
 * @param {number} most
 */
function worst(golden, name, outputs, most) {
  const found = compared(golden, name, outputs).map(([stored, values]) => {
    const error = Math.sqrt(distance(stored, values) ** 2 / stored.length);
    const peak = stored.reduce((largest, value) => Math.max(largest, Math.abs(value)), 0);
    if (!Number.isFinite(error)) return -most;
    return Math.max(-most, Math.min(most, error === 0 ? most : 20 * Math.log10(peak / error)));
  });
  return found.length ? Math.min(...found) : -most;
}

/**
 * Distance between the plain case and another one on this device, over the same distance of PyTorch's.
 * @param {Golden} golden
 * @param {Float32Array[]} predictions
 * @param {number} other
 */
function effect(golden, predictions, other) {
  const [wanted, without] = [CASES[0], CASES[other]].map(
    (name) => /** @type {Float32Array} */ (golden[`${name}/output/prediction`].data),
  );
  const ours = [predictions[0], predictions[other]].map((one) => sampled(one, wanted.length));
  return distance(ours[0], ours[1]) / distance(wanted, without);
}

/**
 * @param {Float32Array} one
 * @param {Float32Array} two
 */
function distance(one, two) {
  return Math.sqrt(one.reduce((sum, value, i) => sum + (value - two[i]) ** 2, 0));
}
