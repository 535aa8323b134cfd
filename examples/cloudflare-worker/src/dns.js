/**
 * DNS over HTTPS (RFC 8484): the client's queries, forwarded as they are, and the addresses of names
 * that streams are to be connected to.
 */

import { ConnectError } from "./connects.js";

const HEADER = 12;
/** Seconds for an answer: a client gives up after 5 (PROTOCOL.md §5). And until it must be asked for. */
const SECONDS = 4.5;
const QUEUED_SECONDS = 4;
const MAX_MESSAGE = 65535;
const MAX_CACHED = 256;
const MAX_TTL = 300;
const NEGATIVE_TTL = 10;
const MAX_ADDRESSES = 16;

const IN = 1;
const TYPE_A = 1;
const TYPE_AAAA = 28;
const TYPE_OPT = 41;
const TYPE_ANY = 255;

export const Rcode = Object.freeze({ FORMERR: 1, SERVFAIL: 2, NXDOMAIN: 3, NOTIMP: 4, REFUSED: 5 });

/** The answer to ANY (RFC 8482 §4.2): HINFO "RFC8482" "", for an hour. */
const HINFO = Uint8Array.of(
  ...[0xc0, 0x0c, 0, 13, 0, IN, 0, 0, 0x0e, 0x10, 0, 9, 7],
  ...new TextEncoder().encode("RFC8482"),
  0,
);

/** @typedef {import("./addresses.js").Address} Address */
/** @typedef {import("./connects.js").Connects} Connects */

/** No resolver has answered, or not with what was asked. */
export class DnsError extends Error {
  /**
   * @param {string} message
   * @param {boolean} [late] it has not answered in time
   */
  constructor(message, late = false) {
    super(message);
    this.late = late;
  }
}

/**
 * @param {Uint8Array} message
 * @param {number} position
 * @returns {number} where the name that begins there ends; -1: it is cut short or too long
 */
function nameEnd(message, position) {
  const start = position;
  while (position < message.length && position - start <= 255) {
    const label = message[position];
    if (label === 0) return position + 1;
    if (label >= 0xc0) return position + 2 <= message.length ? position + 2 : -1;
    if (label > 63) return -1;
    position += 1 + label;
  }
  return -1;
}

/**
 * @param {Uint8Array} query
 * @returns {number} where its one question ends; -1: it is no query of one question
 */
function questionEnd(query) {
  if (query.length < HEADER || query[4] !== 0 || query[5] !== 1) return -1;
  const end = nameEnd(query, HEADER);
  if (end < 0 || query[end - 1] !== 0) return -1; // a question is not compressed
  return end + 4 <= query.length ? end + 4 : -1;
}

/**
 * An answer that is an error: with the query's id, opcode, RD, CD and question, as far as they are
 * there, and an Extended DNS Error (RFC 8914) where the query has EDNS.
 *
 * @param {Uint8Array} query any bytes at all
 * @param {number} rcode
 * @param {string} [reason]
 * @returns {Uint8Array}
 */
export function errorAnswer(query, rcode, reason = "") {
  const end = questionEnd(query);
  const header = new Uint8Array(HEADER);
  header.set(query.subarray(0, 2));
  header[2] = 0x80 | ((query[2] ?? 0) & 0x79);
  header[3] = 0x80 | ((query[3] ?? 0) & 0x10) | rcode;
  if (end < 0) {
    header[3] = 0x80 | (rcode === Rcode.SERVFAIL ? Rcode.FORMERR : rcode);
    return header;
  }
  header[5] = 1;
  const extra = reason ? extendedError(query, end, reason) : new Uint8Array(0);
  header[11] = extra.length ? 1 : 0;
  const answer = new Uint8Array(end + extra.length);
  answer.set(query.subarray(0, end));
  answer.set(header);
  answer.set(extra, end);
  return answer;
}

/**
 * @param {Uint8Array} query
 * @param {number} end of its question
 * @param {string} reason
 * @returns {Uint8Array} an OPT record, if the query has one right behind its question
 */
function extendedError(query, end, reason) {
  const hasOpt = query[end] === 0 && query[end + 1] === 0 && query[end + 2] === TYPE_OPT;
  if (!hasOpt || query.length < end + 11) return new Uint8Array(0);
  const text = new TextEncoder().encode(reason).subarray(0, 200);
  const record = new Uint8Array(11 + 6 + text.length);
  const view = new DataView(record.buffer);
  record[2] = TYPE_OPT;
  view.setUint16(3, 1232);
  record[7] = query[end + 7] & 0x80; // DO
  view.setUint16(9, 6 + text.length);
  view.setUint16(11, 15);
  view.setUint16(13, 2 + text.length);
  record.set(text, 17);
  return record;
}

