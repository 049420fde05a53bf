/** Prompts to token ids, the way of CLIP's tokenizer (prompts.py); the desk sends the tokenizer's rules as JSON. */

/**
 * @typedef {{encode: (text: string, options: object) => {ids: number[], tokens: string[]}}} Encoder
 * @typedef {{bos_id: number, eos_id: number, pad_id: number, vectors: Record<string, number>}} TextSpec
 * @typedef {{chunks: number[][], weights: number[][], lost: number}} Prompt weights: of each token; lost: tokens that
 *   are not read
 */

import { weightedParts } from "./prompt_weights.mjs";

/** Token ids of prompts in chunks that are padded to the text encoder's length; longer ones are cut. */
export class PromptTokenizer {
  /**
   * @param {Encoder} encoder
   * @param {TextSpec} text
   * @param {number} length
   * @param {number} count of chunks
   */
  constructor(encoder, text, length, count) {
    this.encoder = encoder;
    this.text = text;
    this.length = length;
    this.count = count;
  }

  /**
   * Each chunk: start, the prompt's tokens, end, padding. A prompt of fewer chunks is repeated as often as it fits.
   * @param {string} prompt
   * @param {boolean} [weighted] whether the prompt has weights, whose pieces become tokens each by itself
   * @returns {Prompt}
   */
  encode(prompt, weighted = false) {
    const { bos_id: bos, eos_id: eos, pad_id: pad } = this.text;
    /** @type {[number, number][]} ids and weights */
    const found = [];
    for (const [part, weight] of weighted ? weightedParts(prompt) : [/** @type {[string, number]} */ ([prompt, 1])])
      for (const id of this.encoded(this.expanded(part)).ids) found.push([id, weight]);
    const room = this.length - 2;
    /** @type {(part: [number, number][]) => [number, number][]} */
    const chunk = (part) => [[bos, 1], ...part, [eos, 1], ...Array(room - part.length).fill([pad, 1])];
    const used = Math.min(this.count, Math.max(1, Math.ceil(found.length / room)));
    const repeated = used * Math.floor(this.count / used);
    const rows = Array.from({ length: this.count }, (_, i) =>
      chunk(i < repeated ? found.slice((i % used) * room, ((i % used) + 1) * room) : []),
    );
    return {
      chunks: rows.map((row) => row.map(([id]) => id)),
      weights: rows.map((row) => row.map(([, weight]) => weight)),
      lost: Math.max(0, found.length - used * room),
    };
  }

  /**
   * The prompt with every token of several vectors spelled out.
   * @param {string} prompt
   */
  expanded(prompt) {
    const { vectors } = this.text;
    if (Object.keys(vectors).length === 0) return prompt;
    const found = new Set(this.encoded(prompt).tokens);
    for (const token of Object.keys(vectors).sort()) {
      if (!found.has(token)) continue;
      const spelled = [token, ...Array.from({ length: vectors[token] - 1 }, (_, i) => `${token}_${i + 1}`)];
      prompt = prompt.replaceAll(token, spelled.join(" "));
    }
    return prompt;
  }

  /** @param {string} prompt */
  encoded(prompt) {
    return this.encoder.encode(prompt, { add_special_tokens: false });
  }
}
