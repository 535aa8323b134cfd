/**
 * The object that holds one session (a Durable Object; nothing is ever stored).
 *
 * Its WebSockets are those of the Hibernation API: while no stream is open there is no timer and no
 * pending promise, so the platform takes the object out of memory and it costs nothing. What must
 * survive that is in the WebSocket's attachment.
 */

import { DurableObject } from "cloudflare:workers";
import { equal } from "./auth.js";
import { Connects } from "./connects.js";
import { Dialer } from "./dial.js";
import { Resolver } from "./dns.js";
import { HELLO, ProtocolError, readFrames } from "./frames.js";
import { HELLO_SECONDS, MAX_MESSAGE, readHello } from "./hello.js";
import { Policy } from "./policy.js";
import { Session } from "./session.js";
import { SessionV1 } from "./session_v1.js";
import { readSettings } from "./settings.js";

/** WebSockets of this object that have not said HELLO yet. */
const MAX_GREETING = 8;
/** Connects and look-ups that are kept for what is under way when GOAWAY is said. */
const RESERVE = 10;
/** Milliseconds between looks at whether the client is still heard. */
const LOOK_MS = 30000;
/** PINGs of the client's that may be missed while streams are open. */
const MISSED = 3;
const MAX_REASON = 120;

const Status = Object.freeze({
  GOING_AWAY: 1001,
  BROKEN: 1002,
  TOO_BIG: 1009,
  RESTART: 1012,
  TAKEN_OVER: 4001,
});

/**
 * What a WebSocket carries through hibernation.
 *
 * @typedef {object} Attachment
 * @property {"v2" | "v1"} version
 * @property {string} name of the token
 * @property {string} digest of the token
 * @property {string} own the worker's own host name
 * @property {"greeting" | "idle" | "busy"} state busy: streams are open, which do not survive
 * @property {number} made connects and look-ups so far
 * @property {import("./session.js").Saved} [saved]
 */

/** @extends {DurableObject<import("./settings.js").Env>} */
export class Tunnel extends DurableObject {
  #settings;
  #connects;
  #policy;
  #resolver;
  #dialer;
  #own = "";
  /** @type {Session | null} of v2 */
  #session = null;
  /** @type {string} digest of the token that the session is bound to */
  #bound = "";
  /** @type {WebSocket | null} the session's */
  #current = null;
  /** @type {Map<WebSocket, SessionV1>} */
  #sessionsV1 = new Map();
  /** @type {Map<WebSocket, ReturnType<typeof setTimeout>>} those that have not said HELLO yet */
  #greeting = new Map();
  /** @type {Map<WebSocket, string>} what those have said whose request did: it comes again, once */
  #announced = new Map();
  /** @type {ReturnType<typeof setTimeout> | null} until which a lost session may be resumed */
  #expiry = null;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #look = null;
  #heard = 0;
  #madeBefore = 0;
  /** What the attachment says, so that it is written only when that changes. */
  #busy = false;
  #written = "";

