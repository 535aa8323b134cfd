/**
 * The front of the tunnel's worker: who may come in, and which object serves the session.
 *
 * It does nothing else, so that the 10 ms of CPU that the free plan gives a Worker's request suffice:
 * the WebSocket itself is between the client and the object (tunnel.js).
 */

import { authenticate } from "./auth.js";
import { SettingsError, readOrigins, readSettings } from "./settings.js";

export { Tunnel } from "./tunnel.js";

const SUBPROTOCOL = "zks-tunnel.v2";

/**
 * @param {number} status
 * @param {string} text
 * @param {Record<string, string>} [headers]
 * @returns {Response}
 */
function answer(status, text, headers) {
  return new Response(`${text}\n`, { status, headers });
}

/**
 * @param {Request} request
 * @returns {"v2" | "v1" | null} null: the client offers subprotocols, but not ours
 */
function offered(request) {
  const header = request.headers.get("Sec-WebSocket-Protocol");
  if (header === null) return "v1";
  const names = header.split(",").map((name) => name.trim());
  return names.includes(SUBPROTOCOL) ? "v2" : null;
}

/**
 * Has an object take the WebSocket: that of the session that is resumed, if it still knows it, else a
 * new one.
 *
 * @param {import("./settings.js").Env} env
 * @param {Request} request
 * @param {import("./auth.js").Principal} principal
 * @param {"v2" | "v1"} version
 * @returns {Promise<Response>}
 */
async function route(env, request, principal, version) {
  // What has been checked, and nothing else, is given on
  const headers = new Headers({
    Upgrade: "websocket",
    "Tunnel-Name": encodeURIComponent(principal.name),
    "Tunnel-Digest": principal.digest,
    "Tunnel-Version": version,
  });
  if (version === "v2") headers.set("Sec-WebSocket-Protocol", SUBPROTOCOL);
  const resumed = request.headers.get("Zks-Session");
  if (version === "v2" && resumed) {
    const response = await resume(env, request, headers, resumed);
    if (response) return response;
  }
  const stub = env.TUNNELS.get(env.TUNNELS.newUniqueId());
  return stub.fetch(new Request(request.url, { headers }));
}

/**
 * @param {import("./settings.js").Env} env
 * @param {Request} request
 * @param {Headers} headers
 * @param {string} session the id that the client gives
 * @returns {Promise<Response | null>} null: no object holds this session
 */
async function resume(env, request, headers, session) {
  let id;
  try {
    id = env.TUNNELS.idFromString(session);
  } catch {
    return null; // not an id that this worker has ever given
  }
  const resuming = new Headers(headers);
  resuming.set("Tunnel-Resume", "1");
  const hello = request.headers.get("Zks-Hello");
  if (hello) resuming.set("Zks-Hello", hello);
  const response = await env.TUNNELS.get(id).fetch(new Request(request.url, { headers: resuming }));
  return response.status === 101 ? response : null;
}

/** @type {ExportedHandler<import("./settings.js").Env>} */
export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    if (pathname === "/health") return answer(200, "ok");
    if (pathname !== "/tunnel") return answer(404, "not found");
    const origin = request.headers.get("Origin");
    if (origin !== null && !readOrigins(env).includes(origin)) {
      return answer(403, "this origin may not connect");
    }
    try {
      readSettings(env);
      const principal = await authenticate(env.TOKEN, request.headers.get("Authorization"));
      if (!principal) {
        return answer(401, "a bearer token is needed", { "WWW-Authenticate": "Bearer" });
      }
      if (request.headers.get("Upgrade")?.toLowerCase() !== "websocket") {
        return answer(426, "this is for WebSockets");
      }
      const version = offered(request);
      if (!version) return answer(400, `this worker speaks ${SUBPROTOCOL}`);
      return await route(env, request, principal, version);
    } catch (error) {
      if (!(error instanceof SettingsError)) throw error;
      console.error(error.message);
      return answer(503, "this worker is not configured; its log says what is missing");
    }
  },
};
