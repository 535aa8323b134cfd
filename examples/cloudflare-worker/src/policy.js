/** Which addresses this worker refuses to connect to (PROTOCOL.md §7: server-side request forgery). */

import { contains, formatAddress, parseNetwork, unmapped } from "./addresses.js";

/** @typedef {import("./addresses.js").Address} Address */
/** @typedef {import("./addresses.js").Network} Network */

/**
 * @param {[string, string][]} table reason and networks, blanks between them
 * @returns {[string, Network][]}
 */
function networks(table) {
  return table.flatMap(([reason, texts]) =>
    texts.split(" ").map((text) => /** @type {[string, Network]} */ ([reason, parseNetwork(text)])),
  );
}

// The first match names the reason, so the narrow come before the wide. IANA's special-purpose
// registries, RFC 6890 and its updates; the metadata services of clouds.
const METADATA = networks([
  [
    "cloud metadata",
    "169.254.169.254 169.254.170.2 169.254.170.23 169.254.42.42 168.63.129.16 100.100.100.200 " +
      "192.0.0.192 fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe",
  ],
]);

const REFUSED = networks([
  ["unspecified", "0.0.0.0/8 ::"],
  ["loopback", "127.0.0.0/8 ::1"],
  ["private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16"],
  ["carrier-grade NAT", "100.64.0.0/10"],
  ["link-local", "169.254.0.0/16 fe80::/10"],
  ["documentation", "192.0.2.0/24 198.51.100.0/24 203.0.113.0/24 2001:db8::/32 3fff::/20"],
  ["benchmarking", "198.18.0.0/15 2001:2::/48"],
  ["multicast", "224.0.0.0/4 ff00::/8"],
  ["broadcast", "255.255.255.255"],
  ["IPv4-compatible", "::/96"],
  ["local-use NAT64", "64:ff9b:1::/48"],
  ["discard-only", "100::/64"],
  ["reserved", "192.0.0.0/24 192.88.99.0/24 240.0.0.0/4 2001::/23"],
  ["unique-local", "fc00::/7"],
  ["site-local", "fec0::/10"],
]);

// https://www.cloudflare.com/ips/: `connect` fails there, in a way that says nothing
const CLOUDFLARE = networks([
  [
    "Cloudflare's own network, which Workers cannot connect to",
    "103.21.244.0/22 103.22.200.0/22 103.31.4.0/22 104.16.0.0/13 104.24.0.0/14 108.162.192.0/18 " +
      "131.0.72.0/22 141.101.64.0/18 162.158.0.0/15 172.64.0.0/13 173.245.48.0/20 188.114.96.0/20 " +
      "190.93.240.0/20 197.234.240.0/22 198.41.128.0/17 1.0.0.0/24 1.1.1.0/24 2400:cb00::/32 " +
      "2606:4700::/32 2803:f800::/32 2405:b500::/32 2405:8100::/32 2a06:98c0::/29 2c0f:f248::/32",
  ],
]);

const GLOBAL_UNICAST = parseNetwork("2000::/3");
const NAT64 = parseNetwork("64:ff9b::/96");
const SIX_TO_FOUR = parseNetwork("2002::/16");
const TEREDO = parseNetwork("2001::/32");
const COMPATIBLE = parseNetwork("::/96");
const TRANSLATED = parseNetwork("::ffff:0:0:0/96");
const ISATAP = [0x00005efen, 0x02005efen]; // the upper half of the interface identifier, RFC 5214

const LOW = 0xffffffffn;

/**
 * The IPv4 addresses that an IPv6 address carries inside, in a form that something on the way may
 * unpack: IPv4-compatible, translated, NAT64, 6to4, Teredo (server and client) and ISATAP.
 *
 * @param {Address} address
 * @returns {Address[]}
 */
export function embedded(address) {
  const { value } = address;
  const found = [];
  if (contains(NAT64, address) || contains(TRANSLATED, address)) {
    found.push(value & LOW);
  } else if (contains(COMPATIBLE, address)) {
    if (value > 1n) found.push(value & LOW); // :: and ::1 are themselves
  } else if (contains(SIX_TO_FOUR, address)) {
    found.push((value >> 80n) & LOW);
  } else if (contains(TEREDO, address)) {
    found.push((value >> 64n) & LOW, (value & LOW) ^ LOW);
  }
  if (ISATAP.includes((value >> 32n) & LOW)) found.push(value & LOW);
  return found.map((inner) => ({ version: 4, value: inner }));
}

/**
 * @param {[string, Network][]} table
 * @param {Address} address
 * @returns {string | null}
 */
function match(table, address) {
  return table.find(([, network]) => contains(network, address))?.[0] ?? null;
}

export class Policy {
  #allow;

  /**
   * @param {Network[]} allow networks that may be reached whatever they are; an IPv4 network in every
   *   IPv6 form that embeds it, too
   */
  constructor(allow) {
    this.#allow = allow;
  }

  /**
   * @param {Address} address
   * @returns {boolean}
   */
  #allowed(address) {
    return this.#allow.some((network) => contains(network, address));
  }

  /**
   * @param {Address} address
   * @returns {string | null} why it is refused, in a few words; null: it may be reached
   */
  refusal(address) {
    address = unmapped(address);
    if (this.#allowed(address)) return null;
    const metadata = match(METADATA, address);
    if (metadata) return metadata;
    if (address.version === 4) return match(REFUSED, address) ?? match(CLOUDFLARE, address);
    const inner = embedded(address);
    for (const carried of inner) {
      const reason = this.refusal(carried);
      if (reason) return `${reason} (embedded ${formatAddress(carried)})`;
    }
    if (inner.length && inner.every((carried) => this.#allowed(carried))) return null;
    if (contains(TEREDO, address)) return null; // what it embeds decides
    const reason = match(REFUSED, address) ?? match(CLOUDFLARE, address);
    if (reason) return reason;
    return contains(GLOBAL_UNICAST, address) || contains(NAT64, address) ? null : "reserved";
  }
}
