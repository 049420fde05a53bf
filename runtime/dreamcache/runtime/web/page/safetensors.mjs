/**
 * Named float32 and int64 tensors with metadata in one file: huggingface/safetensors, README.md, "Format".
 *
 * @typedef {{data: Float32Array | BigInt64Array, shape: number[]}} Tensor
 * @typedef {{tensors: Record<string, Tensor>, metadata: Record<string, string>}} Contents
 */

const MAX_HEADER_BYTES = 4 << 20;
/** @type {Record<string, Float32ArrayConstructor | BigInt64ArrayConstructor>} */
const ARRAYS = { F32: Float32Array, I64: BigInt64Array };

/** A file that is not what its name says. */
export class FileError extends Error {}

/**
 * The bytes of a file of float32 tensors, in the order of their names.
 * @param {{tensors: Record<string, {data: Float32Array, shape: number[]}>, metadata: Record<string, string>}} contents
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function writeSafetensors({ tensors, metadata }) {
  const names = Object.keys(tensors).sort();
  /** @type {Record<string, object>} */
  const header = { __metadata__: metadata };
  let end = 0;
  for (const name of names) {
    const begin = end;
    end += 4 * tensors[name].data.length;
    header[name] = { dtype: "F32", shape: tensors[name].shape, data_offsets: [begin, end] };
  }
  let text = JSON.stringify(header);
  let encoded = new TextEncoder().encode(text);
  text += " ".repeat((8 - (encoded.length % 8)) % 8);
  encoded = new TextEncoder().encode(text);
  const file = new Uint8Array(8 + encoded.length + end);
  new DataView(file.buffer).setBigUint64(0, BigInt(encoded.length), true);
  file.set(encoded, 8);
  // The header ends at a multiple of 8, and every device with a browser is little-endian.
  const body = new Float32Array(file.buffer, 8 + encoded.length);
  let at = 0;
  for (const name of names) {
    body.set(tensors[name].data, at);
    at += tensors[name].data.length;
  }
  return file;
}

/**
 * Read a file; sizes are compared before anything is made of them.
 * @param {Uint8Array} file
 * @returns {Contents}
 */
export function readSafetensors(file) {
  const damaged = (/** @type {string} */ why) => new FileError(`this is not a complete safetensors file (${why})`);
  if (file.length < 8) throw damaged("no header");
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const length = Number(view.getBigUint64(0, true));
  if (length > MAX_HEADER_BYTES || 8 + length > file.length) throw damaged("its header is cut");
  /** @type {Record<string, any>} */
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(file.subarray(8, 8 + length)));
  } catch {
    throw damaged("its header is no JSON");
  }
  if (header === null || typeof header !== "object") throw damaged("its header is no table");
  /** @type {Contents} */
  const contents = { tensors: {}, metadata: {} };
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") {
      contents.metadata = entry;
      continue;
    }
    const [begin, end] = entry?.data_offsets ?? [];
    const shape = entry?.shape;
    const whole = (/** @type {any} */ value) => Number.isInteger(value) && value >= 0;
    const known = typeof entry?.dtype === "string" && Object.hasOwn(ARRAYS, entry.dtype);
    if (!known || !Array.isArray(shape) || !shape.every(whole) || !whole(begin) || !whole(end))
      throw damaged(`${name} is no tensor of a known kind`);
    const [kind, count] = [ARRAYS[entry.dtype], shape.reduce((product, side) => product * side, 1)];
    if (end - begin !== kind.BYTES_PER_ELEMENT * count || 8 + length + end > file.length) throw damaged(`${name} is cut`);
    // A copy, since the body need not begin at a multiple of four.
    const start = file.byteOffset + 8 + length;
    const data = new kind(/** @type {ArrayBuffer} */ (file.buffer).slice(start + begin, start + end));
    contents.tensors[name] = { data, shape };
  }
  return contents;
}
