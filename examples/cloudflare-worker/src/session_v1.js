/**
 * One session of protocol v1, the original Worker's (PROTOCOL.md §9): one frame a message, no HELLO,
 * no credit, no half-close, no resuming.
 *
 * It is kinder than the original: nothing is dropped, DATA before CONNECTED is kept, PING is
 * answered, and a stream that was cut gets ERROR before its CLOSE. What bounds a client that reads
 * slowly is PING, whose PONG says what has arrived, and what its WebSocket holds, which is all that
 * there is for a client that answers none. What bounds a far end that reads slowly is that its
 * stream is given up.
 */

import {
  CLOSE,
  CONNECT,
  CONNECTED,
  Code,
  DATA,
  DATA_HEADER,
  DNS_QUERY,
  DNS_RESPONSE,
  ERROR,
  PING,
  PONG,
  ProtocolError,
  UDP,
  nameOf,
  readFrameV1,
} from "./frames.js";
import { Buffers } from "./buffers.js";
import { ownAnswer, tooManyQueries } from "./dns.js";
import { FarEnd } from "./far_end.js";
import { REQUESTS } from "./hello.js";
import { Backlog, Marks } from "./marks.js";
import { frameInPlace, writeFrame } from "./write_frames.js";

/** Bytes that are sent ahead of the client's PONGs, and that its WebSocket may hold. */
const AHEAD = 1 << 20;
/** Milliseconds until a WebSocket that holds too much is looked at again. */
const DRAIN_MS = 20;
/** Bytes of answers that a client may leave unread. */
const MAX_ANSWERS = 2 << 20;
/** Largest DATA payload. */
const PIECE = 64 << 10;
/** Milliseconds for the first PONG, until the client is one that sends none. */
const PONG_MS = 10000;
/** Bytes that a stream holds for its far end, and all together. */
const MAX_HELD = 8 << 20;
const MAX_HELD_IN_ALL = 24 << 20;
/** Milliseconds after the far end's EOF for which the client may go on without saying anything. */
const HALF_CLOSED_MS = 30000;
const MAX_TEXT = 200;

/**
 * @typedef {object} StreamV1
 * @property {FarEnd} farEnd
 * @property {boolean} connected
 * @property {ReturnType<typeof setTimeout> | null} expiry set once the far end has ended
 */

export class SessionV1 {
  /** What far ends are read into. */
  buffers = new Buffers(DATA_HEADER + PIECE);
  #owner;
  #socket;
  /** @type {Map<number, StreamV1>} */
  #streams = new Map();
  #marks = new Marks();
  #backlog = new Backlog();
  #requests = 0;
  /** @type {Set<FarEnd>} */
  #waiting = new Set();
  /** @type {Set<FarEnd>} */
  #lingering = new Set();
  /** @type {boolean | null} whether the client answers PING; null: that is not known yet */
  #pongs = null;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #pongTimer = null;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #drainTimer = null;
  #over = false;

  /**
   * @param {import("./session.js").Owner} owner
   * @param {WebSocket} socket
   */
  constructor(owner, socket) {
    this.#owner = owner;
    this.#socket = socket;
  }

  get idle() {
    return !this.#streams.size && !this.#lingering.size && !this.#requests;
  }

