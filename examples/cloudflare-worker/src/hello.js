/** HELLO: what the client says of itself, checked, and what this worker says (PROTOCOL.md §3). */

import { HELLO, ProtocolError } from "./frames.js";
import { writeFrame } from "./write_frames.js";

/** Seconds within which the client's HELLO must have come. */
export const HELLO_SECONDS = 10;

/** Most credit that one direction of a stream may have. */
export const MAX_WINDOW = 2 ** 31 - 1;

/** Largest message, in bytes, that this worker takes. */
export const MAX_MESSAGE = 1 << 20;

/** Largest DATA payload, in bytes, that this worker takes. */
export const MAX_DATA = 1 << 18;

/** Most DNS queries in flight. */
export const REQUESTS = 64;

/**
 * @typedef {object} ClientHello
 * @property {number} window credit that the client grants every stream at its start
 * @property {number} max_data largest DATA payload that the client takes
 * @property {number} max_message largest message that the client takes
 * @property {string} [session] the session to resume
 * @property {number} received counted frames of it that the client has taken
 * @property {number} attempt the number of this attempt at resuming it; 0: not counted
 * @property {number} [resume] seconds for which the client may come back; absent: as we say
 * @property {number} ack bytes that may come from the client before an ACK; we say it sooner
 */

/** @type {[string, number, number, number | undefined][]} name, least, most, default */
const INTEGERS = [
  ["window", 1, MAX_WINDOW, 65536],
  ["max_data", 1024, Number.MAX_SAFE_INTEGER, 65535],
  ["max_message", 131072, Number.MAX_SAFE_INTEGER, 1048576],
  ["received", 0, Number.MAX_SAFE_INTEGER, 0],
  ["attempt", 0, Number.MAX_SAFE_INTEGER, 0],
  ["resume", 0, Number.MAX_SAFE_INTEGER, undefined],
  ["ack", 524288, Number.MAX_SAFE_INTEGER, 524288],
];

/**
 * @param {Uint8Array} body the body of a HELLO frame
 * @returns {ClientHello}
 * @throws {ProtocolError} it is malformed, or a value is of the wrong type or outside its range
 */
export function readHello(body) {
  /** @type {unknown} */
  let said;
  try {
    said = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(body));
  } catch {
    throw new ProtocolError("HELLO: its body is not JSON");
  }
  if (typeof said !== "object" || said === null || Array.isArray(said)) {
    throw new ProtocolError("HELLO: its body is not a JSON object");
  }
  const fields = /** @type {Record<string, unknown>} */ (said);
  if (fields.version !== 2) throw new ProtocolError("HELLO: version is not 2");
  /** @type {Record<string, unknown>} */
  const hello = {};
  for (const [name, least, most, absent] of INTEGERS) {
    const value = fields[name];
    if (value === undefined) {
      hello[name] = absent;
    } else if (!Number.isInteger(value)) {
      throw new ProtocolError(`HELLO: ${name} is not an integer`);
    } else {
      const number = /** @type {number} */ (value);
      if (number < least || number > most) {
        throw new ProtocolError(`HELLO: ${name} is ${number}, not ${least} to ${most}`);
      }
      hello[name] = number;
    }
  }
  if (fields.session !== undefined) {
    if (typeof fields.session !== "string") throw new ProtocolError("HELLO: session is not a string");
    hello.session = fields.session;
  }
  return /** @type {ClientHello} */ (/** @type {unknown} */ (hello));
}

/**
 * @param {Record<string, unknown>} fields what this worker says
 * @returns {Uint8Array} the frame
 */
export function writeHello(fields) {
  const payload = new TextEncoder().encode(JSON.stringify({ version: 2, ...fields }));
  return writeFrame({ command: HELLO, id: 0, payload });
}
