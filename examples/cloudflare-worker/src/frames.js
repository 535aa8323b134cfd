/**
 * The frames of the tunnel protocol, and reading them (PROTOCOL.md §2).
 *
 * Only the form is checked here; whether a frame may come when it comes, the session checks.
 */

/** The peer has broken the protocol: the WebSocket is closed with `status`, the session is over. */
export class ProtocolError extends Error {
  /**
   * @param {string} message
   * @param {number} [status]
   */
  constructor(message, status = 1002) {
    super(message);
    this.status = status;
  }
}

export const CONNECT = 0x01;
export const DATA = 0x02;
export const CLOSE = 0x03;
export const ERROR = 0x04;
export const PING = 0x05;
export const PONG = 0x06;
export const UDP = 0x07;
export const DNS_QUERY = 0x08;
export const DNS_RESPONSE = 0x09;
export const CONNECTED = 0x0a;
export const HELLO = 0x40;
export const EOF = 0x41;
export const WINDOW = 0x42;
export const ACK = 0x43;
export const UDP_CLOSE = 0x44;
export const ECHO = 0x45;
export const ECHO_REPLY = 0x46;
export const GOAWAY = 0x47;
export const UDP_ERROR = 0x48;

/** Codes of ERROR (PROTOCOL.md §4). */
export const Code = Object.freeze({
  RESET: 104,
  TIMED_OUT: 110,
  REFUSED: 111,
  POLICY: 403,
  OPEN_ALREADY: 409, // of the original's, v1 only
  TOO_MANY: 429,
  FAILED: 502,
  GOING_AWAY: 503,
});

/** Bytes before the payload of a DATA frame. */
export const DATA_HEADER = 9;

const MAX_DATAGRAM = 65507;
const MAX_DNS = 65535;
const MAX_HELLO = 8192;

/**
 * One frame. Which fields there are depends on `command`; `id` is 0 where the frame has none.
 *
 * @typedef {object} Frame
 * @property {number} command
 * @property {number} id stream, association or request
 * @property {string} [host] CONNECT, UDP, ECHO, UDP_ERROR
 * @property {number} [port] CONNECT, UDP, UDP_ERROR
 * @property {number} [code] ERROR, GOAWAY, UDP_ERROR
 * @property {string} [text] ERROR, GOAWAY
 * @property {Uint8Array} [payload] a view into the message: DATA, UDP, DNS, HELLO, ECHO, unknown
 * @property {number} [credit] WINDOW
 * @property {number} [count] ACK; Infinity where it is too large to be a number
 */

/** @type {Record<number, string>} */
const NAMES = {
  [CONNECT]: "CONNECT",
  [DATA]: "DATA",
  [CLOSE]: "CLOSE",
  [ERROR]: "ERROR",
  [PING]: "PING",
  [PONG]: "PONG",
  [UDP]: "UDP",
  [DNS_QUERY]: "DNS_QUERY",
  [DNS_RESPONSE]: "DNS_RESPONSE",
  [CONNECTED]: "CONNECTED",
  [HELLO]: "HELLO",
  [EOF]: "EOF",
  [WINDOW]: "WINDOW",
  [ACK]: "ACK",
  [UDP_CLOSE]: "UDP_CLOSE",
  [ECHO]: "ECHO",
  [ECHO_REPLY]: "ECHO_REPLY",
  [GOAWAY]: "GOAWAY",
  [UDP_ERROR]: "UDP_ERROR",
};

/** Bytes of the fixed part of each frame below 0x40. */
/** @type {Record<number, number>} */
const FIXED = {
  [CONNECT]: 9,
  [DATA]: 9,
  [CLOSE]: 5,
  [ERROR]: 9,
  [PING]: 1,
  [PONG]: 1,
  [UDP]: 9,
  [DNS_QUERY]: 9,
  [DNS_RESPONSE]: 9,
  [CONNECTED]: 5,
};

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * @param {number} command
 * @returns {string} the name of a frame, for an error
 */
export function nameOf(command) {
  return NAMES[command] ?? `command 0x${command.toString(16).padStart(2, "0")}`;
}

