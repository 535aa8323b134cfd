/** Writing the frames of the tunnel protocol (PROTOCOL.md §2). */

import {
  ACK,
  CLOSE,
  CONNECT,
  CONNECTED,
  DATA,
  DATA_HEADER,
  ECHO,
  EOF,
  ERROR,
  GOAWAY,
  PING,
  PONG,
  UDP,
  UDP_CLOSE,
  UDP_ERROR,
  WINDOW,
} from "./frames.js";

/** @typedef {import("./frames.js").Frame} Frame */

const encoder = new TextEncoder();

/**
 * Writes one frame.
 *
 * @param {Frame} frame its fields must fit, as they do where `readFrames` made it
 * @returns {Uint8Array}
 */
export function writeFrame(frame) {
  const { command, id } = frame;
  const payload = frame.payload ?? new Uint8Array(0);
  switch (command) {
    case PING:
    case PONG:
      return Uint8Array.of(command);
    case CLOSE:
    case CONNECTED: {
      const bytes = new Uint8Array(5);
      head(bytes, command, id);
      return bytes;
    }
    case CONNECT:
      return writeAddressed(frame, frame.port ?? 0, encoder.encode(frame.host));
    case ERROR:
      return writeAddressed(frame, frame.code ?? 0, encoder.encode(frame.text ?? ""));
    case UDP: {
      const start = writeAddressed(frame, frame.port ?? 0, encoder.encode(frame.host));
      const bytes = new Uint8Array(start.length + 4 + payload.length);
      bytes.set(start);
      new DataView(bytes.buffer).setUint32(start.length, payload.length);
      bytes.set(payload, start.length + 4);
      return bytes;
    }
    case EOF:
    case UDP_CLOSE:
      return writeBody(command, id, 0);
    case WINDOW: {
      const bytes = writeBody(command, id, 4);
      new DataView(bytes.buffer).setUint32(9, frame.credit ?? 0);
      return bytes;
    }
    case ACK: {
      const bytes = writeBody(command, id, 8);
      new DataView(bytes.buffer).setBigUint64(9, BigInt(frame.count ?? 0));
      return bytes;
    }
    case ECHO: {
      const host = encoder.encode(frame.host);
      const bytes = writeBody(command, id, 2 + host.length + payload.length);
      new DataView(bytes.buffer).setUint16(9, host.length);
      bytes.set(host, 11);
      bytes.set(payload, 11 + host.length);
      return bytes;
    }
    case GOAWAY: {
      const text = encoder.encode(frame.text ?? "");
      const bytes = writeBody(command, id, 2 + text.length);
      new DataView(bytes.buffer).setUint16(9, frame.code ?? 0);
      bytes.set(text, 11);
      return bytes;
    }
    case UDP_ERROR: {
      const host = encoder.encode(frame.host);
      const bytes = writeBody(command, id, 6 + host.length);
      const view = new DataView(bytes.buffer);
      view.setUint16(9, frame.code ?? 0);
      view.setUint16(11, frame.port ?? 0);
      view.setUint16(13, host.length);
      bytes.set(host, 15);
      return bytes;
    }
    default: {
      // DATA, DNS, HELLO, ECHO_REPLY, and what is not known: id, length, payload
      const bytes = writeBody(command, id, payload.length);
      bytes.set(payload, 9);
      return bytes;
    }
  }
}

/**
 * Writes the header of a DATA frame into the 9 bytes before its payload.
 *
 * @param {Uint8Array} payload a view with at least 9 bytes of its buffer before it
 * @param {number} id
 * @returns {Uint8Array} the whole frame, in the same buffer
 */
export function frameInPlace(payload, id) {
  const frame = new Uint8Array(
    payload.buffer,
    payload.byteOffset - DATA_HEADER,
    DATA_HEADER + payload.length,
  );
  head(frame, DATA, id);
  new DataView(frame.buffer, frame.byteOffset).setUint32(5, payload.length);
  return frame;
}

/**
 * @param {Uint8Array} bytes
 * @param {number} command
 * @param {number} id
 */
function head(bytes, command, id) {
  bytes[0] = command;
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(1, id);
}

/**
 * @param {number} command
 * @param {number} id
 * @param {number} length
 * @returns {Uint8Array} the frame, its body all zeros
 */
function writeBody(command, id, length) {
  const bytes = new Uint8Array(9 + length);
  head(bytes, command, id);
  new DataView(bytes.buffer).setUint32(5, length);
  return bytes;
}

/**
 * @param {Frame} frame
 * @param {number} number port or code
 * @param {Uint8Array} text
 * @returns {Uint8Array}
 */
function writeAddressed(frame, number, text) {
  const bytes = new Uint8Array(9 + text.length);
  head(bytes, frame.command, frame.id);
  const view = new DataView(bytes.buffer);
  view.setUint16(5, number);
  view.setUint16(7, text.length);
  bytes.set(text, 9);
  return bytes;
}

/**
 * Joins byte arrays.
 *
 * @param {Uint8Array[]} parts
 * @returns {Uint8Array}
 */
export function join(parts) {
  if (parts.length === 1) return parts[0];
  let size = 0;
  for (const part of parts) size += part.length;
  const whole = new Uint8Array(size);
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}
