/**
 * What was sent and is not acknowledged yet: the messages that a resumed session sends again
 * (PROTOCOL.md §6).
 *
 * A kept message is the buffer that was sent, not a copy. How much may be kept is also what bounds
 * how far this worker runs ahead of a client that reads slowly: it starts small, doubles while the
 * client keeps up with all of it, and halves when acknowledgements come late.
 */

import { skipFrames } from "./frames.js";
import { OVERHEAD } from "./marks.js";

const LEAST = 1 << 20;
/** Milliseconds by which a client's acknowledgement may be late: it waits for up to 100 ms. */
const LATE = 150;

/** @typedef {{ run: Uint8Array, frames: number, at: number }} Run counted frames, sent together */

export class Kept {
  /** Bytes that are kept, with what keeping them costs. */
  bytes = 0;
  /** Bytes that may be, before no more DATA is sent. */
  limit = LEAST;
  /** Counted frames that were sent since the session began. */
  sent;
  /** Those that the client has acknowledged. */
  acknowledged;
  /** @type {Run[]} in the order they were sent, from #first on */
  #runs = [];
  #first = 0;
  #most;
  #buffers;
  #full = false;

  /**
   * @param {number} most bytes
   * @param {import("./buffers.js").Buffers} buffers where what was acknowledged is given back
   * @param {number} sent counted frames that a hibernated session had sent, all acknowledged
   */
  constructor(most, buffers, sent = 0) {
    this.#most = most;
    this.#buffers = buffers;
    this.sent = this.acknowledged = sent;
  }

  /** Bytes of DATA that may still be sent. */
  get room() {
    const room = this.limit - this.bytes;
    if (room <= 0) this.#full = true;
    return room;
  }

  /**
   * Keeps a run of counted frames that is being sent.
   *
   * @param {Uint8Array} run
   * @param {number} frames
   * @param {number} now ms
   */
  add(run, frames, now) {
    this.#runs.push({ run, frames, at: now });
    this.bytes += run.length + OVERHEAD;
    this.sent += frames;
  }

  /**
   * @param {number} count counted frames that the client has taken
   * @returns {boolean} false: that is less than it said before, or more than was sent
   */
  covers(count) {
    return count >= this.acknowledged && count <= this.sent;
  }

  /**
   * Frees what the client has taken.
   *
   * @param {number} count for which `covers` is true
   * @param {number} now ms
   * @param {number} trip the round trip (ms), 0 where none was measured
   */
  acknowledge(count, now, trip) {
    let late = 0;
    const runs = this.#runs;
    while (this.#first < runs.length && this.acknowledged + runs[this.#first].frames <= count) {
      const { run, frames, at } = runs[this.#first++];
      this.acknowledged += frames;
      this.bytes -= run.length + OVERHEAD;
      this.#buffers.give(run.buffer);
      late = now - at;
    }
    if (this.#first === runs.length || this.#first > 1024) {
      runs.splice(0, this.#first);
      this.#first = 0;
    }
    if (this.#full && late <= 2 * trip + LATE) this.limit = Math.min(this.limit * 2, this.#most);
    else if (late > 4 * trip + 1000) this.limit = Math.max(this.limit / 2, LEAST);
    this.#full = false;
  }

  /**
   * What a resumed session sends again, when `received` frames were taken.
   *
   * @param {number} received for which `covers` is true
   * @param {number} now ms
   * @returns {Uint8Array[]}
   */
  resend(received, now) {
    this.acknowledge(received, now, 0);
    const taken = received - this.acknowledged;
    if (taken) {
      const first = this.#runs[this.#first];
      const cut = skipFrames(first.run, taken);
      this.bytes -= cut;
      first.run = first.run.subarray(cut);
      first.frames -= taken;
      this.acknowledged = received;
    }
    const again = this.#runs.slice(this.#first);
    for (const run of again) run.at = now;
    return again.map(({ run }) => run);
  }

  /** Forgets all: the session is over. */
  clear() {
    this.#runs = [];
    this.#first = 0;
    this.bytes = 0;
  }
}