/**
 * Whether frames of this command are counted (PROTOCOL.md §6).
 *
 * @param {number} command
 * @returns {boolean}
 */
export function isCounted(command) {
  switch (command) {
    case CONNECT:
    case DATA:
    case CLOSE:
    case ERROR:
    case CONNECTED:
    case EOF:
    case WINDOW:
      return true;
    default:
      return command >= 0x60 && command < 0x80;
  }
}

/**
 * Reads the frames of one v2 message, in order. Payloads are views into it.
 *
 * @param {Uint8Array} message
 * @returns {Generator<Frame, void, void>}
 * @throws {ProtocolError} at the first frame that is malformed, and for a message without any
 */
export function* readFrames(message) {
  if (!message.length) throw new ProtocolError("an empty message: it holds no frame");
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  let position = 0;
  while (position < message.length) {
    const end = frameEnd(message, view, position);
    yield readFrame(message, view, position, end);
    position = end;
  }
}

/**
 * Reads the one frame of a v1 message (PROTOCOL.md §9).
 *
 * @param {Uint8Array} message
 * @returns {Frame}
 * @throws {ProtocolError} if the message is not exactly one frame of 0x01 to 0x0A
 */
export function readFrameV1(message) {
  if (!message.length) throw new ProtocolError("an empty message: it holds no frame");
  const view = new DataView(message.buffer, message.byteOffset, message.byteLength);
  const command = message[0];
  if (command >= 0x40) throw new ProtocolError(`${nameOf(command)} is unknown`);
  const end = frameEnd(message, view, 0);
  if (end !== message.length) {
    throw new ProtocolError(`${nameOf(command)}: ${message.length - end} bytes follow it in its message`);
  }
  return readFrame(message, view, 0, end);
}

/**
 * The number of counted frames in a run of them, up to `most`, and where the last of these ends.
 *
 * @param {Uint8Array} run
 * @param {number} most
 * @returns {number} the position behind `most` frames
 */
export function skipFrames(run, most) {
  const view = new DataView(run.buffer, run.byteOffset, run.byteLength);
  let position = 0;
  for (let frame = 0; frame < most; frame++) position = frameEnd(run, view, position);
  return position;
}

/**
 * @param {number} command
 * @returns {ProtocolError}
 */
function pastEnd(command) {
  return new ProtocolError(`${nameOf(command)}: it runs past the end of its message`);
}

/**
 * @param {Uint8Array} message
 * @param {DataView} view
 * @param {number} start
 * @returns {number} where the frame that starts there ends
 */
function frameEnd(message, view, start) {
  const command = message[start];
  const size = message.length;
  const fixed = command >= 0x40 && command < 0x80 ? 9 : FIXED[command];
  if (!fixed) throw new ProtocolError(`${nameOf(command)} is unknown`);
  let end = start + fixed;
  if (end > size) throw pastEnd(command);
  if (command === CONNECT || command === ERROR) {
    end += view.getUint16(start + 7);
  } else if (command === UDP) {
    end += view.getUint16(start + 7) + 4;
    if (end > size) throw pastEnd(command);
    end += view.getUint32(end - 4);
  } else if (fixed === 9) {
    end += view.getUint32(start + 5);
  }
  if (end > size) throw pastEnd(command);
  return end;
}

/**
 * @param {Uint8Array} message
 * @param {DataView} view
 * @param {number} start
 * @param {number} end
 * @returns {Frame}
 */
