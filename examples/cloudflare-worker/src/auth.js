/** Who may use this worker: the bearer tokens of the secret TOKEN (PROTOCOL.md §1). */

import { SettingsError } from "./settings.js";

/**
 * @typedef {object} Principal
 * @property {string} name for logs
 * @property {string} digest of the token (SHA-256, hexadecimal): a session is bound to it
 */

/**
 * Whether two strings are equal, in a time that tells nothing of where they differ.
 *
 * @param {string} one
 * @param {string} other
 * @returns {boolean}
 */
export function equal(one, other) {
  const encoder = new TextEncoder();
  const first = encoder.encode(one);
  const second = encoder.encode(other);
  if (first.byteLength !== second.byteLength) return false;
  return crypto.subtle.timingSafeEqual(first, second);
}

/**
 * @param {string} text
 * @returns {Promise<string>} SHA-256, hexadecimal
 */
async function digest(text) {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * @param {string | undefined} secret a token, or lines of "name token"; # begins a comment line
 * @returns {{ name: string, token: string }[]}
 * @throws {SettingsError} there is none, or one that nobody could offer
 */
function readTokens(secret) {
  const tokens = [];
  for (const [index, raw] of (secret ?? "").split("\n").entries()) {
    const line = raw.trim();
    if (!line || line.startsWith("#")) continue;
    const parts = line.split(/\s+/);
    const token = parts[parts.length - 1];
    if (parts.length > 2 || !/^[\x21-\x7e]{16,512}$/.test(token)) {
      throw new SettingsError(
        `TOKEN, line ${index + 1}: write one "name token" or one token a line, of 16 to 512 printable ` +
          "ASCII characters without blanks",
      );
    }
    tokens.push({ name: parts.length === 2 ? parts[0] : `line-${index + 1}`, token });
  }
  if (!tokens.length) {
    throw new SettingsError("the secret TOKEN is not set; type: npx wrangler secret put TOKEN");
  }
  return tokens;
}

/**
 * Takes the same time for every wrong or missing token: all tokens are compared, always.
 *
 * @param {string | undefined} secret
 * @param {string | null} authorization the header
 * @returns {Promise<Principal | null>} null: 401
 * @throws {SettingsError}
 */
export async function authenticate(secret, authorization) {
  const tokens = readTokens(secret);
  const header = (authorization ?? "").trim();
  const blank = header.search(/\s/);
  const scheme = blank < 0 ? header : header.slice(0, blank);
  const offered = await digest(blank < 0 ? "" : header.slice(blank).trim());
  /** @type {Principal | null} */
  let found = null;
  for (const known of tokens) {
    const hash = await digest(known.token);
    if (equal(hash, offered)) found = { name: known.name, digest: hash };
  }
  return scheme.toLowerCase() === "bearer" ? found : null;
}
