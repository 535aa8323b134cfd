/**
 * How much of what was sent has arrived, for what no ACK covers: a PING every 256 KiB, whose PONG
 * says that all before it has come (messages arrive in order). Also measures the round trip. And what
 * the WebSocket itself holds, whatever the client says.
 */

const EVERY = 256 << 10;
/** Bytes that a message which waits costs beside what is in it, as measured. */
export const OVERHEAD = 1024;
/** Messages that are counted together. */
const GROUP = 64;
/** Milliseconds after which the round trip is measured again, while data flows. */
const STALE = 5000;

export class Marks {
  /** Bytes that were sent and are not known to have arrived, with what their messages cost. */
  inFlight = 0;
  /** Round trip, smoothed (ms); 0: none was measured. */
  trip = 0;
  #unmarked = 0;
  /** @type {{ bytes: number, at: number }[]} PINGs without a PONG */
  #pings = [];
  #last = 0;

  /**
   * Counts a message that was sent.
   *
   * @param {number} bytes
   * @returns {boolean} a PING is to follow it, and `pinged` to be called
   */
  sent(bytes) {
    this.inFlight += bytes + OVERHEAD;
    this.#unmarked += bytes + OVERHEAD;
    return this.#unmarked >= EVERY;
  }

  /**
   * @param {number} now ms
   * @returns {boolean} the round trip is not known, or not lately
   */
  isStale(now) {
    return !this.#pings.length && now - this.#last >= STALE;
  }

  /** @param {number} now ms */
  pinged(now) {
    this.#pings.push({ bytes: this.#unmarked, at: now });
    this.#unmarked = 0;
    this.#last = now;
  }

  /**
   * A PONG has come; one to no PING is ignored.
   *
   * @param {number} now ms
   */
  ponged(now) {
    const ping = this.#pings.shift();
    if (!ping) return;
    this.inFlight -= ping.bytes;
    const sample = Math.max(now - ping.at, 1);
    this.trip += (sample - this.trip) * (this.trip ? 0.25 : 1);
  }

  /** The WebSocket is lost: what comes next is for another. */
  clear() {
    this.inFlight = this.#unmarked = 0;
    this.#pings = [];
  }
}

/** What waits in a WebSocket, as its `bufferedAmount` says, with what the messages cost. */
export class Backlog {
  #sent = 0;
  #messages = 0;
  /** @type {number[]} of each group of messages that waits, where it ended among all bytes */
  #groups = [];

  /**
   * Counts a message that was sent.
   *
   * @param {number} bytes
   */
  sent(bytes) {
    this.#sent += bytes;
    if (++this.#messages % GROUP === 0) this.#groups.push(this.#sent);
  }

  /**
   * @param {WebSocket | null} socket
   * @returns {number} bytes
   */
  size(socket) {
    const buffered = socket?.bufferedAmount ?? 0;
    const gone = this.#sent - buffered;
    const first = this.#groups.findIndex((end) => end > gone);
    this.#groups.splice(0, first < 0 ? this.#groups.length : first);
    return buffered + this.#groups.length * GROUP * OVERHEAD;
  }

  /** Another WebSocket is next. */
  clear() {
    this.#sent = 0;
    this.#groups = [];
  }
}
