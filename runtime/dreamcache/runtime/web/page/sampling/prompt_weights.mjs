/** Weights inside a prompt, `(word:1.3)`, `(word)` and `[word]`: the syntax and arithmetic of prompt_weights.py. */

/**
 * @typedef {[string, number]} Part a piece of a prompt and its weight
 */

const EMPHASIS = 1.1;
const MOST = 100;
const MOST_OPEN = 64;
// An escaped character, a bracket, a weight with the bracket that ends it, or text up to the next of those.
const PIECE = /\\[\\()[\]]|[()[\]]|:[ \t\n\r\f\v]*([+-]?[.0-9]+)[ \t\n\r\f\v]*\)|\\|:|[^\\()[\]:]+/g;
const WEIGHT = /\([^()]*:[ \t\n\r\f\v]*[+-]?[.0-9]+[ \t\n\r\f\v]*\)/;

/** A weight that cannot be read. */
export class PromptError extends Error {}

/**
 * Whether a prompt looks as if it had a weight.
 * @param {string} prompt
 */
export function looksWeighted(prompt) {
  return WEIGHT.test(prompt);
}

/**
 * The pieces of a prompt, with equal neighbours joined; the empty prompt is one empty piece.
 * @param {string} prompt
 * @returns {Part[]}
 */
export function weightedParts(prompt) {
  /** @type {Part[]} */
  const pieces = [];
  /** @type {{"(": number[], "[": number[]}} the piece at which each open bracket began */
  const opened = { "(": [], "[": [] };
  /** @type {(bracket: "(" | "[", weight: number) => void} */
  const multiply = (bracket, weight) => {
    for (let i = /** @type {number} */ (opened[bracket].pop()); i < pieces.length; i++) pieces[i][1] *= weight;
  };
  for (const [text, number] of prompt.matchAll(PIECE)) {
    if (text === "(" || text === "[") {
      opened[text].push(pieces.length);
      if (opened["("].length + opened["["].length > MOST_OPEN)
        throw new PromptError(`prompt: at most ${MOST_OPEN} brackets inside each other are expected, received more`);
    } else if (number !== undefined && opened["("].length) multiply("(", numberOf(number));
    else if (text === ")" && opened["("].length) multiply("(", EMPHASIS);
    else if (text === "]" && opened["["].length) multiply("[", 1 / EMPHASIS);
    else pieces.push([text.length === 2 && text[0] === "\\" ? text[1] : text, 1]);
  }
  while (opened["("].length) multiply("(", EMPHASIS);
  while (opened["["].length) multiply("[", 1 / EMPHASIS);
  return joined(pieces);
}

/** @param {Part[]} pieces */
function joined(pieces) {
  /** @type {Part[]} */
  const found = [];
  for (const [text, weight] of pieces) {
    if (!(Math.abs(weight) <= MOST))
      throw new PromptError(
        `prompt: weights within ±${MOST} are expected, received ${Number(weight.toPrecision(6))} on ${short(text)}`,
      );
    const last = found[found.length - 1];
    if (last?.[1] === weight) last[0] += text;
    else found.push([text, weight]);
  }
  return found.length ? found : [/** @type {Part} */ (["", 1])];
}

/**
 * Of a text, as much as a sentence holds.
 * @param {string} text
 */
const short = (text) => `"${text.length > 30 ? `${text.slice(0, 27)}…` : text}"`;

/** @param {string} text */
function numberOf(text) {
  const number = Number(text);
  if (Number.isNaN(number)) throw new PromptError(`prompt: a weight such as 1.3 is expected, received ${short(text)}`);
  return number;
}
