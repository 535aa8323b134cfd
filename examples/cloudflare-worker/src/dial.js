/** Connecting to a host: names resolved here, every address checked, IPv6 and IPv4 raced (RFC 8305). */

import { InvalidHost, formatAddress, parseAddress } from "./addresses.js";
import { ConnectError } from "./connects.js";
import { DnsError } from "./dns.js";
import { Code } from "./frames.js";

/** Milliseconds until the next address is tried beside the last. */
const NEXT_MS = 250;
/** Milliseconds that known IPv4 addresses wait for those of IPv6. */
const IPV6_FIRST_MS = 50;

/** Of several addresses that failed each in its way, the code that says most is told. */
const TELLING = [Code.REFUSED, Code.TIMED_OUT, Code.GOING_AWAY, Code.TOO_MANY, Code.FAILED];

/** @typedef {import("./addresses.js").Address} Address */
/** @typedef {import("./connects.js").Connection} Connection */

export class Dialer {
  #policy;
  #resolver;
  #connects;
  #ipv6;
  #own;

  /**
   * @param {import("./policy.js").Policy} policy
   * @param {import("./dns.js").Resolver} resolver
   * @param {import("./connects.js").Connects} connects
   * @param {boolean} ipv6 whether IPv6 is connected to
   * @param {() => string} own the worker's own name
   */
  constructor(policy, resolver, connects, ipv6, own) {
    this.#policy = policy;
    this.#resolver = resolver;
    this.#connects = connects;
    this.#ipv6 = ipv6;
    this.#own = own;
  }

  /**
   * @param {string} host an address in any spelling, or a name
   * @param {number} port
   * @param {AbortSignal} signal
   * @returns {Promise<Connection>}
   * @throws {ConnectError} its code and message are for the client
   */
  async dial(host, port, signal) {
    if (!port) throw new ConnectError(Code.REFUSED, "port 0 cannot be connected to");
    if (port === 25) throw new ConnectError(Code.POLICY, "Cloudflare lets Workers use no port 25");
    const lookup = this.#lookUp(host, signal);
    await lookup.first;
    if (signal.aborted) throw new ConnectError(Code.FAILED, "given up");
    return await this.#race(lookup, port, signal);
  }

  /**
   * @param {string} host
   * @param {AbortSignal} signal
   */
  #lookUp(host, signal) {
    let address;
    let name;
    try {
      name = toAscii(host);
      address = parseAddress(name);
    } catch (error) {
      if (!(error instanceof InvalidHost)) throw error;
      throw new ConnectError(Code.FAILED, error.message);
    }
    const lookup = new Lookup();
    if (address) {
      if (address.version === 6 && !this.#ipv6) {
        throw new ConnectError(Code.FAILED, "this worker connects to no IPv6");
      }
      lookup.found(address.version, [address]);
      lookup.finish();
    } else {
      if (name.replace(/\.$/, "") === this.#own()) {
        throw new ConnectError(Code.POLICY, "refused: it is this worker's own name");
      }
      lookup.begin(
        this.#resolver.addresses(name, 4, signal),
        this.#ipv6 ? this.#resolver.addresses(name, 6, signal) : Promise.resolve([]),
      );
    }
    return lookup;
  }

  /**
   * @param {Lookup} lookup
   * @param {number} port
   * @param {AbortSignal} signal
   * @returns {Promise<Connection>} the first address's that answers
   */
  async #race(lookup, port, signal) {
    const losers = new AbortController();
    signal.addEventListener("abort", () => losers.abort());
    /** @type {Set<Promise<Connection | null>>} */
    const running = new Set();
    /** @type {ConnectError[]} */
    const failures = [];
    const tried = new Set();
    /** @type {Connection | null} */
    let won = null;

    const attempt = async (/** @type {Address} */ address) => {
      try {
        const connection = await this.#connect(address, port, losers.signal, tried.size > 1);
        if (won || losers.signal.aborted) connection.close();
        else won = connection;
      } catch (error) {
        if (!(error instanceof ConnectError)) throw error;
        failures.push(error);
      }
      return won;
    };

    for (;;) {
      const address = lookup.ordered.find((one) => !tried.has(formatAddress(one)));
      if (address) {
        tried.add(formatAddress(address));
        const one = attempt(address).finally(() => running.delete(one));
        running.add(one);
      } else if (!running.size && lookup.done) {
        break;
      }
      /** @type {Promise<unknown>[]} */
      const waits = [...running];
      if (!lookup.done) waits.push(lookup.changed());
      const next = lookup.ordered.some((a) => !tried.has(formatAddress(a))) ? timer(NEXT_MS) : null;
      if (next) waits.push(next.promise);
      try {
        await Promise.race(waits);
      } finally {
        next?.cancel();
      }
      if (won) {
        losers.abort();
        return won;
      }
      if (signal.aborted) throw new ConnectError(Code.FAILED, "given up");
    }
    if (!failures.length) throw lookup.problem;
    failures.sort((a, b) => rank(a) - rank(b));
    throw failures[0];
  }

  /**
   * Connects to one address, if the policy lets it be reached: the only way to any.
   *
   * @param {Address} address
   * @param {number} port
   * @param {AbortSignal} signal
   * @param {boolean} later
   */
  async #connect(address, port, signal, later) {
    const reason = this.#policy.refusal(address);
    if (reason) throw new ConnectError(Code.POLICY, `refused by policy: ${reason}`);
    const text = formatAddress(address);
    return this.#connects.connect(address.version === 6 ? `[${text}]` : text, port, signal, later);
  }
}

