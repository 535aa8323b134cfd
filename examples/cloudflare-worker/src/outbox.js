/**
 * What one session of v2 says to its client, over one WebSocket after the other (PROTOCOL.md §6).
 *
 * Frames wait for the end of the event that they come from, and then share a message: ACK first, then
 * what is not counted, then what is. Counted frames are kept until they are acknowledged, where the
 * session can be resumed; without a WebSocket they wait for the next one, and the others are dropped.
 *
 * `send` of a WebSocket has no backpressure. How much may be on its way is known from ACK, or, where
 * there is none, from PING and PONG.
 */

import { Buffers } from "./buffers.js";
import { READ_BULK } from "./far_end.js";
import { ACK, DATA_HEADER, PING, PONG, ProtocolError } from "./frames.js";
import { Kept } from "./kept.js";
import { Backlog, Marks } from "./marks.js";
import { frameInPlace, join, writeFrame } from "./write_frames.js";

/** Bytes that are sent ahead of the client's acknowledgements, at most. */
const AHEAD = 12 << 20;
/** Bytes of answers that a client may leave unread. */
const MAX_ANSWERS = 2 << 20;
/** Bytes by which reads that were under way, and frames without DATA, may exceed what is sent ahead. */
const MAX_OVERSHOOT = 8 << 20;
/** Bytes of counted frames, and milliseconds, after which they are acknowledged. */
const ACK_BYTES = 512 << 10;
const ACK_MS = 100;
/** PINGs in one message, and frames that wait before they are sent, though more is to come. */
const MAX_PONGS = 4096;
const MANY = 256;
/** Bytes of small frames that share a message. */
const SHARED = 128 << 10;

export class Outbox {
  /** What far ends are read into. */
  buffers = new Buffers(DATA_HEADER + READ_BULK);
  /** Counted frames of the client's that were taken. */
  taken;
  #now;
  #onSettled;
  /** @type {WebSocket | null} */
  #socket = null;
  #over = false;
  /** @type {Kept | null} null: the session cannot be resumed, and no ACK is sent or expected */
  #kept;
  #marks = new Marks();
  #backlog = new Backlog();
  /** Of those that were taken, how many were acknowledged; and bytes of those that were not. */
  #acknowledged;
  #unacknowledged = 0;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #ackTimer = null;
  /** @type {Uint8Array[]} uncounted frames that wait; and PONGs */
  #answers = [];
  #pongs = 0;
  /** @type {Uint8Array[]} counted frames that wait */
  #counted = [];
  #flushing = false;

  /**
   * @param {boolean} resumable
   * @param {{ sent: number, taken: number }} counts counted frames of before hibernation
   * @param {() => number} now ms
   * @param {() => void} onSettled is told when what waited has been sent
   */
  constructor(resumable, counts, now, onSettled) {
    this.#kept = resumable ? new Kept(AHEAD, this.buffers, counts.sent) : null;
    this.taken = this.#acknowledged = counts.taken;
    this.#now = now;
    this.#onSettled = onSettled;
  }

  get attached() {
    return this.#socket !== null;
  }

  /** Counted frames that were sent. */
  get sent() {
    return this.#kept?.sent ?? 0;
  }

  /** The round trip (ms); 0: none was measured. */
  get trip() {
    return this.#marks.trip;
  }

  /** The client has to acknowledge something. */
  get unacknowledged() {
    return this.#kept !== null && this.#kept.acknowledged < this.#kept.sent;
  }

  /** Nothing waits, and all was acknowledged, both ways. */
  get idle() {
    const waits = this.#counted.length || this.#answers.length || this.#pongs;
    return !waits && this.#ackTimer === null && !this.unacknowledged;
  }

