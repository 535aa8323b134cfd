// Lets tests call the example's modules, under the runtime that they are for: a request's body is
// [name, ...arguments], the answer {value} or {error, status}. Bytes are written in hexadecimal.

import { formatAddress, parseAddress, parseNetwork } from "./addresses.js";
import { authenticate } from "./auth.js";
import { Buffers } from "./buffers.js";
import { Budget, ReceiveWindow } from "./credit.js";
import { errorAnswer, ownAnswer } from "./dns.js";
import { isCounted, readFrameV1, readFrames, skipFrames } from "./frames.js";
import { readHello } from "./hello.js";
import { Kept } from "./kept.js";
import { Marks } from "./marks.js";
import { Policy } from "./policy.js";
import { readSettings } from "./settings.js";
import { writeFrame } from "./write_frames.js";

export { Tunnel } from "./tunnel.js";

const bytes = (hex) => Uint8Array.from(hex.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
const hex = (array) => [...array].map((byte) => byte.toString(16).padStart(2, "0")).join("");

function shown(frame) {
  const { payload, count, ...rest } = frame;
  if (payload !== undefined) rest.payload = hex(payload);
  if (count !== undefined) rest.count = count === Infinity ? "too large" : count;
  return { ...rest, counted: isCounted(frame.command) };
}

const functions = {
  read: (message) => [...readFrames(bytes(message))].map(shown),
  readV1: (message) => shown(readFrameV1(bytes(message))),
  rewrite: (message) => [...readFrames(bytes(message))].map((frame) => hex(writeFrame(frame))).join(""),
  skip: (run, frames) => skipFrames(bytes(run), frames),
  hello: (body) => readHello(bytes(body)),
  addresses: (hosts) =>
    hosts.map((host) => {
      try {
        const address = parseAddress(host);
        return address && formatAddress(address);
      } catch (error) {
        return { error: error.message };
      }
    }),
  refusals: (hosts, allow) => {
    const policy = new Policy(allow.map(parseNetwork));
    return hosts.map((host) => policy.refusal(parseAddress(host)));
  },
  network: (text) => {
    const { version, first, size } = parseNetwork(text);
    return `${formatAddress({ version, value: first })} ${size}`;
  },
  settings: (env) => {
    const { allow, ...rest } = readSettings(env);
    return { ...rest, allow: allow.length };
  },
  authenticate,
  ownAnswer: (query) => {
    const answer = ownAnswer(bytes(query));
    return answer && hex(answer);
  },
  errorAnswer: (query, rcode, reason) => hex(errorAnswer(bytes(query), rcode, reason)),
  // Each step is [what, ...]; the answer is what the last says
  kept: (most, steps) => {
    const kept = new Kept(most, new Buffers(1 << 20));
    let said;
    for (const [what, ...args] of steps) {
      if (what === "add") kept.add(bytes(args[0]), args[1], args[2]);
      if (what === "fill") kept.add(new Uint8Array(args[0]), 1, args[1]);
      if (what === "acknowledge") kept.acknowledge(...args);
      if (what === "covers") said = kept.covers(...args);
      if (what === "resend") said = kept.resend(...args).map(hex);
      if (what === "room") said = kept.room;
    }
    return { said, bytes: kept.bytes, limit: kept.limit, sent: kept.sent, acknowledged: kept.acknowledged };
  },
  windows: (size, budgetSize, steps) => {
    const budget = new Budget(budgetSize);
    const window = new ReceiveWindow(size, budget);
    const granted = [];
    for (const [what, ...args] of steps) {
      if (what === "take") granted.push(window.take(...args));
      if (what === "consume") granted.push(window.consume(...args));
      if (what === "release") window.release();
    }
    return { granted, available: window.available, held: window.held, used: budget.used };
  },
  marks: (steps) => {
    const marks = new Marks();
    const said = [];
    for (const [what, ...args] of steps) said.push(marks[what](...args) ?? null);
    return { said, inFlight: marks.inFlight, trip: marks.trip };
  },
};

export default {
  async fetch(request) {
    const [name, ...args] = await request.json();
    try {
      return Response.json({ value: await functions[name](...args) });
    } catch (error) {
      return Response.json({ error: error.message, status: error.status ?? null, kind: error.constructor.name });
    }
  },
};