function readFrame(message, view, start, end) {
  const command = message[start];
  const id = command === PING || command === PONG ? 0 : view.getUint32(start + 1);
  switch (command) {
    case DATA:
      return { command, id, payload: message.subarray(start + 9, end) };
    case CONNECT:
      return {
        command,
        id,
        port: view.getUint16(start + 5),
        host: readHost(command, message.subarray(start + 9, end)),
      };
    case ERROR:
      return {
        command,
        id,
        code: view.getUint16(start + 5),
        text: readText(command, message.subarray(start + 9, end)),
      };
    case UDP: {
      const middle = start + 9 + view.getUint16(start + 7);
      const payload = message.subarray(middle + 4, end);
      if (payload.length > MAX_DATAGRAM) {
        throw new ProtocolError(`UDP: ${payload.length} bytes, over ${MAX_DATAGRAM}`);
      }
      const host = readHost(command, message.subarray(start + 9, middle));
      return { command, id, port: view.getUint16(start + 5), host, payload };
    }
    case DNS_QUERY:
    case DNS_RESPONSE: {
      const payload = message.subarray(start + 9, end);
      if (payload.length > MAX_DNS) {
        throw new ProtocolError(`${nameOf(command)}: ${payload.length} bytes, over ${MAX_DNS}`);
      }
      return { command, id, payload };
    }
    case CLOSE:
    case CONNECTED:
    case PING:
    case PONG:
      return { command, id };
    default:
      return readNewFrame(command, id, message.subarray(start + 9, end));
  }
}

/**
 * @param {number} command
 * @param {number} id
 * @param {Uint8Array} body
 * @returns {Frame}
 */
function readNewFrame(command, id, body) {
  const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
  switch (command) {
    case HELLO:
      checkNoId(command, id);
      if (body.length > MAX_HELLO) {
        throw new ProtocolError(`HELLO: ${body.length} bytes of JSON, over ${MAX_HELLO}`);
      }
      return { command, id, payload: body };
    case EOF:
    case UDP_CLOSE:
      checkLength(command, body, 0);
      return { command, id };
    case WINDOW:
      checkLength(command, body, 4);
      return { command, id, credit: view.getUint32(0) };
    case ACK: {
      checkNoId(command, id);
      checkLength(command, body, 8);
      const count = view.getBigUint64(0);
      return { command, id, count: count <= Number.MAX_SAFE_INTEGER ? Number(count) : Infinity };
    }
    case ECHO: {
      checkAtLeast(command, body, 2);
      const end = 2 + view.getUint16(0);
      checkAtLeast(command, body, end);
      return { command, id, host: readHost(command, body.subarray(2, end)), payload: body.subarray(end) };
    }
    case GOAWAY:
      checkNoId(command, id);
      checkAtLeast(command, body, 2);
      return { command, id, code: view.getUint16(0), text: readText(command, body.subarray(2)) };
    case UDP_ERROR: {
      checkAtLeast(command, body, 6);
      checkLength(command, body, 6 + view.getUint16(4));
      const host = readHost(command, body.subarray(6));
      return { command, id, code: view.getUint16(0), port: view.getUint16(2), host };
    }
    default: // ECHO_REPLY, and what is not known
      return { command, id, payload: body };
  }
}

/**
 * @param {number} command
 * @param {number} id
 */
function checkNoId(command, id) {
  if (id) throw new ProtocolError(`${nameOf(command)}: its id is ${id}, not 0`);
}

/**
 * @param {number} command
 * @param {Uint8Array} body
 * @param {number} length
 */
function checkLength(command, body, length) {
  if (body.length !== length) {
    throw new ProtocolError(`${nameOf(command)}: its length is ${body.length}, not ${length}`);
  }
}

/**
 * @param {number} command
 * @param {Uint8Array} body
 * @param {number} length
 */
function checkAtLeast(command, body, length) {
  if (body.length < length) {
    throw new ProtocolError(`${nameOf(command)}: its body of ${body.length} bytes is cut short`);
  }
}

/**
 * @param {number} command
 * @param {Uint8Array} bytes
 * @returns {string}
 */
function readHost(command, bytes) {
  if (bytes.length < 1 || bytes.length > 255) {
    throw new ProtocolError(`${nameOf(command)}: its host has ${bytes.length} bytes, not 1 to 255`);
  }
  if (bytes.includes(0)) throw new ProtocolError(`${nameOf(command)}: its host has a NUL`);
  try {
    return decoder.decode(bytes);
  } catch {
    throw new ProtocolError(`${nameOf(command)}: its host is not UTF-8`);
  }
}

/**
 * @param {number} command
 * @param {Uint8Array} bytes
 * @returns {string}
 */
function readText(command, bytes) {
  try {
    return decoder.decode(bytes);
  } catch {
    throw new ProtocolError(`${nameOf(command)}: its text is not UTF-8`);
  }
}
