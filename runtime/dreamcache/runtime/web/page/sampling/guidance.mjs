/** Guidance as arithmetic over predictions (guidance.py): which (text, strength) pairs, and how they combine. */

import { float32 } from "./schedulers/base.mjs";

/**
 * @typedef {{text: "prompt" | "null", strength: number}} Branch
 * @typedef {object} Guidance
 * @property {string} mode
 * @property {number} guidance_scale s_text
 * @property {number} reference_guidance_scale s_ref
 * @property {number} strength
 */

const f = Math.fround;

/**
 * The predictions to make, in the order in which `combine` takes them.
 * @param {Guidance} guidance
 * @param {boolean} hasReference
 * @returns {Branch[]}
 */
export function branches(guidance, hasReference) {
  const strength = hasReference ? guidance.strength : 0;
  /** @type {(text: "prompt" | "null", strength: number) => Branch} */
  const branch = (text, strength) => ({ text, strength });
  if (guidance.mode === "none") return [branch("prompt", strength)];
  if (guidance.mode === "classic" || !hasReference) return [branch("null", strength), branch("prompt", strength)];
  const middle = guidance.mode === "text_first" ? branch("prompt", 0) : branch("null", strength);
  return [branch("null", 0), middle, branch("prompt", strength)];
}

/**
 * Combine predictions of equal length, one per branch.
 * @param {Guidance} guidance
 * @param {Float32Array[]} predictions
 * @returns {Float32Array}
 */
export function combine(guidance, predictions) {
  const text = f(guidance.guidance_scale);
  const n = predictions[0].length;
  if (predictions.length === 1) return predictions[0];
  if (predictions.length === 2) {
    const [none, prompt] = predictions;
    return float32(n, (i) => none[i] + f(text * f(prompt[i] - none[i])));
  }
  const [stock, middle, both] = predictions;
  const reference = f(guidance.reference_guidance_scale);
  const [first, last] = guidance.mode === "text_first" ? [text, reference] : [reference, text];
  return float32(n, (i) =>
    f(stock[i] + f(last * f(both[i] - middle[i]))) + f(first * f(middle[i] - stock[i])),
  );
}