/**
 * What the resolver is not asked, because it is no plain question (PROTOCOL.md §5).
 *
 * @param {Uint8Array} query
 * @returns {Uint8Array | null} the answer; null: the resolver is to be asked
 */
export function ownAnswer(query) {
  const end = questionEnd(query);
  if (end < 0) return errorAnswer(query, Rcode.FORMERR);
  if (query[2] & 0x80) return errorAnswer(query, Rcode.FORMERR); // a response
  if (query[2] & 0x78) return errorAnswer(query, Rcode.NOTIMP, "no other opcode than QUERY");
  const view = new DataView(query.buffer, query.byteOffset);
  const type = view.getUint16(end - 4);
  if (view.getUint16(end - 2) !== IN) return errorAnswer(query, Rcode.REFUSED, "no other class than IN");
  if (type === 251 || type === 252) return errorAnswer(query, Rcode.REFUSED, "no zone transfers");
  if (type === TYPE_ANY) {
    const head = errorAnswer(query, 0);
    head[7] = 1;
    const answer = new Uint8Array(head.length + HINFO.length);
    answer.set(head);
    answer.set(HINFO, head.length);
    return answer;
  }
  if (type === TYPE_OPT || (type >= 128 && type <= 255)) {
    return errorAnswer(query, Rcode.NOTIMP, "a meta-type");
  }
  return null;
}

/**
 * @param {Uint8Array} query
 * @returns {Uint8Array} the answer where too many queries are in flight
 */
export function tooManyQueries(query) {
  return errorAnswer(query, Rcode.SERVFAIL, "too many DNS queries are in flight");
}

export class Resolver {
  #resolver;
  #connects;
  /** @type {Map<string, { addresses: Address[], until: number }>} the longest unused first */
  #cache = new Map();

  /**
   * @param {string | Fetcher} resolver the URL of a DoH server, or a binding that is one
   * @param {Connects} connects
   */
  constructor(resolver, connects) {
    this.#resolver = resolver;
    this.#connects = connects;
  }

  /**
   * Answers a client's query; never rejects.
   *
   * @param {Uint8Array} query a plain question
   * @returns {Promise<Uint8Array>}
   */
  async answer(query) {
    try {
      return await this.#ask(query);
    } catch (error) {
      return errorAnswer(query, Rcode.SERVFAIL, /** @type {Error} */ (error).message);
    }
  }