  /** Bytes of DATA that may be sent ahead of what the client is known to have; not above 0: none. */
  get ahead() {
    const room = this.#kept ? this.#kept.room : AHEAD - this.#marks.inFlight;
    // A client may acknowledge what it has not read
    return Math.min(room, AHEAD - this.#backlog.size(this.#socket));
  }

  // The WebSocket

  /**
   * Goes on with a WebSocket.
   *
   * @param {WebSocket} socket
   */
  takeUp(socket) {
    this.#socket = socket;
  }

  /**
   * Begins on a WebSocket, with the session's HELLO.
   *
   * @param {WebSocket} socket
   * @param {(received: number) => Uint8Array} hello the frame, by the counted frames that were taken
   * @param {number | null} received those that the client has taken of a resumed session
   * @throws {ProtocolError} that cannot be
   */
  attach(socket, hello, received) {
    /** @type {Uint8Array[]} */
    let again = [];
    if (received !== null) {
      if (!this.#kept?.covers(received)) {
        throw new ProtocolError(`HELLO: received is ${received}, which cannot be`);
      }
      again = this.#kept.resend(received, this.#now());
    }
    this.#socket = socket;
    this.#send(hello(this.taken));
    this.#acknowledged = this.taken;
    this.#unacknowledged = 0;
    for (const run of again) this.#send(run);
    this.ping();
  }

  /** The WebSocket is lost: what is not counted is dropped. */
  detach() {
    this.#socket = null;
    this.#answers = [];
    this.#pongs = 0;
    this.#marks.clear();
    this.#backlog.clear();
    this.#stopAckTimer();
  }

  /** The session is over. */
  end() {
    this.detach();
    this.#over = true;
    this.#counted = [];
    this.#kept?.clear();
  }

  // What has arrived

  /**
   * A counted frame has come.
   *
   * @param {number} size bytes of its payload
   */
  noteTaken(size) {
    this.taken++;
    if (!this.#kept) return;
    this.#unacknowledged += size + 16;
    if (this.#unacknowledged >= ACK_BYTES) this.#flushSoon();
    else this.#ackTimer ??= setTimeout(() => this.#ackNow(), ACK_MS);
  }

  #ackNow() {
    this.#ackTimer = null;
    this.#unacknowledged = ACK_BYTES;
    this.flush();
    this.#onSettled();
  }

  #stopAckTimer() {
    if (this.#ackTimer !== null) clearTimeout(this.#ackTimer);
    this.#ackTimer = null;
  }

  /**
   * The client has taken so many counted frames.
   *
   * @param {number} count
   * @throws {ProtocolError} fewer than it has said before, or more than were sent
   */
  onAck(count) {
    const kept = this.#kept;
    if (!kept) return;
    if (!kept.covers(count)) {
      throw new ProtocolError(`ACK: ${count} frames, not ${kept.acknowledged} to ${kept.sent}`);
    }
    kept.acknowledge(count, this.#now(), this.#marks.trip);
  }

  onPong() {
    this.#marks.ponged(this.#now());
  }

  /**
   * A client that sends, but does not read, must not fill this isolate with answers.
   *
   * @throws {ProtocolError}
   */
  checkRead() {
    const most = this.#kept ? MAX_ANSWERS : AHEAD + MAX_OVERSHOOT;
    const held = Math.max(this.#kept?.bytes ?? 0, this.#backlog.size(this.#socket));
    if (this.#marks.inFlight > most || held > AHEAD + MAX_OVERSHOOT) {
      throw new ProtocolError("the client asks, but does not read the answers");
    }
  }

  // What goes

  /** @throws {ProtocolError} too many PINGs came at once */
  pong() {
    if (++this.#pongs > MAX_PONGS) throw new ProtocolError(`PING: over ${MAX_PONGS} in one message`);
    this.#flushSoon();
  }

  /** Measures the round trip, if that was not done lately. */
  measure() {
    if (this.#marks.isStale(this.#now())) this.ping();
  }

  ping() {
    if (!this.#socket) return;
    this.answer(writeFrame({ command: PING, id: 0 }));
    this.#marks.pinged(this.#now());
  }

  /** @param {Uint8Array} frame an uncounted one */
  answer(frame) {
    if (!this.#socket) return;
    this.#answers.push(frame);
    if (this.#answers.length >= MANY) this.flush();
    else this.#flushSoon();
  }

  /** @param {Uint8Array} frame a counted one */
  count(frame) {
    if (this.#over) return;
    this.#counted.push(frame);
    if (this.#counted.length >= MANY) this.flush();
    else this.#flushSoon();
  }

  /**
   * Sends DATA at once.
   *
   * @param {number} id
   * @param {Uint8Array} payload with 9 bytes of its buffer before it, which is kept
   */
  data(id, payload) {
    const frame = frameInPlace(payload, id);
    if (this.#counted.length) this.flush();
    if (this.#socket) this.#sendCounted(frame, 1);
    else this.count(frame);
  }

  /** Sends what waits once all that this event does is done. */
  #flushSoon() {
    if (this.#flushing || !this.#socket) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      this.flush();
      this.#onSettled();
    });
  }

  /** Sends what waits. */
  flush() {
    if (!this.#socket) return;
    const answers = this.#answers;
    const counted = this.#counted;
    const due = this.#unacknowledged >= ACK_BYTES;
    if (!due && !answers.length && !counted.length && !this.#pongs) return;
    this.#answers = [];
    this.#counted = [];
    if (this.#pongs) answers.unshift(new Uint8Array(this.#pongs).fill(PONG));
    this.#pongs = 0;
    if (this.#kept && this.taken > this.#acknowledged) {
      answers.unshift(writeFrame({ command: ACK, id: 0, count: this.taken }));
      this.#acknowledged = this.taken;
      this.#stopAckTimer();
    }
    this.#unacknowledged = 0;
    if (answers.length) {
      const message = join(answers);
      this.#send(message);
      if (this.#marks.sent(message.length)) this.ping();
    }
    for (let first = 0; first < counted.length;) {
      let size = 0;
      const parts = [];
      while (first < counted.length && (!parts.length || size + counted[first].length <= SHARED)) {
        size += counted[first].length;
        parts.push(counted[first++]);
      }
      this.#sendCounted(join(parts), parts.length);
    }
  }

  /**
   * @param {Uint8Array} run
   * @param {number} frames
   */
  #sendCounted(run, frames) {
    this.#send(run);
    if (this.#kept) {
      this.#kept.add(run, frames, this.#now());
    } else {
      this.buffers.give(run.buffer); // send() has copied it
      if (this.#marks.sent(run.length)) this.ping();
    }
  }

  /** @param {Uint8Array} message */
  #send(message) {
    this.#backlog.sent(message.length);
    try {
      this.#socket?.send(message);
    } catch {
      // It has been closed: webSocketClose or webSocketError is about to tell
    }
  }
}
