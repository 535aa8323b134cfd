/**
 * One session of protocol v2, at the worker (PROTOCOL.md §3 to §6).
 *
 * It outlives its WebSocket: `attach` gives it one, `detach` takes it away. What it says goes by its
 * outbox.
 */

import { Budget, ReceiveWindow } from "./credit.js";
import { ownAnswer, tooManyQueries } from "./dns.js";
import {
  ACK,
  CLOSE,
  CONNECT,
  CONNECTED,
  Code,
  DATA,
  DATA_HEADER,
  DNS_QUERY,
  DNS_RESPONSE,
  ECHO,
  EOF,
  ERROR,
  GOAWAY,
  PING,
  PONG,
  ProtocolError,
  UDP,
  UDP_CLOSE,
  WINDOW,
  isCounted,
  nameOf,
  readFrames,
} from "./frames.js";
import { MAX_DATA, MAX_MESSAGE, MAX_WINDOW, REQUESTS, writeHello } from "./hello.js";
import { FarEnd } from "./far_end.js";
import { Outbox } from "./outbox.js";
import { writeFrame } from "./write_frames.js";

/** Bytes that all windows together may grow by beyond what HELLO grants. */
const GROWTH = 12 << 20;
/** Bytes that HELLO grants to all streams together, at most. */
const GRANTED = 8 << 20;
/** Bytes that streams which have ended may still have for their far ends, all together. */
const MAX_LINGERING = 4 << 20;
const MAX_TEXT = 200;

/** @typedef {import("./frames.js").Frame} Frame */
/** @typedef {import("./hello.js").ClientHello} ClientHello */

/**
 * What survives hibernation: a session without streams, all of whose frames were acknowledged.
 *
 * @typedef {object} Saved
 * @property {ClientHello} hello
 * @property {number} sent
 * @property {number} taken
 * @property {number} highest
 * @property {boolean} goingAway
 * @property {number} attempt
 */

/**
 * What a session needs of its owner.
 *
 * @typedef {object} Owner
 * @property {import("./settings.js").Settings} settings
 * @property {import("./dial.js").Dialer} dialer
 * @property {(query: Uint8Array) => Promise<Uint8Array>} ask asks the resolver; never rejects
 * @property {() => number} now ms
 * @property {() => void} settled is told when a session may have become idle
 */

/** A stream that is open, as the session sees it. */
class Stream {
  connected = false;
  eofSent = false;
  eofTaken = false;

  /**
   * @param {number} id
   * @param {number} credit bytes that we may send
   * @param {ReceiveWindow} window what the client may send
   * @param {FarEnd} farEnd
   */
  constructor(id, credit, window, farEnd) {
    this.id = id;
    this.credit = credit;
    this.window = window;
    this.farEnd = farEnd;
  }
}

export class Session {
  /** The session is over: nothing of it is left. */
  over = false;
  /** Seconds that it outlives its WebSocket. */
  resumeSeconds = 0;
  /** The number of the attempt at resuming it that its WebSocket came by; 0: none. */
  attempt = 0;
  #owner;
  #id;
  /** @type {ClientHello} */
  #hello;
  #outbox;
  /** @type {Map<number, Stream>} */
  #streams = new Map();
  #highest = 0;
  #goingAway = false;
  #budget = new Budget(GROWTH);
  #window;
  #requests = 0;
  /** How often the WebSocket was lost: an answer for an earlier one must not be taken for another's. */
  #losses = 0;
  /** @type {Set<FarEnd>} those that wait for room, the longest waiting first */
  #waiting = new Set();
  /** @type {Set<FarEnd>} those of streams that have ended, which still deliver, the oldest first */
  #lingering = new Set();

