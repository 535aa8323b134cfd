/**
 * Buffers that far ends are read into, used again once what is in them was acknowledged: new ones
 * would be most of what this worker allocates.
 */

/** Buffers that wait to be used again. */
const MOST = 16;

export class Buffers {
  /** Bytes of each. */
  size;
  /** @type {ArrayBuffer[]} */
  #spare = [];

  /** @param {number} size */
  constructor(size) {
    this.size = size;
  }

  /**
   * @param {number} least bytes that are needed
   * @returns {ArrayBuffer} of that size, or larger
   */
  take(least) {
    if (least * 2 <= this.size || least > this.size) return new ArrayBuffer(least);
    return this.#spare.pop() ?? new ArrayBuffer(this.size);
  }

  /** @param {ArrayBufferLike} buffer which nobody needs any more */
  give(buffer) {
    if (buffer.byteLength !== this.size || this.#spare.length >= MOST) return;
    this.#spare.push(/** @type {ArrayBuffer} */ (buffer));
  }
}
