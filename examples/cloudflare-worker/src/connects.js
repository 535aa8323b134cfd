/**
 * Outgoing connections within what the platform allows.
 *
 * At most six may be connecting at a time, the `fetch`es to the resolver among them; the seventh is
 * queued by the platform, where nobody can tell it from a far end that does not answer. So the queue
 * is here: five connect at most, and one place stays free for the resolver.
 *
 * A platform that still counts *open* sockets among the six would leave a connect pending for ever.
 * That looks like a far end that does not answer, too; but it can only be where six are open or
 * connecting, and not once a connect has succeeded beside six others. Until that is known, such a
 * connect is answered 429, which sends the client to another object, and this one takes no more
 * than it has for a while.
 */

import { Code } from "./frames.js";
import { connect } from "./sockets.js";

/** Connects, fetches, and both together, at a time: a resolver that is silent must not hold up connects. */
const CONNECTS = 5;
const FETCHES = 3;
const PLACES = 6;
/** Milliseconds for a connect, and for its place in the queue. */
const CONNECT_MS = 10000;
/** Milliseconds after which a connect that the platform may hold up is taken for held up. */
const HELD_UP_MS = 5000;
/** Milliseconds after which more than six are tried again. */
const LESS_ROOM_MS = 60000;

/** What the platform says when an object has made as many as it may. */
const TOO_MANY_SUBREQUESTS = /too many subrequests/i;

/** Why there is no connection; `code` is that of ERROR (PROTOCOL.md §4). */
export class ConnectError extends Error {
  /**
   * @param {number} code
   * @param {string} message
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/** A socket that is open; it counts until it is closed. */
export class Connection {
  #closed = false;
  #onClose;

  /**
   * @param {Socket} socket
   * @param {() => void} onClose
   */
  constructor(socket, onClose) {
    this.socket = socket;
    this.#onClose = onClose;
    socket.closed.catch(() => {}); // reads and writes tell
  }

  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.socket.close().catch(() => {});
    this.#onClose();
  }
}

/** @typedef {{ start: () => void, connect: boolean, later: boolean }} Waiter */

export class Connects {
  /** Connects and fetches that were made while this object was in memory. */
  made = 0;
  /** The platform has said that there may be no more. */
  exhausted = false;
  /** Open connections. */
  open = 0;
  #connecting = 0;
  #fetching = 0;
  /** @type {Waiter[]} */
  #queue = [];
  /** A connect has succeeded beside six others: open ones do not count. */
  #openDoNotCount = false;
  /** Most that may be open or connecting until then. */
  #room = Infinity;
  #roomUntil = 0;
  #onMade;

  /** @param {() => void} onMade is told of each connect and fetch, and when there may be no more */
  constructor(onMade) {
    this.#onMade = onMade;
  }

  /**
   * Connects to one address.
   *
   * @param {string} hostname an IP literal, IPv6 in brackets
   * @param {number} port
   * @param {AbortSignal} signal
   * @param {boolean} later others, of which none was tried yet, go first
   * @returns {Promise<Connection>}
   * @throws {ConnectError}
   */
  async connect(hostname, port, signal, later) {
    if (Date.now() < this.#roomUntil && this.open + this.#connecting >= this.#room) {
      throw new ConnectError(Code.TOO_MANY, "this object has no room for more connections");
    }
    await this.#place(true, later, signal);
    const beside = this.open + this.#connecting - 1;
    try {
      this.#count();
      const socket = begin(hostname, port);
      try {
        await this.#opened(socket, signal, beside);
      } catch (error) {
        socket.close().catch(() => {});
        throw error;
      }
      if (beside >= PLACES) this.#openDoNotCount = true;
      this.open++;
      return new Connection(socket, () => this.open--);
    } catch (error) {
      this.#noteExhausted(error);
      throw error;
    } finally {
      this.#connecting--;
      this.#next();
    }
  }

  /**
   * Fetches, in a place of its own.
   *
   * @template T
   * @param {() => Promise<T>} run returns once the response has begun
   * @param {AbortSignal} signal
   * @param {number} latest when it may begin at the latest (ms, as of Date)
   * @returns {Promise<T>}
   */
  async fetch(run, signal, latest) {
    await this.#place(false, false, signal);
    try {
      if (Date.now() > latest) throw new ConnectError(Code.TOO_MANY, "too much is being asked at once");
      this.#count();
      return await run();
    } catch (error) {
      this.#noteExhausted(error);
      throw TOO_MANY_SUBREQUESTS.test(String(error)) ? refusal(error) : error;
    } finally {
      this.#fetching--;
      this.#next();
    }
  }

