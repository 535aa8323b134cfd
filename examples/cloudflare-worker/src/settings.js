/** The variables of wrangler.jsonc, read and checked. */

import { parseNetwork } from "./addresses.js";

/**
 * What Cloudflare gives the worker: the object's namespace, the secret, and variables, all optional.
 *
 * @typedef {object} Env
 * @property {DurableObjectNamespace} TUNNELS
 * @property {string} [TOKEN] a token, or lines of "name token"
 * @property {string | Fetcher} [RESOLVER]
 * @property {string} [STREAMS]
 * @property {string} [SUBREQUESTS]
 * @property {string} [RESUME]
 * @property {string} [ALLOW]
 * @property {string} [ORIGINS]
 * @property {string} [IPV6]
 */

/**
 * @typedef {object} Settings
 * @property {string | Fetcher} resolver
 * @property {number} streams most open streams of a session
 * @property {number} subrequests connects and look-ups that an object may make; Infinity: no known budget
 * @property {number} resume seconds that a session outlives its WebSocket
 * @property {number} keepalive seconds between a client's PINGs while streams are open
 * @property {import("./addresses.js").Network[]} allow
 * @property {boolean} ipv6
 */

/** An object in use is evicted after 70 to 140 s without an incoming event. */
const KEEPALIVE = 30;
const RESOLVER = "https://cloudflare-dns.com/dns-query";

/** A variable cannot be used; the message says which, and what to write. */
export class SettingsError extends Error {}

/**
 * @param {string} name
 * @param {unknown} value
 * @param {number} absent
 * @param {number} least
 * @param {number} most
 * @returns {number}
 */
function integer(name, value, absent, least, most) {
  if (value === undefined || value === "") return absent;
  const number = Number(value);
  if (!Number.isInteger(number) || number < least || number > most) {
    throw new SettingsError(`${name} is "${value}", not a whole number from ${least} to ${most}`);
  }
  return number;
}

/**
 * @param {string | undefined} text
 * @returns {string[]}
 */
function words(text) {
  return (text ?? "").split(/[\s,]+/).filter(Boolean);
}

/**
 * @param {Env} env
 * @returns {Settings}
 * @throws {SettingsError}
 */
export function readSettings(env) {
  let allow;
  try {
    allow = words(env.ALLOW).map(parseNetwork);
  } catch (error) {
    throw new SettingsError(`ALLOW: ${/** @type {Error} */ (error).message}`);
  }
  const resolver = env.RESOLVER || RESOLVER;
  if (typeof resolver === "string" && !/^https?:\/\//.test(resolver)) {
    throw new SettingsError(`RESOLVER is "${resolver}", not the URL of a DNS-over-HTTPS server`);
  }
  return {
    resolver,
    streams: integer("STREAMS", env.STREAMS, 100, 1, 1000),
    subrequests: integer("SUBREQUESTS", env.SUBREQUESTS, Infinity, 20, 1e9),
    resume: integer("RESUME", env.RESUME, 60, 0, 60),
    keepalive: KEEPALIVE,
    allow,
    ipv6: integer("IPV6", env.IPV6, 1, 0, 1) === 1,
  };
}

/**
 * @param {Env} env
 * @returns {string[]} the origins of web pages that may connect
 */
export function readOrigins(env) {
  return words(env.ORIGINS);
}
