/** Prompts to token ids, the way of CLIP's tokenizer (prompts.py); the desk sends the tokenizer's rules as JSON. */

/**
 * @typedef {{encode: (text: string, options: object) => {ids: number[], tokens: string[]}}} Encoder
 * @typedef {{bos_id: number, eos_id: number, pad_id: number, vectors: Record<string, number>}} TextSpec
 * @typedef {{ids: number[], lost: number}} Prompt lost: tokens that the text encoder does not read
 */

/** Token ids of prompts, padded and cut to the text encoder's length. */
export class PromptTokenizer {
  /**
   * @param {Encoder} encoder
   * @param {TextSpec} text
   * @param {number} length
   */
  constructor(encoder, text, length) {
    this.encoder = encoder;
    this.text = text;
    this.length = length;
  }

  /**
   * Start, the prompt's tokens, end, padding.
   * @param {string} prompt
   * @returns {Prompt}
   */
  encode(prompt) {
    const { bos_id: bos, eos_id: eos, pad_id: pad } = this.text;
    const found = this.encoded(this.expanded(prompt)).ids;
    const room = this.length - 2;
    const ids = [bos, ...found.slice(0, room), eos];
    return { ids: [...ids, ...Array(this.length - ids.length).fill(pad)], lost: Math.max(0, found.length - room) };
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
