/**
 * Running the decoder's strip graphs over maps that are made and given up row by row (strips.py): the same windows, chains
 * and statistics, so that the picture is Python's but for the engine's rounding.
 *
 * @typedef {import("../sessions.mjs").Session} Session
 * @typedef {import("./decoder_strips.mjs").StripSpec} StripSpec
 * @typedef {{features: RowMap, residual: RowMap | null, statistics: Float32Array}} StripState statistics: [2, groups],
 *   mean and variance of the features
 */

import { FIRST, SECOND, gives, nextStart, scaleOf, windows } from "./decoder_strips.mjs";
import { RowMap } from "./row_map.mjs";

/**
 * Run one graph over the whole map; the maps it reads are given up on the way, unless still needed.
 * @param {Session} graph
 * @param {StripSpec} strip
 * @param {StripState} state
 * @returns {Promise<StripState>}
 */
export async function runStrip(graph, strip, state) {
  const [result, shortcut] = mapsOf(strip);
  const sums = [];
  for await (const given of windowsOf(graph, strip, state)) {
    append(given, result, shortcut);
    if (given.sums !== undefined) sums.push(given.sums);
  }
  return { features: result, residual: residualOf(strip, state, shortcut), statistics: statisticsOf(strip, sums, result.height) };
}

/**
 * Run several graphs of which only the last one's result is stored; the others run once more for each statistic.
 * @param {Session[]} graphs
 * @param {StripSpec[]} strips
 * @param {StripState} state
 * @returns {Promise<StripState>}
 */
export async function runChain(graphs, strips, state) {
  const known = [state.statistics];
  for (let count = 1; count < strips.length; count++) {
    state.features.kept = true;
    const states = streamed(graphs, strips, state, known, count);
    const strip = strips[count - 1];
    const last = states[states.length - 1];
    const height = scaleOf(strip) * last.features.height;
    const sums = [];
    for await (const given of windowsOf(graphs[count - 1], strip, last)) sums.push(given.sums);
    known.push(statisticsOf(strip, sums, height));
    clear(states);
  }
  state.features.kept = false;
  const states = streamed(graphs, strips, state, known, strips.length);
  const end = strips.length - 1;
  const done = await runStrip(graphs[end], strips[end], states[states.length - 1]);
  clear(states);
  return done;
}

/**
 * What a graph gives, from the top: the rows that each window newly gives.
 * @param {Session} graph
 * @param {StripSpec} strip
 * @param {StripState} state
 * @returns {AsyncGenerator<Record<string, Float32Array>>}
 */
async function* windowsOf(graph, strip, { features, residual, statistics }) {
  const [rows, k] = [strip.inputs[0].shape[2], scaleOf(strip)];
  const isResidual = strip.kind === FIRST && !gives(strip, "shortcut");
  features.neededFrom = isResidual ? 0 : null;
  const { height } = features;
  for (const window of windows(height, rows, k)) {
    /** @type {Record<string, Float32Array>} */
    const feed = { features: await features.rows(window.start, window.start + rows), statistics };
    if (residual !== null && strip.kind === SECOND) feed.residual = await residual.rows(window.start, window.start + rows);
    const given = await graph.run(feed);
    const counted = /** @type {const} */ ([window.first - k * window.start, window.end - k * window.start]);
    for (const { name, shape } of strip.outputs) given[name] = cutRows(given[name], shape, ...counted);
    yield given;
    const above = nextStart(window.end, height, rows, k);
    if (isResidual) features.neededFrom = above;
    else features.giveUp(above);
    if (strip.kind === SECOND) residual?.giveUp(above);
  }
  features.neededFrom = null;
}

/**
 * Rows [from, to) of a tensor [a, b, rows, …].
 * @param {Float32Array} data
 * @param {number[]} shape
 * @param {number} from
 * @param {number} to
 */
function cutRows(data, shape, from, to) {
  const [rows, width] = [shape[2], shape[3] ?? 1];
  const planes = shape[0] * shape[1];
  const cut = new Float32Array(planes * (to - from) * width);
  for (let plane = 0; plane < planes; plane++)
    cut.set(data.subarray((plane * rows + from) * width, (plane * rows + to) * width), plane * (to - from) * width);
  return cut;
}

/**
 * The states that `count` graphs of a chain read: the first one's is there, the others are computed when they are asked for.
 * @param {Session[]} graphs
 * @param {StripSpec[]} strips
 * @param {StripState} state
 * @param {Float32Array[]} known statistics that each graph reads
 * @param {number} count
 */
function streamed(graphs, strips, state, known, count) {
  const states = [state];
  for (let i = 0; i + 1 < count; i++) {
    const read = states[i];
    const given = windowsOf(graphs[i], strips[i], read);
    const fill = async () => append((await given.next()).value, result, shortcut);
    const [result, shortcut] = mapsOf(strips[i], scaleOf(strips[i]) * read.features.height, fill);
    states.push({ features: result, residual: residualOf(strips[i], read, shortcut), statistics: known[i + 1] });
  }
  return states;
}

/**
 * Maps for a graph's result and its shortcut, which has the result's size.
 * @param {StripSpec} strip
 * @param {number | null} [height]
 * @param {(() => Promise<void>) | null} [fill]
 */
function mapsOf({ outputs }, height = null, fill = null) {
  const [, channels, , width] = outputs[0].shape;
  return [new RowMap(channels, width, height, fill), new RowMap(channels, width, height, fill)];
}

/**
 * @param {Record<string, Float32Array>} given
 * @param {RowMap} result
 * @param {RowMap} shortcut
 */
function append(given, result, shortcut) {
  result.append(given.result);
  if (given.shortcut !== undefined) shortcut.append(given.shortcut);
}

/**
 * @param {StripSpec} strip
 * @param {StripState} state
 * @param {RowMap} shortcut
 */
function residualOf(strip, state, shortcut) {
  if (strip.kind !== FIRST) return null;
  return gives(strip, "shortcut") ? shortcut : state.features;
}

/**
 * Give up the maps that a chain made for itself.
 * @param {StripState[]} states
 */
function clear([first, ...made]) {
  for (const { features, residual } of made) {
    features.clear();
    if (residual !== first.features) residual?.clear();
  }
}

/**
 * [2, groups]: mean and variance of a result of so many rows, from the sums of each window.
 * @param {StripSpec} strip
 * @param {Float32Array[]} sums [2, groups, rows] each
 * @param {number} height
 */
function statisticsOf(strip, sums, height) {
  if (sums.length === 0) return new Float32Array();
  const [, channels, , width] = strip.outputs[0].shape;
  const groups = strip.outputs[strip.outputs.length - 1].shape[1];
  const count = (channels * width * height) / groups;
  const totals = new Float64Array(2 * groups);
  for (const one of sums) {
    const rows = one.length / totals.length;
    for (let i = 0; i < one.length; i++) totals[Math.floor(i / rows)] += one[i];
  }
  const means = totals.map((total) => total / count);
  return Float32Array.from(means, (value, i) => (i < groups ? value : Math.max(value - means[i - groups] ** 2, 0)));
}
