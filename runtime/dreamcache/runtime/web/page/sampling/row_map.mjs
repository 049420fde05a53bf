/** @typedef {{data: Float32Array, rows: number}} Strip rows of a map: [c, rows, w] */

/** A feature map [1, c, h, w] in strips of rows, made and given up a strip at a time from the top. */
export class RowMap {
  /**
   * @param {number} channels
   * @param {number} width
   * @param {number | null} height of the whole map; null: what there is
   * @param {(() => Promise<void>) | null} fill makes further rows
   */
  constructor(channels, width, height = null, fill = null) {
    this.channels = channels;
    this.width = width;
    this.whole = height;
    this.fill = fill;
    /** @type {Strip[]} */
    this.strips = [];
    this.top = 0;
    this.made = 0;
    /** Whether nothing is given up for now. */
    this.kept = false;
    /** @type {number | null} the first row that a second reader still needs */
    this.neededFrom = null;
  }

  get height() {
    return this.whole ?? this.made;
  }

  /**
   * Add rows below.
   * @param {Float32Array} data
   */
  append(data) {
    const rows = data.length / (this.channels * this.width);
    this.strips.push({ data, rows });
    this.made += rows;
  }

  /**
   * A copy of rows [start, end), none of which may have been given up.
   * @param {number} start
   * @param {number} end
   */
  async rows(start, end) {
    while (end > this.made && this.fill !== null) await this.fill();
    if (start < this.top || end > this.made) throw new Error(`rows ${start} to ${end} are not there`);
    const { channels, width } = this;
    const copied = new Float32Array(channels * (end - start) * width);
    let above = this.top;
    for (const { data, rows } of this.strips) {
      const [from, to] = [Math.max(start, above), Math.min(end, above + rows)];
      for (let c = 0; c < channels && from < to; c++) {
        const part = data.subarray((c * rows + from - above) * width, (c * rows + to - above) * width);
        copied.set(part, (c * (end - start) + from - start) * width);
      }
      above += rows;
    }
    return copied;
  }

  /**
   * Release the strips that lie wholly above a row, as far as nobody else needs them.
   * @param {number} row
   */
  giveUp(row) {
    const last = this.neededFrom === null ? row : Math.min(row, this.neededFrom);
    while (!this.kept && this.strips.length > 0 && this.top + this.strips[0].rows <= last)
      this.top += /** @type {Strip} */ (this.strips.shift()).rows;
  }

  /** Release all of it. */
  clear() {
    this.strips = [];
    this.fill = null;
  }
}
