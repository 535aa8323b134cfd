/**
 * Flow control of what the client sends: what this worker grants (PROTOCOL.md §4).
 *
 * A WebSocket's messages cannot be held up here, so credit is the only thing that bounds what a
 * client may send into the 128 MB of an isolate. A window starts at what HELLO said and doubles when
 * it is taken whole within two round trips, out of one budget for all streams; it shrinks again when
 * the far end has become slow or others need the budget.
 */

const MAX_GROWTH = 4 << 20;
const QUICK = 2;
const SLOW = 16;
/** Milliseconds that two busy machines may need on the shortest path. */
const MIN_TRIP = 20;

/** Bytes by which all windows together may exceed what HELLO said. */
export class Budget {
  /** @param {number} size */
  constructor(size) {
    this.size = size;
    this.used = 0;
  }

  /**
   * @param {number} surplus what a window has of it
   * @returns {number} by how much that window may grow; negative: it has to shrink
   */
  room(surplus) {
    return Math.trunc((this.size - this.used - surplus) / 2);
  }
}

/** The receiving direction of one stream. */
export class ReceiveWindow {
  /** Bytes of credit that the client has. */
  available;
  /** Bytes that came and were not passed on yet. */
  held = 0;
  #size;
  #initial;
  #consumed = 0;
  /** When the window that is being consumed was granted (ms); 0: nothing has come yet. */
  #since = 0;
  #budget;

  /**
   * @param {number} size bytes
   * @param {Budget} budget
   */
  constructor(size, budget) {
    this.available = this.#size = this.#initial = size;
    this.#budget = budget;
  }

  /**
   * Counts bytes that came.
   *
   * @param {number} size
   * @param {number} now ms
   * @returns {boolean} false: that is more than was granted
   */
  take(size, now) {
    if (size > this.available) return false;
    this.available -= size;
    this.held += size;
    this.#since ||= now;
    return true;
  }

  /**
   * Counts bytes that were passed on.
   *
   * @param {number} size
   * @param {number} now ms
   * @param {number} trip the round trip (ms), 0 where none was measured
   * @returns {number} the credit to grant now, 0: none yet
   */
  consume(size, now, trip) {
    this.held -= size;
    this.#consumed += size;
    if (this.#consumed * 2 < this.#size) return 0;
    const credit = this.#consumed;
    this.#consumed = 0;
    const surplus = this.#size - this.#initial;
    const room = this.#budget.room(surplus);
    let change = 0;
    if (room < 0) {
      change = -Math.min(credit, surplus, -room);
    } else if (trip && this.#since) {
      const drain = ((now - this.#since) * this.#size) / credit;
      const least = Math.max(trip, MIN_TRIP);
      if (drain < QUICK * least) {
        change = Math.max(0, Math.min(this.#size, MAX_GROWTH - this.#size, room));
      } else if (drain > SLOW * least) {
        change = -Math.min(credit >> 1, surplus);
      }
    }
    this.#budget.used += change;
    this.#size += change;
    this.#since = now;
    this.available += credit + change;
    return credit + change;
  }

  /** Gives the surplus back: the stream is gone. */
  release() {
    this.#budget.used -= this.#size - this.#initial;
    this.#size = this.#initial;
  }
}
