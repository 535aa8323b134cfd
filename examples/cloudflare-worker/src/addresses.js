/** IP addresses and networks, as numbers. */

/**
 * @typedef {object} Address
 * @property {4 | 6} version
 * @property {bigint} value
 */

/**
 * @typedef {object} Network
 * @property {4 | 6} version
 * @property {bigint} first
 * @property {bigint} size
 */

/** A host that is neither an address nor anything that could be a name. */
export class InvalidHost extends Error {}

const MAPPED = 0xffffn; // ::ffff:0:0/96, above the IPv4 address

/**
 * @param {string} text
 * @returns {number | null} a number as inet_aton reads it: 0x… hexadecimal, 0… octal, else decimal
 */
function ipv4Part(text) {
  if (/^0[xX][0-9a-fA-F]+$/.test(text)) return Number.parseInt(text.slice(2), 16);
  if (/^0[0-7]*$/.test(text)) return Number.parseInt(text, 8);
  if (/^[1-9][0-9]*$/.test(text)) return Number.parseInt(text, 10);
  return null;
}

/**
 * Reads `a`, `a.b`, `a.b.c` or `a.b.c.d`, the last part filling what is left (inet_aton(3)).
 *
 * @param {string} text
 * @returns {bigint | null}
 */
function parseIpv4(text) {
  const parts = text.split(".");
  if (parts.length > 4 || text.length > 64) return null;
  let value = 0;
  for (const [index, part] of parts.entries()) {
    const number = ipv4Part(part);
    const width = index === parts.length - 1 ? 2 ** (8 * (4 - index)) : 256;
    if (number === null || number >= width) return null;
    value = value * width + number;
  }
  return BigInt(value);
}

/**
 * @param {string} text
 * @returns {bigint | null}
 */
function parseIpv6(text) {
  let rest = text;
  const tail = text.slice(text.lastIndexOf(":") + 1);
  if (tail.includes(".")) {
    if (!/^(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})$/.test(tail)) return null;
    const ipv4 = parseIpv4(tail);
    if (ipv4 === null) return null;
    const high = (ipv4 >> 16n).toString(16);
    const low = (ipv4 & 0xffffn).toString(16);
    rest = `${text.slice(0, -tail.length)}${high}:${low}`;
  }
  const halves = rest.split("::");
  if (halves.length > 2) return null;
  const groups = halves.map((half) => (half === "" ? [] : half.split(":")));
  const count = groups.reduce((sum, half) => sum + half.length, 0);
  if (halves.length === 2 ? count > 7 : count !== 8) return null;
  const filled = [
    ...groups[0],
    ...Array(halves.length === 2 ? 8 - count : 0).fill("0"),
    ...(groups[1] ?? []),
  ];
  let value = 0n;
  for (const group of filled) {
    if (!/^[0-9a-fA-F]{1,4}$/.test(group)) return null;
    value = (value << 16n) | BigInt(Number.parseInt(group, 16));
  }
  return value;
}

/**
 * Reads the address that a host denotes, in any spelling that a system would read as one. IPv4-mapped
 * IPv6 is IPv4.
 *
 * @param {string} host
 * @returns {Address | null} null: it is a name
 * @throws {InvalidHost} for what must never be looked up: an empty host, a zone, brackets, blanks,
 *   and a "name" whose last label is a number
 */
export function parseAddress(host) {
  if (!host || host.length > 255) throw new InvalidHost("an empty or overlong host");
  if (host.includes(":")) {
    if (host.includes("%")) throw new InvalidHost("an address with a zone");
    const value = parseIpv6(host);
    if (value === null) throw new InvalidHost("neither an IPv6 address nor a name");
    return unmapped({ version: 6, value });
  }
  const ipv4 = parseIpv4(host);
  if (ipv4 !== null) return { version: 4, value: ipv4 };
  // eslint-disable-next-line no-control-regex
  if (/[\x00-\x20\x7f[\]/%@\\]/.test(host)) throw new InvalidHost("a character that no name has");
  const label = host.replace(/\.$/, "").split(".").pop() ?? "";
  if (ipv4Part(label) !== null || /^[0-9]*$/.test(label)) {
    throw new InvalidHost("neither an IPv4 address nor a name");
  }
  return null;
}

/**
 * @param {Address} address
 * @returns {Address} IPv4 where it is IPv4-mapped
 */
export function unmapped(address) {
  if (address.version === 6 && address.value >> 32n === MAPPED) {
    return { version: 4, value: address.value & 0xffffffffn };
  }
  return address;
}

/**
 * @param {Address} address
 * @returns {string} it, as it is written
 */
export function formatAddress({ version, value }) {
  if (version === 4) {
    return [24n, 16n, 8n, 0n].map((shift) => (value >> shift) & 0xffn).join(".");
  }
  const groups = [];
  for (let shift = 112n; shift >= 0n; shift -= 16n) groups.push((value >> shift) & 0xffffn);
  const text = groups.map((group) => group.toString(16)).join(":");
  const zeros = [...text.matchAll(/(?:^|:)0(?::0)+(?=:|$)/g)].sort((a, b) => b[0].length - a[0].length)[0];
  if (!zeros) return text;
  return `${text.slice(0, zeros.index)}::${text.slice(zeros.index + zeros[0].length).replace(/^:/, "")}`;
}

/**
 * Reads a network, such as 10.0.0.0/8, or a single address.
 *
 * @param {string} text
 * @returns {Network}
 * @throws {Error} it is neither, or has host bits set
 */
export function parseNetwork(text) {
  const [, host, prefix] = /^([0-9a-fA-F.:]+)(?:\/([0-9]{1,3}))?$/.exec(text) ?? [];
  const version = host?.includes(":") ? 6 : 4;
  const strict = version === 6 || /^(?:(?:0|[1-9][0-9]{0,2})\.){3}(?:0|[1-9][0-9]{0,2})$/.test(host ?? "");
  const value = host && strict ? (version === 6 ? parseIpv6(host) : parseIpv4(host)) : null;
  const width = version === 6 ? 128 : 32;
  const bits = prefix === undefined ? width : Number(prefix);
  if (value === null || bits > width) throw new Error(`${text} is not a network such as 10.0.0.0/8`);
  const size = 1n << BigInt(width - bits);
  if (value % size) throw new Error(`${text} has host bits set`);
  return { version, first: value, size };
}

/**
 * @param {Network} network
 * @param {Address} address
 * @returns {boolean}
 */
export function contains(network, address) {
  if (network.version !== address.version) return false;
  const offset = address.value - network.first;
  return offset >= 0n && offset < network.size;
}
