/**
 * Decoding in strips of rows: which rows each run of a graph gives, and which graphs run as a chain (decoder_strips.py).
 *
 * @typedef {import("../bundle.mjs").GraphSpec & {kind: string}} StripSpec
 * @typedef {{start: number, first: number, end: number}} Window start: first row read; [first, end): rows newly given
 */

export const UPSAMPLE = "upsample";
export const FIRST = "first_convolution";
export const SECOND = "second_convolution";
/** A 3 × 3 convolution's result is wrong in the row next to a cut. */
const HALO_ROWS = 1;

/**
 * Windows of a fixed number of rows that give every row of the result once, from the top.
 * @param {number} height of the map that is read
 * @param {number} rows of each window
 * @param {number} scale rows of the result for each row read
 * @returns {Generator<Window>}
 */
export function* windows(height, rows, scale) {
  for (let done = 0; done < scale * height; ) {
    const start = nextStart(done, height, rows, scale);
    const end = scale * (start + rows) - (start + rows === height ? 0 : HALO_ROWS);
    yield { start, first: done, end };
    done = end;
  }
}

/**
 * The first row read by the window that goes on after `done` rows of the result.
 * @param {number} done
 * @param {number} height
 * @param {number} rows
 * @param {number} scale
 */
export function nextStart(done, height, rows, scale) {
  return Math.min(Math.floor(Math.max(done - HALO_ROWS, 0) / scale), height - rows);
}

/** @param {StripSpec} strip */
export const scaleOf = ({ kind }) => (kind === UPSAMPLE ? 2 : 1);

/**
 * Whether a graph gives a tensor.
 * @param {StripSpec} strip
 * @param {string} name
 */
export const gives = ({ outputs }, name) => outputs.some((output) => output.name === name);

/**
 * How many of the next graphs run as a chain: 1 where the maps between them may be stored.
 * @param {StripSpec[]} strips
 * @param {number} width of the map that the first one reads
 * @param {number} height
 * @param {number} heldBytes
 */
export function chainLength(strips, width, height, heldBytes) {
  const kinds = strips.slice(0, 3).map(({ kind }) => kind);
  const [channels, made] = [strips[0].inputs[0].shape[1], strips[0].outputs[0].shape[1]];
  const k = scaleOf(strips[0]);
  if (String(kinds) === String([UPSAMPLE, FIRST, SECOND])) return 4 * made * k * height * k * width > heldBytes ? 3 : 1;
  if (kinds[0] === FIRST && kinds[1] === SECOND) {
    // A shortcut's map takes the place of the one that is read; without one, that has to stay.
    const beside = gives(strips[0], "shortcut") ? made : channels;
    return 4 * (beside + made) * height * width > heldBytes ? 2 : 1;
  }
  return 1;
}