  #count() {
    this.made++;
    this.#onMade();
  }

  /** @param {unknown} error of a connect or a fetch */
  #noteExhausted(error) {
    if (!TOO_MANY_SUBREQUESTS.test(String(error))) return;
    this.exhausted = true;
    this.#onMade();
  }

  /**
   * @param {Socket} socket
   * @param {AbortSignal} signal
   * @param {number} beside how many others were open or connecting as it began
   * @returns {Promise<void>}
   */
  async #opened(socket, signal, beside) {
    /** @type {() => void} */
    let forget = () => {};
    const opened = new Promise((/** @type {(_: void) => void} */ resolve, reject) => {
      const late = setTimeout(
        () => reject(new ConnectError(Code.TIMED_OUT, "the far end did not answer in time")),
        CONNECT_MS,
      );
      const heldUp = setTimeout(() => {
        if (beside < PLACES || this.#openDoNotCount) return;
        this.#room = Math.max(1, this.open);
        this.#roomUntil = Date.now() + LESS_ROOM_MS;
        reject(new ConnectError(Code.TOO_MANY, "the platform lets this object connect no further"));
      }, HELD_UP_MS);
      const abort = () => reject(new ConnectError(Code.FAILED, "given up"));
      signal.addEventListener("abort", abort);
      forget = () => {
        clearTimeout(late);
        clearTimeout(heldUp);
        signal.removeEventListener("abort", abort);
      };
      socket.opened.then(
        () => resolve(),
        (error) => reject(refusal(error)),
      );
    });
    try {
      await opened;
    } finally {
      forget(); // a socket that was given up may never say how it went
    }
  }

  /**
   * Waits for a place.
   *
   * @param {boolean} connect
   * @param {boolean} later
   * @param {AbortSignal} signal
   * @returns {Promise<void>}
   */
  async #place(connect, later, signal) {
    if (signal.aborted) throw new ConnectError(Code.FAILED, "given up");
    if (this.#take(connect)) return;
    await new Promise((/** @type {(_: void) => void} */ resolve, reject) => {
      const leave = () => {
        const index = this.#queue.indexOf(waiter);
        if (index >= 0) this.#queue.splice(index, 1);
        clearTimeout(timer);
        reject(new ConnectError(Code.TOO_MANY, "too many connections are being made at once"));
      };
      const timer = setTimeout(leave, CONNECT_MS);
      signal.addEventListener("abort", leave);
      const start = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", leave);
        resolve();
      };
      /** @type {Waiter} */
      const waiter = { start, connect, later };
      this.#queue.push(waiter);
    });
  }

  /**
   * @param {boolean} connect
   * @returns {boolean} false: there is no place
   */
  #take(connect) {
    if (this.#connecting + this.#fetching >= PLACES) return false;
    if (connect ? this.#connecting >= CONNECTS : this.#fetching >= FETCHES) return false;
    if (connect) this.#connecting++;
    else this.#fetching++;
    return true;
  }

  /** Gives a place that has become free to the next: fetches first, second attempts last. */
  #next() {
    for (const wanted of [
      (/** @type {Waiter} */ waiter) => !waiter.connect,
      (/** @type {Waiter} */ waiter) => !waiter.later,
      () => true,
    ]) {
      const index = this.#queue.findIndex(wanted);
      if (index < 0 || !this.#take(this.#queue[index].connect)) continue;
      const [waiter] = this.#queue.splice(index, 1);
      waiter.start();
      return;
    }
  }
}

/**
 * @param {string} hostname
 * @param {number} port
 * @returns {Socket}
 */
function begin(hostname, port) {
  try {
    const socket = connect({ hostname, port }, { allowHalfOpen: true, secureTransport: "off" });
    socket.closed.catch(() => {});
    return socket;
  } catch (error) {
    throw refusal(error);
  }
}

/**
 * The platform says the same of what is refused, unreachable and not known. Names are resolved
 * before, and what does not answer times out; so what it says at once is called "refused".
 *
 * @param {unknown} error
 * @returns {ConnectError}
 */
function refusal(error) {
  const text = error instanceof Error ? error.message : String(error);
  if (TOO_MANY_SUBREQUESTS.test(text)) return new ConnectError(Code.GOING_AWAY, text);
  return new ConnectError(Code.REFUSED, text);
}