  /** The WebSocket is gone: so are all streams. */
  end() {
    this.#over = true;
    if (this.#pongTimer !== null) clearTimeout(this.#pongTimer);
    if (this.#drainTimer !== null) clearTimeout(this.#drainTimer);
    for (const id of [...this.#streams.keys()]) this.#forget(id)?.farEnd.abort();
    for (const farEnd of this.#lingering) farEnd.abort();
  }

  /**
   * @param {Uint8Array} message
   * @throws {ProtocolError}
   */
  receive(message) {
    const frame = readFrameV1(message);
    const { id } = frame;
    switch (frame.command) {
      case CONNECT:
        this.#onConnect(id, /** @type {string} */ (frame.host), frame.port ?? 0);
        break;
      case DATA:
        this.#onData(id, /** @type {Uint8Array} */ (frame.payload));
        break;
      case CLOSE:
        this.#onClose(id);
        break;
      case PING:
        this.#send(writeFrame({ command: PONG, id: 0 }));
        break;
      case PONG:
        this.#pongs = true;
        this.#marks.ponged(this.#owner.now());
        this.#letGoOn();
        break;
      case DNS_QUERY:
        this.#onQuery(id, /** @type {Uint8Array} */ (frame.payload).slice());
        break;
      case UDP:
        break; // v1 carries none
      default:
        throw new ProtocolError(`${nameOf(frame.command)}: a client does not send it`);
    }
    const waiting = Math.max(this.#pongs ? this.#marks.inFlight : 0, this.#backlog.size(this.#socket));
    if (waiting > AHEAD + MAX_ANSWERS + PIECE * this.#streams.size) {
      throw new ProtocolError("the client asks, but does not read the answers");
    }
  }

  /**
   * @param {number} id
   * @param {string} host
   * @param {number} port
   */
  #onConnect(id, host, port) {
    const most = this.#owner.settings.streams;
    if (this.#streams.has(id)) {
      this.#sendError(id, Code.OPEN_ALREADY, "this stream is open already");
    } else if (this.#streams.size + this.#lingering.size >= most) {
      this.#sendError(id, Code.TOO_MANY, `${most} streams are open`);
    } else {
      const farEnd = new FarEnd(this, id);
      this.#streams.set(id, { farEnd, connected: false, expiry: null });
      farEnd.dial(this.#owner.dialer, host, port);
    }
  }

  /**
   * @param {number} id
   * @param {Uint8Array} payload
   */
  #onData(id, payload) {
    const stream = this.#streams.get(id);
    if (!stream || !payload.length) return;
    if (stream.farEnd.queued + payload.length > MAX_HELD) {
      this.fail(id, Code.FAILED, "the far end takes less than the client sends");
      stream.farEnd.abort();
      return;
    }
    stream.farEnd.write(payload);
    if (stream.expiry !== null) this.#expire(id, stream);
    this.#checkHeld();
  }

  /** Gives up far ends that have taken least while all together are too far behind. */
  #checkHeld() {
    let held = 0;
    for (const { farEnd } of this.#streams.values()) held += farEnd.queued;
    for (const farEnd of this.#lingering) held += farEnd.queued;
    while (held > MAX_HELD_IN_ALL) {
      const slowest = [...this.#streams].sort(([, a], [, b]) => b.farEnd.queued - a.farEnd.queued)[0];
      const oldest = [...this.#lingering][0];
      const farEnd = oldest ?? slowest[1].farEnd;
      held -= farEnd.queued;
      if (!oldest) this.fail(slowest[0], Code.FAILED, "far ends take less than the client sends");
      farEnd.abort();
    }
  }

  /** @param {number} id */
  #onClose(id) {
    const stream = this.#forget(id);
    if (!stream) return;
    this.#send(writeFrame({ command: CLOSE, id }));
    stream.farEnd.end();
    stream.farEnd.finish();
  }

  /**
   * @param {number} id
   * @param {Uint8Array} query
   */
  #onQuery(id, query) {
    const payload = this.#requests >= REQUESTS ? tooManyQueries(query) : ownAnswer(query);
    if (payload) {
      this.#send(writeFrame({ command: DNS_RESPONSE, id, payload }));
      return;
    }
    this.#requests++;
    this.#owner.ask(query).then((payload) => {
      this.#requests--;
      this.#send(writeFrame({ command: DNS_RESPONSE, id, payload }));
      this.#owner.settled();
    });
  }

  // What far ends say

  /** @param {number} id */
  room(id) {
    if (!this.#streams.has(id)) return 0;
    if (this.#backlog.size(this.#socket) >= AHEAD) {
      this.#drainTimer ??= setTimeout(() => {
        this.#drainTimer = null;
        this.#letGoOn();
      }, DRAIN_MS);
      return 0;
    }
    if (this.#pongs === false || this.#marks.inFlight < AHEAD) return PIECE;
    if (this.#pongs === null) {
      this.#pongTimer ??= setTimeout(() => {
        this.#pongs ??= false;
        this.#letGoOn();
      }, PONG_MS);
    }
    return 0;
  }

  /** @param {FarEnd} farEnd */
  wait(farEnd) {
    this.#waiting.add(farEnd);
  }

  #letGoOn() {
    const waiting = this.#waiting;
    this.#waiting = new Set();
    for (const farEnd of waiting) farEnd.wake();
  }

  /** @param {number} id */
  connected(id) {
    const stream = this.#streams.get(id);
    if (!stream) return;
    stream.connected = true;
    this.#send(writeFrame({ command: CONNECTED, id }));
  }

  /**
   * @param {number} id
   * @param {Uint8Array} payload with 9 bytes of its buffer before it
   */
  data(id, payload) {
    if (this.#streams.has(id)) this.#send(frameInPlace(payload, id));
    this.buffers.give(payload.buffer);
  }

  /** @param {number} id */
  eof(id) {
    const stream = this.#streams.get(id);
    if (!stream) return;
    this.#send(writeFrame({ command: CLOSE, id }));
    this.#expire(id, stream); // what the client still has to say is taken, while it says something
  }

  /**
   * @param {number} id
   * @param {number} code
   * @param {string} text
   */
  fail(id, code, text) {
    const stream = this.#forget(id);
    if (!stream) return;
    this.#sendError(id, code, text);
    // A client that waits for CLOSE gets it; the ERROR before tells it from the far end's EOF
    if (stream.connected) this.#send(writeFrame({ command: CLOSE, id }));
  }

  consumed() {}

  /** @param {FarEnd} farEnd */
  linger(farEnd) {
    this.#lingering.add(farEnd);
  }

  /** @param {FarEnd} farEnd */
  delivered(farEnd) {
    this.#lingering.delete(farEnd);
    this.#owner.settled();
  }

  /**
   * @param {number} id
   * @param {StreamV1} stream
   */
  #expire(id, stream) {
    if (stream.expiry !== null) clearTimeout(stream.expiry);
    stream.expiry = setTimeout(() => {
      this.#forget(id);
      stream.farEnd.end();
      stream.farEnd.finish();
    }, HALF_CLOSED_MS);
  }

  /** @param {number} id */
  #forget(id) {
    const stream = this.#streams.get(id);
    if (!stream) return undefined;
    this.#streams.delete(id);
    if (stream.expiry !== null) clearTimeout(stream.expiry);
    stream.farEnd.wake();
    return stream;
  }

  // What goes

  /**
   * @param {number} id
   * @param {number} code
   * @param {string} text
   */
  #sendError(id, code, text) {
    this.#send(writeFrame({ command: ERROR, id, code, text: text.slice(0, MAX_TEXT) }));
  }

  /** @param {Uint8Array} message */
  #send(message) {
    if (this.#over) return;
    this.#backlog.sent(message.length);
    try {
      this.#socket.send(message);
      if (!this.#marks.sent(message.length)) return;
      this.#marks.pinged(this.#owner.now());
      this.#socket.send(writeFrame({ command: PING, id: 0 }));
    } catch {
      // It has been closed: webSocketClose or webSocketError is about to tell
    }
  }
}