/** A look-up under way: addresses of both families, each at its own time. */
class Lookup {
  /** @type {Address[]} */
  #v4 = [];
  /** @type {Address[]} */
  #v6 = [];
  #pending = 0;
  /** @type {unknown} */
  #error = null;
  /** @type {(() => void)[]} */
  #waiting = [];
  /** @type {() => void} */
  #begun = () => {};
  /** Resolves once the first connect may begin. */
  first = /** @type {Promise<void>} */ (new Promise((resolve) => (this.#begun = resolve)));

  get done() {
    return !this.#pending;
  }

  /** What is known: families alternate, IPv6 first. */
  get ordered() {
    const order = [];
    for (let index = 0; index < Math.max(this.#v4.length, this.#v6.length); index++) {
      order.push(...this.#v6.slice(index, index + 1), ...this.#v4.slice(index, index + 1));
    }
    return order;
  }

  /** Why there is no address at all. */
  get problem() {
    const error = this.#error;
    if (error instanceof ConnectError) return error;
    if (error instanceof DnsError) {
      return new ConnectError(error.late ? Code.TIMED_OUT : Code.FAILED, error.message);
    }
    return new ConnectError(Code.FAILED, "the name has no address");
  }

  /**
   * @param {4 | 6} version
   * @param {Address[]} addresses
   */
  found(version, addresses) {
    if (version === 6) this.#v6 = addresses;
    else this.#v4 = addresses;
  }

  finish() {
    this.#begun();
  }

  /**
   * @param {Promise<Address[]>} v4
   * @param {Promise<Address[]>} v6
   */
  begin(v4, v6) {
    this.#pending = 2;
    this.#follow(4, v4);
    this.#follow(6, v6);
  }

  /** Resolves when more is known. */
  changed() {
    return new Promise((/** @type {(_: void) => void} */ resolve) => this.#waiting.push(resolve));
  }

  /**
   * @param {4 | 6} version
   * @param {Promise<Address[]>} addresses
   */
  async #follow(version, addresses) {
    try {
      this.found(version, await addresses);
    } catch (error) {
      this.#error = error;
    }
    this.#pending--;
    if (this.done || this.#v6.length) this.#begun();
    else if (this.#v4.length) setTimeout(this.#begun, IPV6_FIRST_MS);
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

/** @param {number} ms */
function timer(ms) {
  /** @type {ReturnType<typeof setTimeout>} */
  let id;
  const promise = new Promise((resolve) => (id = setTimeout(resolve, ms)));
  return { promise, cancel: () => clearTimeout(id) };
}

/** @param {ConnectError} error */
function rank(error) {
  const index = TELLING.indexOf(/** @type {any} */ (error.code));
  return index < 0 ? TELLING.length : index;
}

/**
 * @param {string} host
 * @returns {string} in ASCII and lower case (IDNA): what IDNA maps to digits and dots is an address
 */
function toAscii(host) {
  // eslint-disable-next-line no-control-regex
  if (/^[\x00-\x7f]*$/.test(host)) return host.toLowerCase();
  if (/[\s/\\?#@:[\]%]/.test(host)) throw new InvalidHost("a character that no name has");
  try {
    return new URL(`http://${host}`).hostname;
  } catch {
    throw new InvalidHost("a name that is not valid (IDNA)");
  }
}
