/**
 * The far end of one stream: the platform's socket, between it and the session.
 *
 * What the far end sent is read no faster than the session has room for; what the client sent is
 * kept until the socket takes it, at most the credit that was granted. A reset of the far end's
 * becomes ERROR 104, never an EOF.
 */

import { Code, DATA_HEADER } from "./frames.js";

/** Bytes that are read at once: at first, where little comes, and where every read comes full. */
const READ = 64 << 10;
export const READ_BULK = 256 << 10;
/** Bytes that are written at once. */
const WRITE = 64 << 10;
/** Bytes below which a piece that waits gets no buffer of its own; and of the buffer that it shares. */
const SMALL = 4096;
const SHARED = 16 << 10;
/** Milliseconds for which a stream that has ended may go on delivering without any progress. */
const LINGER_MS = 30000;

/**
 * What a far end needs of its session, of either version.
 *
 * @typedef {object} StreamSession
 * @property {(id: number) => number} room
 * @property {(farEnd: FarEnd) => void} wait
 * @property {(id: number) => void} connected
 * @property {(id: number, payload: Uint8Array) => void} data
 * @property {import("./buffers.js").Buffers} buffers where `data` gives buffers back
 * @property {(id: number) => void} eof
 * @property {(id: number, code: number, text: string) => void} fail
 * @property {(id: number, size: number) => void} consumed
 * @property {(farEnd: FarEnd) => void} linger
 * @property {(farEnd: FarEnd) => void} delivered
 */

export class FarEnd {
  /** Bytes of the client's that the socket has not taken yet. */
  queued = 0;
  #session;
  #id;
  /** @type {import("./connects.js").Connection | null} */
  #connection = null;
  /** @type {WritableStreamDefaultWriter<Uint8Array> | null} */
  #writer = null;
  /** @type {Uint8Array[]} */
  #queue = [];
  /** @type {Uint8Array | null} the last of the queue, where it begins a buffer that has room left */
  #tail = null;
  /** @type {AbortController | null} of the connect that is under way */
  #attempt = null;
  /** @type {(() => void) | null} */
  #wakeUp = null;
  /** The client sends no more; and that was passed on. */
  #ended = false;
  #shutDown = false;
  /** The far end sends no more. */
  #eof = false;
  /** The far end takes no more. */
  #broken = false;
  /** The client wants nothing more of it: what is queued is delivered, that is all. */
  #finishing = false;
  #pumping = false;
  #closed = false;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #lingerTimer = null;

  /**
   * @param {StreamSession} session
   * @param {number} id of the stream
   */
  constructor(session, id) {
    this.#session = session;
    this.#id = id;
  }