  /**
   * @param {Owner} owner
   * @param {string} id
   * @param {ClientHello} hello the client's first
   * @param {Saved} [saved]
   */
  constructor(owner, id, hello, saved) {
    this.#owner = owner;
    this.#id = id;
    this.#hello = hello;
    this.#window = Math.min(65536, Math.floor(GRANTED / owner.settings.streams));
    this.resumeSeconds = Math.min(owner.settings.resume, hello.resume ?? Infinity);
    this.#outbox = new Outbox(
      this.resumeSeconds > 0,
      saved ?? { sent: 0, taken: 0 },
      () => owner.now(),
      () => owner.settled(),
    );
    if (saved) {
      this.#highest = saved.highest;
      this.#goingAway = saved.goingAway;
      this.attempt = saved.attempt;
    }
  }

  get buffers() {
    return this.#outbox.buffers;
  }

  /** The client says PING, as streams are open, or has to acknowledge something. */
  get expectsClient() {
    return this.#streams.size > 0 || this.#outbox.unacknowledged;
  }

  get attached() {
    return this.#outbox.attached;
  }

  /** Nothing is open or under way: all that is left of it is what `save` returns. */
  get idle() {
    return !this.#streams.size && !this.#lingering.size && !this.#requests && this.#outbox.idle;
  }

  /** @returns {Saved} */
  save() {
    return {
      hello: this.#hello,
      sent: this.#outbox.sent,
      taken: this.#outbox.taken,
      highest: this.#highest,
      goingAway: this.#goingAway,
      attempt: this.attempt,
    };
  }

  // The WebSocket

  /**
   * Begins or resumes the session on a WebSocket, whose HELLO has come.
   *
   * @param {WebSocket} socket
   * @param {ClientHello} hello
   * @throws {ProtocolError} what the client says that it has taken cannot be
   */
  attach(socket, hello) {
    const resumed = hello.session !== undefined;
    if (!resumed && hello.received) throw new ProtocolError("HELLO: received without a session");
    this.attempt = hello.attempt;
    const settings = this.#owner.settings;
    const ours = (/** @type {number} */ received) =>
      writeHello({
        window: this.#window,
        max_data: MAX_DATA,
        max_message: MAX_MESSAGE,
        session: this.#id,
        received,
        streams: settings.streams,
        requests: REQUESTS,
        udp: false,
        icmp: false,
        dns: true,
        ipv6: settings.ipv6,
        resume: this.resumeSeconds,
        keepalive: settings.keepalive,
      });
    this.#outbox.attach(socket, ours, resumed ? hello.received : null);
    if (this.#goingAway) this.#sayGoAway();
    this.#outbox.flush();
    this.#letGoOn();
  }

  /**
   * Goes on with the WebSocket that has outlived the object's memory: nothing is said anew.
   *
   * @param {WebSocket} socket
   */
  takeUp(socket) {
    this.#outbox.takeUp(socket);
  }

  /**
   * The WebSocket is lost.
   *
   * @returns {boolean} whether the session can be resumed; otherwise it is over
   */
  detach() {
    this.#losses++;
    this.#outbox.detach();
    if (this.resumeSeconds) return true;
    this.end();
    return false;
  }

  /** Resets all streams: the session is over. */
  end() {
    if (this.over) return;
    this.over = true;
    this.#outbox.end();
    const streams = [...this.#streams.values()];
    this.#streams.clear();
    for (const stream of streams) {
      stream.window.release();
      stream.farEnd.abort();
    }
    for (const farEnd of this.#lingering) farEnd.abort();
    this.#letGoOn();
  }

  /**
   * Says that there will be no new streams: they are answered 503 from now on.
   *
   * @param {string} reason
   */
  goAway(reason) {
    if (this.#goingAway || this.over) return;
    this.#goingAway = true;
    this.#sayGoAway(reason);
  }

  #sayGoAway(reason = "this object is used up") {
    this.#outbox.answer(writeFrame({ command: GOAWAY, id: 0, code: Code.GOING_AWAY, text: reason }));
  }

  // What comes

  /**
   * Takes one message.
   *
   * @param {Uint8Array} message
   * @throws {ProtocolError} the client has broken the protocol
   */
  receive(message) {
    for (const frame of readFrames(message)) {
      if (isCounted(frame.command)) this.#outbox.noteTaken(frame.payload?.length ?? 0);
      this.#act(frame, message.length);
    }
    this.#outbox.flush();
    this.#outbox.checkRead();
  }

  /**
   * @param {Frame} frame
   * @param {number} messageSize
   */
  #act(frame, messageSize) {
    switch (frame.command) {
      case DATA:
        return this.#onData(frame, messageSize);
      case WINDOW:
        return this.#onWindow(frame);
      case ACK:
        this.#outbox.onAck(/** @type {number} */ (frame.count));
        return this.#letGoOn();
      case PING:
        return this.#outbox.pong();
      case PONG:
        this.#outbox.onPong();
        return this.#letGoOn();
      case CONNECT:
        return this.#onConnect(frame);
      case EOF:
        return this.#onEof(frame);
      case CLOSE:
        return this.#onClose(frame);
      case DNS_QUERY:
        return this.#onQuery(frame);
      case UDP:
      case UDP_CLOSE:
      case ECHO:
        return; // HELLO said that there is none
      case GOAWAY:
        return; // a client that goes away opens no new streams, that is all
      default:
        if (frame.command < 0x49) {
          throw new ProtocolError(`${nameOf(frame.command)}: a client does not send it now`);
        }
    }
  }

  /**
   * @param {Frame} frame
   * @returns {Stream | undefined} undefined: it is gone
   */
  #find(frame) {
    if (frame.id < 1 || frame.id > this.#highest) {
      throw new ProtocolError(`${nameOf(frame.command)}: stream ${frame.id} is idle`);
    }
    return this.#streams.get(frame.id);
  }

  /** @param {Frame} frame */
  #onConnect(frame) {
    const { id } = frame;
    if (id <= this.#highest) {
      throw new ProtocolError(`CONNECT: stream ${id} is not above ${this.#highest}, the last one`);
    }
    this.#highest = id;
    if (this.#goingAway) {
      this.#sendError(id, Code.GOING_AWAY, "this object takes no more streams");
    } else if (this.#streams.size + this.#lingering.size >= this.#owner.settings.streams) {
      this.#sendError(id, Code.TOO_MANY, `${this.#owner.settings.streams} streams are open`);
    } else {
      const farEnd = new FarEnd(this, id);
      const window = new ReceiveWindow(this.#window, this.#budget);
      this.#streams.set(id, new Stream(id, this.#hello.window, window, farEnd));
      farEnd.dial(this.#owner.dialer, /** @type {string} */ (frame.host), frame.port ?? 0);
    }
  }

  /**
   * @param {Frame} frame
   * @param {number} messageSize
   */
  #onData(frame, messageSize) {
    const payload = /** @type {Uint8Array} */ (frame.payload);
    if (payload.length > MAX_DATA) {
      throw new ProtocolError(`DATA: ${payload.length} bytes, max_data is ${MAX_DATA}`);
    }
    const stream = this.#find(frame);
    if (!stream) return;
    if (stream.eofTaken) throw new ProtocolError(`DATA: it came after EOF, for stream ${frame.id}`);
    if (!payload.length) return;
    if (!stream.window.take(payload.length, this.#owner.now())) {
      const { available } = stream.window;
      throw new ProtocolError(
        `DATA: ${payload.length} bytes for stream ${frame.id}, its credit is ${available}`,
      );
    }
    // What waits must not hold a message that is much larger in memory
    stream.farEnd.write(payload.length * 2 < messageSize ? payload.slice() : payload);
  }

  /** @param {Frame} frame */
  #onEof(frame) {
    const stream = this.#find(frame);
    if (!stream) return;
    if (stream.eofTaken) throw new ProtocolError(`EOF: a second one, for stream ${frame.id}`);
    stream.eofTaken = true;
    if (stream.eofSent) this.#forget(stream);
    stream.farEnd.end();
  }

  /** @param {Frame} frame */
  #onClose(frame) {
    const stream = this.#find(frame);
    if (!stream) return;
    this.#forget(stream);
    // After EOF it is what close() is to a kernel: what came is still delivered
    if (stream.eofTaken) stream.farEnd.finish();
    else stream.farEnd.abort();
  }

  /** @param {Frame} frame */
  #onWindow(frame) {
    const stream = this.#find(frame);
    if (!stream) return;
    stream.credit += frame.credit ?? 0;
    if (stream.credit > MAX_WINDOW) {
      throw new ProtocolError(
        `WINDOW: stream ${frame.id} would have ${stream.credit} bytes of credit, over ${MAX_WINDOW}`,
      );
    }
    stream.farEnd.wake();
  }

  /** @param {Frame} frame */
  #onQuery(frame) {
    const { id } = frame;
    if (!id) throw new ProtocolError("DNS_QUERY: request 0 does not exist");
    const query = /** @type {Uint8Array} */ (frame.payload).slice();
    const payload = this.#requests >= REQUESTS ? tooManyQueries(query) : ownAnswer(query);
    if (payload) {
      this.#outbox.answer(writeFrame({ command: DNS_RESPONSE, id, payload }));
      return;
    }
    this.#requests++;
    const losses = this.#losses;
    this.#owner.ask(query).then((payload) => {
      this.#requests--;
      this.#owner.settled();
      if (losses === this.#losses) this.#outbox.answer(writeFrame({ command: DNS_RESPONSE, id, payload }));
    });
  }

  // What far ends say

  /**
   * @param {number} id
   * @returns {number} how many bytes of DATA the stream may send now; 0: it has to wait
   */
  room(id) {
    const stream = this.#streams.get(id);
    if (!stream || !this.#outbox.attached) return 0;
    const { ahead } = this.#outbox;
    if (ahead <= 0) return 0;
    // Many streams that read at once must not exceed what is left by much
    const share = Math.max(16384, Math.floor(ahead / this.#streams.size));
    const { max_data, max_message } = this.#hello;
    return Math.min(stream.credit, max_data, max_message - DATA_HEADER, share);
  }

  /**
   * Wakes the far end when there may be room again.
   *
   * @param {FarEnd} farEnd
   */
  wait(farEnd) {
    this.#waiting.add(farEnd);
  }

  #letGoOn() {
    if (!this.#waiting.size || (this.attached && this.#outbox.ahead <= 0)) return;
    const waiting = this.#waiting;
    this.#waiting = new Set();
    for (const farEnd of waiting) farEnd.wake();
  }

  /**
   * The stream has ended, but what came of it is still to be delivered.
   *
   * @param {FarEnd} farEnd which calls `delivered` once
   */
  linger(farEnd) {
    this.#lingering.add(farEnd);
    let held = 0;
    for (const one of this.#lingering) held += one.queued;
    for (const one of this.#lingering) {
      if (held <= MAX_LINGERING) break;
      held -= one.queued;
      one.abort();
    }
  }

  /** @param {FarEnd} farEnd */
  delivered(farEnd) {
    this.#lingering.delete(farEnd);
    this.#owner.settled();
  }

  /** @param {number} id */
  connected(id) {
    const stream = this.#streams.get(id);
    if (!stream) return;
    stream.connected = true;
    this.#outbox.count(writeFrame({ command: CONNECTED, id }));
  }

  /**
   * Sends DATA that was read from a far end, not more than `room` was.
   *
   * @param {number} id
   * @param {Uint8Array} payload a view with 9 bytes of its buffer before it, which is given away
   */
  data(id, payload) {
    const stream = this.#streams.get(id);
    if (!stream) return;
    stream.credit -= payload.length;
    this.#outbox.data(id, payload);
  }

  /**
   * The far end sends no more.
   *
   * @param {number} id
   */
  eof(id) {
    const stream = this.#streams.get(id);
    if (!stream) return;
    stream.eofSent = true;
    this.#outbox.count(writeFrame({ command: EOF, id }));
    if (stream.eofTaken) this.#forget(stream);
  }

  /**
   * Ends a stream with a reason.
   *
   * @param {number} id
   * @param {number} code
   * @param {string} text
   */
  fail(id, code, text) {
    const stream = this.#streams.get(id);
    if (!stream) return;
    this.#forget(stream);
    this.#sendError(id, code, text);
  }

  /**
   * The far end has taken bytes of the client's.
   *
   * @param {number} id
   * @param {number} size
   */
  consumed(id, size) {
    const stream = this.#streams.get(id);
    if (!stream || stream.eofTaken) return;
    const credit = stream.window.consume(size, this.#owner.now(), this.#outbox.trip);
    if (credit) this.#outbox.count(writeFrame({ command: WINDOW, id, credit }));
    this.#outbox.measure();
  }

  /** @param {Stream} stream */
  #forget(stream) {
    this.#streams.delete(stream.id);
    stream.window.release();
    stream.farEnd.wake();
  }

  /**
   * @param {number} id
   * @param {number} code
   * @param {string} text
   */
  #sendError(id, code, text) {
    this.#outbox.count(writeFrame({ command: ERROR, id, code, text: text.slice(0, MAX_TEXT) }));
  }
}
