// Stands in for sockets.js: what the platform does that workerd does not. At most six connections at
// a time may be connecting, on some platforms connecting or open; those beyond wait, without a word.
// Far ends at ports from 60001 up never answer.

import { connect as real } from "cloudflare:sockets";

const MOST = 6;
const COUNTS_OPEN = false; // a test writes true here
const SUBREQUESTS = Infinity; // or a number here

let made = 0;

let used = 0;
const queue = [];

function next() {
  while (used < MOST && queue.length) {
    used++;
    queue.shift()();
  }
}

function give() {
  used--;
  next();
}

export function connect(address, options) {
  if (++made > SUBREQUESTS) throw new Error("Too many subrequests by single Worker invocation.");
  let socket = null;
  let given = false;
  let closed = false;
  let onClosed;
  const wrapper = { closed: new Promise((resolve) => (onClosed = resolve)) };
  const giveOnce = () => {
    if (!given) give();
    given = true;
  };
  let begin;
  wrapper.opened = new Promise((resolve, reject) => {
    begin = () => {
      console.log(`connecting ${used}`);
      if (address.port > 60000) return;
      socket = real(address, options);
      socket.closed.then(onClosed, onClosed);
      socket.opened.then(resolve, reject);
      const end = COUNTS_OPEN ? socket.closed : socket.opened;
      end.then(giveOnce, giveOnce);
    };
  });
  queue.push(begin);
  next();
  wrapper.close = async () => {
    if (closed) return;
    closed = true;
    const waiting = queue.indexOf(begin);
    if (waiting >= 0) queue.splice(waiting, 1);
    else if (!socket || COUNTS_OPEN) giveOnce();
    onClosed();
    await socket?.close();
  };
  Object.defineProperty(wrapper, "readable", { get: () => socket.readable });
  Object.defineProperty(wrapper, "writable", { get: () => socket.writable });
  return wrapper;
}