  /**
   * Connects, and tells the session how that went.
   *
   * @param {import("./dial.js").Dialer} dialer
   * @param {string} host
   * @param {number} port
   */
  async dial(dialer, host, port) {
    // What the client gives up in the same message is nothing yet: the platform's objects, which it
    // frees late, would make hundreds of MB of a flood of those
    await null;
    if (this.#closed) return;
    this.#attempt = new AbortController();
    let connection;
    try {
      connection = await dialer.dial(host, port, this.#attempt.signal);
    } catch (error) {
      if (this.#closed) return;
      const code = /** @type {{ code?: number }} */ (error).code ?? Code.FAILED;
      this.#session.fail(this.#id, code, /** @type {Error} */ (error).message);
      this.#close();
      return;
    }
    if (this.#closed) {
      connection.close();
      return;
    }
    this.#connection = connection;
    this.#writer = connection.socket.writable.getWriter();
    this.#session.connected(this.#id);
    this.#read();
    this.#pump();
  }

  // Client to far end

  /** @param {Uint8Array} payload which is kept */
  write(payload) {
    if (this.#broken) {
      this.#session.consumed(this.#id, payload.length);
      return;
    }
    this.#enqueue(payload);
    this.queued += payload.length;
    this.#pump();
  }

  /**
   * Keeps a piece until it is written: small ones that wait together share a buffer, since each
   * alone would cost many times what it is.
   *
   * @param {Uint8Array} payload
   */
  #enqueue(payload) {
    const last = this.#queue.length - 1;
    if (last < 0 || payload.length >= SMALL) {
      this.#queue.push(payload);
      this.#tail = null;
      return;
    }
    const tail = this.#tail;
    const used = tail?.length ?? 0;
    if (tail && this.#queue[last] === tail && used + payload.length <= SHARED) {
      const grown = new Uint8Array(tail.buffer, 0, used + payload.length);
      grown.set(payload, used);
      this.#queue[last] = this.#tail = grown;
      return;
    }
    const begun = new Uint8Array(SHARED).subarray(0, payload.length);
    begun.set(payload);
    this.#queue.push(begun);
    this.#tail = begun;
  }

  /** The client sends no more. */
  end() {
    this.#ended = true;
    if (this.#eof) this.#linger();
    this.#pump();
  }

  /** Delivers what the client has sent, which is all that it had, once connected; then closes. */
  finish() {
    if (!this.#connection && !this.queued) {
      this.abort();
      return;
    }
    this.#finishing = true;
    this.#linger();
    this.#pump();
  }

  async #pump() {
    const writer = this.#writer;
    if (!writer || this.#pumping) return;
    this.#pumping = true;
    try {
      while (this.#queue.length && !this.#closed) {
        const piece = this.#next();
        await writer.write(piece);
        this.queued -= piece.length;
        this.#session.consumed(this.#id, piece.length);
        this.#lingerOn();
      }
      if (this.#ended && !this.#shutDown && !this.#closed) {
        this.#shutDown = true;
        await writer.close();
      }
    } catch {
      this.#writeFailed();
    }
    this.#pumping = false;
    if (this.#shutDown && (this.#eof || this.#finishing)) this.#close();
  }

  /** @returns {Uint8Array} what is written next: a part of what waits, or several of them in one */
  #next() {
    const first = this.#queue[0];
    if (first.length > WRITE) {
      this.#queue[0] = first.subarray(WRITE);
      return first.subarray(0, WRITE);
    }
    let size = 0;
    let count = 0;
    while (count < this.#queue.length && size + this.#queue[count].length <= WRITE) {
      size += this.#queue[count++].length;
    }
    const pieces = this.#queue.splice(0, count);
    if (count === 1) return first;
    const joined = new Uint8Array(size);
    let position = 0;
    for (const piece of pieces) {
      joined.set(piece, position);
      position += piece.length;
    }
    return joined;
  }

  /** What the far end sent before it went is still worth reading. */
  #writeFailed() {
    if (this.#closed) return;
    this.#broken = true;
    const { queued } = this;
    this.#queue = [];
    this.#tail = null;
    this.queued = 0;
    if (this.#eof || this.#finishing) {
      this.#session.fail(this.#id, Code.RESET, "reset by the far end");
      this.#close();
    } else {
      this.#session.consumed(this.#id, queued);
    }
  }

  // Far end to client

  /** The session may have room for more. */
  wake() {
    this.#wakeUp?.();
  }

  async #read() {
    const connection = /** @type {import("./connects.js").Connection} */ (this.#connection);
    const reader = connection.socket.readable.getReader({ mode: "byob" });
    let size = READ;
    /** @type {ArrayBuffer | null} */
    let spare = null;
    try {
      while (!this.#closed && !this.#finishing) {
        const room = this.#session.room(this.#id);
        if (!room) {
          await new Promise((/** @type {(_: void) => void} */ resolve) => {
            this.#wakeUp = resolve;
            this.#session.wait(this);
          });
          this.#wakeUp = null;
          continue;
        }
        const most = Math.min(room, size);
        if (!spare || spare.byteLength < DATA_HEADER + most) {
          if (spare) this.#session.buffers.give(spare);
          spare = this.#session.buffers.take(DATA_HEADER + most);
        }
        const { value, done } = await reader.read(new Uint8Array(spare, DATA_HEADER, most));
        if (this.#closed || this.#finishing) return;
        if (done) {
          this.#onEof();
          return;
        }
        if (value.length * 2 < value.buffer.byteLength) {
          // Little came: the session keeps what it sends, so it gets no more than that
          const small = new Uint8Array(DATA_HEADER + value.length);
          small.set(value, DATA_HEADER);
          spare = /** @type {ArrayBuffer} */ (value.buffer);
          this.#session.data(this.#id, small.subarray(DATA_HEADER));
        } else {
          spare = null;
          this.#session.data(this.#id, value);
        }
        size = value.length === most ? READ_BULK : READ;
      }
    } catch {
      if (this.#closed) return;
      this.#session.fail(this.#id, Code.RESET, "reset by the far end");
      this.#close();
    }
  }

  #onEof() {
    this.#eof = true;
    if (this.#broken) {
      this.#session.fail(this.#id, Code.RESET, "reset by the far end");
      this.#close();
      return;
    }
    this.#session.eof(this.#id);
    if (this.#shutDown && !this.#pumping) this.#close();
    else if (this.#ended) this.#linger();
  }

  // Both

  /** The stream is gone for the session; what is queued is still delivered, if that gets on. */
  #linger() {
    if (this.#closed || this.#lingerTimer !== null) return;
    this.#lingerTimer = setTimeout(() => this.abort(), LINGER_MS);
    this.#session.linger(this);
  }

  #lingerOn() {
    if (this.#lingerTimer === null) return;
    clearTimeout(this.#lingerTimer);
    this.#lingerTimer = setTimeout(() => this.abort(), LINGER_MS);
  }

  /** Gives the far end up: what is queued is dropped. */
  abort() {
    this.#close();
  }

  #close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#attempt?.abort();
    this.#queue = [];
    this.#tail = null;
    this.queued = 0;
    if (this.#lingerTimer !== null) clearTimeout(this.#lingerTimer);
    this.#session.delivered(this);
    this.#connection?.close();
    this.wake();
  }
}