  /**
   * @param {DurableObjectState} ctx
   * @param {import("./settings.js").Env} env
   */
  constructor(ctx, env) {
    super(ctx, env);
    this.#settings = readSettings(env);
    this.#connects = new Connects(() => this.#checkBudget());
    this.#policy = new Policy(this.#settings.allow);
    this.#resolver = new Resolver(this.#settings.resolver, this.#connects);
    this.#dialer = new Dialer(
      this.#policy,
      this.#resolver,
      this.#connects,
      this.#settings.ipv6,
      () => this.#own,
    );
    for (const socket of ctx.getWebSockets()) this.#wakeUp(socket);
  }

  // What sessions need (Owner)

  get settings() {
    return this.#settings;
  }

  get dialer() {
    return this.#dialer;
  }

  now() {
    return Date.now();
  }

  /** @param {Uint8Array} query */
  ask(query) {
    return this.#resolver.answer(query);
  }

  // Upgrades

  /**
   * Takes a WebSocket that the front has let in.
   *
   * @param {Request} request
   * @returns {Promise<Response>}
   */
  async fetch(request) {
    const digest = request.headers.get("Tunnel-Digest") ?? "";
    if (request.headers.has("Tunnel-Resume") && !this.#holds(digest)) {
      return new Response(null, { status: 404 });
    }
    if (this.#greeting.size >= MAX_GREETING) return new Response(null, { status: 429 });
    const version = request.headers.get("Tunnel-Version") === "v1" ? "v1" : "v2";
    this.#own = new URL(request.url).hostname;
    const { 0: theirs, 1: ours } = new WebSocketPair();
    this.ctx.acceptWebSocket(ours);
    /** @type {Attachment} */
    const attachment = {
      version,
      name: decodeURIComponent(request.headers.get("Tunnel-Name") ?? ""),
      digest,
      own: this.#own,
      state: version === "v1" ? "idle" : "greeting",
      made: 0,
    };
    ours.serializeAttachment(attachment);
    if (version === "v1") this.#sessionsV1.set(ours, new SessionV1(this, ours));
    else this.#greet(ours);
    const hello = request.headers.get("Zks-Hello");
    if (hello !== null && version === "v2") this.#attachEarly(ours, hello);
    const protocol = request.headers.get("Sec-WebSocket-Protocol");
    const headers = protocol ? { "Sec-WebSocket-Protocol": protocol } : undefined;
    return new Response(null, { status: 101, webSocket: theirs, headers });
  }

  /**
   * @param {string} digest
   * @returns {boolean} there is a session that this token may resume
   */
  #holds(digest) {
    return this.#session !== null && this.#session.resumeSeconds > 0 && equal(digest, this.#bound);
  }

  /** @param {WebSocket} socket */
  #greet(socket) {
    const late = () => {
      const why = `no HELLO within ${HELLO_SECONDS} s`;
      if (!this.#announced.has(socket)) {
        this.#closeBroken(socket, new ProtocolError(why));
        return;
      }
      this.#close(socket, Status.GOING_AWAY, why); // the path may be lost again
      this.#gone(socket, true);
    };
    this.#greeting.set(socket, setTimeout(late, HELLO_SECONDS * 1000));
  }

  /**
   * Takes up a WebSocket that has outlived this object's memory.
   *
   * @param {WebSocket} socket
   */
  #wakeUp(socket) {
    const attachment = /** @type {Attachment | null} */ (socket.deserializeAttachment());
    if (attachment?.state !== "idle") {
      // Its streams are lost. A client that resumes finds no session, and starts afresh
      this.#close(socket, Status.RESTART, "the object was restarted");
      return;
    }
    this.#own = attachment.own;
    this.#madeBefore = attachment.made;
    if (attachment.version === "v1") {
      this.#sessionsV1.set(socket, new SessionV1(this, socket));
    } else if (attachment.saved) {
      const { saved } = attachment;
      this.#session = new Session(this, this.ctx.id.toString(), saved.hello, saved);
      this.#session.takeUp(socket);
      this.#bound = attachment.digest;
      this.#current = socket;
    }
  }

  // Events of WebSockets

  /**
   * @param {WebSocket} socket
   * @param {string | ArrayBuffer} message
   */
  webSocketMessage(socket, message) {
    this.#heard = this.now();
    try {
      if (typeof message === "string") throw new ProtocolError("a text message");
      const bytes = new Uint8Array(message);
      if (bytes.length > MAX_MESSAGE) {
        throw new ProtocolError(`a message of ${bytes.length} bytes`, Status.TOO_BIG);
      }
      const v1 = this.#sessionsV1.get(socket);
      if (v1) v1.receive(bytes);
      else if (this.#greeting.has(socket)) this.#onHello(socket, bytes);
      else if (socket === this.#current) this.#session?.receive(bytes);
      this.#settle(socket);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#closeBroken(socket, error);
    }
  }

  /**
   * @param {WebSocket} socket
   * @param {number} code
   * @param {string} reason
   */
  webSocketClose(socket, code, reason) {
    const lost = code === 1006 || code === 1001 || (code >= 1011 && code <= 1013);
    this.#close(socket, code === 1006 || code === 1005 ? 1000 : code, reason);
    this.#gone(socket, lost);
  }

  /** @param {WebSocket} socket */
  webSocketError(socket) {
    this.#gone(socket, true);
  }

  /**
   * @param {WebSocket} socket
   * @param {Uint8Array} message its first
   */
  #onHello(socket, message) {
    const { value: frame } = readFrames(message).next();
    if (frame?.command !== HELLO || message.length !== 9 + (frame.payload?.length ?? 0)) {
      throw new ProtocolError("HELLO: it is not the first message");
    }
    const hello = readHello(/** @type {Uint8Array} */ (frame.payload));
    const announced = this.#announced.get(socket);
    if (announced === undefined) {
      this.#attach(socket, hello);
    } else if (announced === JSON.stringify(hello)) {
      this.#forget(socket);
    } else {
      throw new ProtocolError("HELLO: it is not what the request has said");
    }
  }

  /**
   * Resumes the session by what the request of a WebSocket says, before the frame comes that says it
   * again. What cannot be used is left to that.
   *
   * @param {WebSocket} socket
   * @param {string} text JSON
   */
  #attachEarly(socket, text) {
    let hello;
    try {
      hello = readHello(new TextEncoder().encode(text));
    } catch {
      return;
    }
    try {
      const attachment = /** @type {Attachment} */ (socket.deserializeAttachment());
      const known = hello.session !== undefined && equal(hello.session, this.ctx.id.toString());
      if (!known || !this.#holds(attachment.digest)) return;
      const said = JSON.stringify(hello);
      this.#attach(socket, hello);
      if (this.#current !== socket) return; // it came too late
      this.#announced.set(socket, said);
      this.#greet(socket);
      this.#settle(socket);
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#closeBroken(socket, error);
    }
  }

  /**
   * @param {WebSocket} socket
   * @param {import("./hello.js").ClientHello} hello
   */
  #attach(socket, hello) {
    const attachment = /** @type {Attachment} */ (socket.deserializeAttachment());
    const id = this.ctx.id.toString();
    const known = hello.session !== undefined && equal(hello.session, id);
    if (known && !this.#holds(attachment.digest)) {
      // It has just ended: a client that comes again is sent to a new object
      this.#forget(socket);
      this.#close(socket, Status.RESTART, "this session is over");
      return;
    }
    if (!known && this.#session) throw new ProtocolError("HELLO: this object holds another session");
    this.#forget(socket);
    if (known && hello.attempt && this.#session && hello.attempt <= this.#session.attempt) {
      // It was said before, and came over a slower path
      this.#close(socket, Status.TAKEN_OVER, "a later attempt has the session");
      return;
    }
    if (known) {
      this.#takeOver();
    } else {
      hello.session = undefined;
      hello.received = 0;
      this.#session = new Session(this, id, hello);
      this.#bound = attachment.digest;
    }
    this.#current = socket;
    this.#session?.attach(socket, hello);
    this.#checkBudget();
  }

  /** The session is about to get another WebSocket. */
  #takeOver() {
    if (this.#expiry !== null) clearTimeout(this.#expiry);
    this.#expiry = null;
    const old = this.#current;
    if (!old) return;
    this.#current = null;
    this.#session?.detach();
    this.#close(old, Status.TAKEN_OVER, "the session was resumed on another WebSocket");
  }

  /** A session may have become idle: then the object may hibernate. */
  settled() {
    if (this.#busy && this.#current) this.#settle(this.#current);
    for (const socket of this.#sessionsV1.keys()) this.#settle(socket);
  }

  /**
   * Brings the attachment up to date, and looks after the client while streams are open.
   *
   * @param {WebSocket} socket
   */
  #settle(socket) {
    const v1 = this.#sessionsV1.get(socket);
    const session = v1 ?? (socket === this.#current ? this.#session : null);
    if (!session) return;
    const { idle } = session;
    if (!idle) this.#look ??= setTimeout(() => this.#lookAfter(), LOOK_MS);
    if (!idle && this.#busy) return;
    const saved = idle ? this.#session?.save() : undefined;
    const unchanged = !this.#busy && saved && JSON.stringify(saved) === this.#written;
    if (unchanged) return;
    this.#busy = !idle;
    this.#written = JSON.stringify(saved) ?? "";
    const before = /** @type {Attachment} */ (socket.deserializeAttachment());
    const made = this.#madeBefore + this.#connects.made;
    socket.serializeAttachment({ ...before, state: idle ? "idle" : "busy", made, saved });
    if (idle && this.#look !== null) {
      clearTimeout(this.#look); // a timer would keep the object from hibernating
      this.#look = null;
    }
  }

  /** While streams are open the client says PING, and acknowledges: one that does not is gone. */
  #lookAfter() {
    this.#look = null;
    const socket = this.#current;
    if (!socket || !this.#session) return;
    if (this.#session.expectsClient && this.now() - this.#heard > MISSED * this.#settings.keepalive * 1000) {
      this.#close(socket, Status.GOING_AWAY, "nothing was heard of the client");
      this.#gone(socket, true);
      return;
    }
    this.#settle(socket);
  }

  /** Says GOAWAY before the platform lets this object connect no further. */
  #checkBudget() {
    const made = this.#madeBefore + this.#connects.made;
    if (this.#connects.exhausted || made >= this.#settings.subrequests - RESERVE) {
      this.#session?.goAway("this object has made as many connections as it may");
    }
  }

  // Ends

  /**
   * @param {WebSocket} socket
   * @param {ProtocolError} error
   */
  #closeBroken(socket, error) {
    this.#close(socket, error.status, error.message);
    this.#gone(socket, false);
  }

  /**
   * @param {WebSocket} socket
   * @param {number} status
   * @param {string} reason
   */
  #close(socket, status, reason) {
    try {
      socket.close(status, reason.slice(0, MAX_REASON));
    } catch {
      // It is closed already, or was lost
    }
  }

  /** @param {WebSocket} socket which has said HELLO, or never will */
  #forget(socket) {
    clearTimeout(this.#greeting.get(socket) ?? null);
    this.#greeting.delete(socket);
    this.#announced.delete(socket);
  }

  /**
   * A WebSocket is gone.
   *
   * @param {WebSocket} socket
   * @param {boolean} lost the client may come back
   */
  #gone(socket, lost) {
    this.#forget(socket);
    this.#sessionsV1.get(socket)?.end();
    this.#sessionsV1.delete(socket);
    if (socket !== this.#current || !this.#session) return;
    this.#current = null;
    if (lost && this.#session.detach()) {
      this.#expiry = setTimeout(() => this.#endSession(), this.#session.resumeSeconds * 1000);
    } else {
      this.#endSession();
    }
  }

  #endSession() {
    if (this.#expiry !== null) clearTimeout(this.#expiry);
    this.#expiry = null;
    this.#session?.end();
    this.#session = null;
    this.#bound = "";
    if (this.#look !== null) clearTimeout(this.#look);
    this.#look = null;
  }
}