  /**
   * @param {Uint8Array} query of one question
   * @param {AbortSignal} [given] aborted: the answer is not wanted any more
   * @returns {Promise<Uint8Array>} the answer, with the query's id
   * @throws {DnsError}
   * @throws {ConnectError} the resolver cannot be asked now
   */
  async #ask(query, given) {
    const body = query.slice();
    body[0] = body[1] = 0; // as caches like it (RFC 8484 §4.1)
    const controller = new AbortController();
    const { signal } = controller;
    const abort = () => controller.abort();
    const timer = setTimeout(abort, SECONDS * 1000);
    given?.addEventListener("abort", abort);
    /** @type {Uint8Array} */
    let answer;
    try {
      const latest = Date.now() + QUEUED_SECONDS * 1000;
      const response = await this.#connects.fetch(() => this.#post(body, signal), signal, latest);
      if (response.status !== 200) {
        response.body?.cancel();
        throw new DnsError(`the resolver answered HTTP ${response.status}`);
      }
      answer = await limited(response);
    } catch (error) {
      if (error instanceof DnsError || error instanceof ConnectError) throw error;
      if (signal.aborted) throw new DnsError("the resolver did not answer in time", true);
      throw new DnsError(`the resolver cannot be asked: ${/** @type {Error} */ (error).message}`);
    } finally {
      clearTimeout(timer);
      given?.removeEventListener("abort", abort);
    }
    const end = questionEnd(query);
    const same =
      answer.length >= end &&
      (answer[2] & 0x80) !== 0 &&
      sameQuestion(answer.subarray(HEADER, end), query.subarray(HEADER, end));
    if (!same) throw new DnsError("the resolver answered another question");
    answer[0] = query[0];
    answer[1] = query[1];
    return answer;
  }

  /**
   * @param {Uint8Array} body
   * @param {AbortSignal} signal
   * @returns {Promise<Response>}
   */
  #post(body, signal) {
    const type = "application/dns-message";
    /** @type {RequestInit} */
    const request = {
      method: "POST",
      body,
      headers: { "Content-Type": type, Accept: type },
      redirect: "manual",
      signal,
    };
    if (typeof this.#resolver === "string") return fetch(this.#resolver, request);
    return this.#resolver.fetch("https://resolver/dns-query", request);
  }

  /**
   * Looks a name up.
   *
   * @param {string} name ASCII
   * @param {4 | 6} version of IP
   * @param {AbortSignal} signal
   * @returns {Promise<Address[]>}
   * @throws {DnsError}
   * @throws {ConnectError} the resolver cannot be asked now
   */
  async addresses(name, version, signal) {
    const key = `${version} ${name}`;
    const known = this.#cache.get(key);
    if (known && Date.now() < known.until) return known.addresses;
    const query = questionFor(name, version === 6 ? TYPE_AAAA : TYPE_A);
    const { addresses, ttl } = readAddresses(await this.#ask(query, signal), version);
    this.#cache.delete(key);
    this.#cache.set(key, { addresses, until: Date.now() + ttl * 1000 });
    if (this.#cache.size > MAX_CACHED) this.#cache.delete([...this.#cache.keys()][0]);
    return addresses;
  }
}

/**
 * @param {Uint8Array} one
 * @param {Uint8Array} other
 * @returns {boolean} they are equal, but for the case of letters
 */
function sameQuestion(one, other) {
  const lower = (/** @type {number} */ byte) => (byte >= 0x41 && byte <= 0x5a ? byte | 0x20 : byte);
  return one.every((byte, index) => lower(byte) === lower(other[index]));
}

/**
 * @param {Response} response
 * @returns {Promise<Uint8Array>} its body
 */
async function limited(response) {
  const parts = [];
  let size = 0;
  for await (const part of /** @type {AsyncIterable<Uint8Array>} */ (response.body ?? [])) {
    size += part.length;
    if (size > MAX_MESSAGE) throw new DnsError("the resolver's answer is too long");
    parts.push(part);
  }
  const whole = new Uint8Array(size);
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}

/**
 * @param {string} name
 * @param {number} type
 * @returns {Uint8Array} a query
 */
function questionFor(name, type) {
  const labels = name.replace(/\.$/, "").split(".");
  const bytes = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]; // RD
  for (const label of labels) {
    const encoded = new TextEncoder().encode(label);
    if (encoded.length < 1 || encoded.length > 63) throw new DnsError("not a name");
    bytes.push(encoded.length, ...encoded);
  }
  bytes.push(0, 0, type, 0, IN);
  if (bytes.length > HEADER + 255 + 4) throw new DnsError("not a name");
  return Uint8Array.from(bytes);
}

/**
 * @param {Uint8Array} answer
 * @param {4 | 6} version
 * @returns {{ addresses: Address[], ttl: number }} seconds
 * @throws {DnsError} it is an error, or malformed
 */
function readAddresses(answer, version) {
  const rcode = answer[3] & 0x0f;
  if (rcode === Rcode.NXDOMAIN) return { addresses: [], ttl: NEGATIVE_TTL };
  if (rcode) throw new DnsError(`the resolver answered with code ${rcode}`);
  const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength);
  const wanted = version === 6 ? TYPE_AAAA : TYPE_A;
  const size = version === 6 ? 16 : 4;
  /** @type {Address[]} */
  const addresses = [];
  let ttl = MAX_TTL;
  let position = questionEnd(answer);
  for (let left = view.getUint16(6); left > 0 && position >= 0; left--) {
    const start = nameEnd(answer, position);
    if (start < 0 || start + 10 > answer.length) throw new DnsError("the resolver's answer is cut short");
    const end = start + 10 + view.getUint16(start + 8);
    if (end > answer.length) throw new DnsError("the resolver's answer is cut short");
    if (view.getUint16(start) === wanted && end - start - 10 === size && addresses.length < MAX_ADDRESSES) {
      let value = 0n;
      for (const byte of answer.subarray(start + 10, end)) value = (value << 8n) | BigInt(byte);
      addresses.push({ version, value });
    }
    ttl = Math.min(ttl, view.getUint32(start + 4));
    position = end;
  }
  return { addresses, ttl: addresses.length ? ttl : Math.min(ttl, NEGATIVE_TTL) };
}
