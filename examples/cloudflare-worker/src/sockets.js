/** The platform's `connect`, in a module of its own so that tests can put another in its place. */

export { connect } from "cloudflare:sockets";
