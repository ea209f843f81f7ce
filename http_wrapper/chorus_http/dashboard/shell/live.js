/**
 * What happens in the cluster, as it happens. Two things are offered: the present state (`cluster.value`, the JSON of
 * GET /status, with `cluster.watch`), and single events (`onEvent`). Both come over one Socket.IO connection, which
 * goes on after a drop where it stopped. Where no socket can be had the state is asked for again and again.
 */

import { io } from "../vendor/socket.io/socket.io.esm.min.js";
import { api } from "./api.js";
import { afterEvent, withRates } from "./cluster_state.js";

const POLL_EVERY_S = 2;
const ACK_WITHIN_S = 5;

/** A value that can be watched. Its listeners hear the present value at once, if there is one, and each later one. */
class Watched {
  #listeners = new Set();
  value = null;

  set(value) {
    this.value = value;
    for (const listener of [...this.#listeners]) listener(value);
  }

  watch(listener, { signal } = {}) {
    if (signal?.aborted) return;
    this.#listeners.add(listener);
    signal?.addEventListener("abort", () => this.#listeners.delete(listener));
    if (this.value !== null) listener(this.value);
  }
}

/** The JSON of GET /status. */
export const cluster = new Watched();

/** "live" (over the socket), "polling" (without one) or "away". */
export const connection = new Watched();

const events = new EventTarget();

/** Hear of one kind of event ("*" for all): `listener({kind, at, data})`. */
export function onEvent(kind, listener, { signal } = {}) {
  events.addEventListener(kind, (event) => listener(event.detail), { signal });
}

let socket = null;
let last = null;
let held = null;
let drawn = 0;

/** The one connection; null before `follow`. */
export function liveSocket() {
  return socket;
}

/** Begin to follow the cluster. `watches`: may this person see its state? */
export function follow(watches) {
  socket = io({ transports: ["websocket", "polling"] });
  socket.on("connect", () => watches && watch());
  socket.on("disconnect", () => connection.set("away"));
  socket.on("connect_error", () => watches && poll());
  socket.on("cluster", (batch) => batch.forEach(take));
  socket.on("reset", () => watches && snapshot());
  if (watches) setInterval(pollWithoutSocket, POLL_EVERY_S * 1000);
}

async function watch() {
  try {
    const answer = await socket.timeout(ACK_WITHIN_S * 1000).emitWithAck("watch_cluster", last ? { after: last } : {});
    if (!answer.ok) throw new Error(answer.error?.message);
    if (!answer.resumed || cluster.value === null) await snapshot();
    connection.set("live");
  } catch {
    await poll(); // the socket is of no use for the state, so it is asked for
  }
}

/** Everything anew. Events that come meanwhile are applied after it: each carries a whole value, so none harms. */
async function snapshot() {
  held = [];
  try {
    cluster.set(await api("/status"));
    for (const event of held) apply(event);
  } finally {
    held = null;
  }
  draw();
}

function take(event) {
  last = event.id;
  const detail = { kind: event.kind, at: event.at_unix_s, data: event.body };
  for (const kind of [event.kind, "*"]) events.dispatchEvent(new CustomEvent(kind, { detail }));
  if (held) held.push(event);
  else if (cluster.value) {
    apply(event);
    // Many events in one frame are drawn once.
    drawn ||= requestAnimationFrame(draw);
  }
}

function apply(event) {
  cluster.value = afterEvent(cluster.value, event);
}

function draw() {
  cancelAnimationFrame(drawn);
  drawn = 0;
  cluster.set(cluster.value);
}

async function pollWithoutSocket() {
  if (connection.value !== "live" && !socket.connected && !document.hidden) await poll();
}

let polledAt = 0;

async function poll() {
  try {
    const status = await api("/status", { withinS: 5 });
    const now = performance.now();
    cluster.set(withRates(status, cluster.value, Math.max(0.5, (now - polledAt) / 1000)));
    polledAt = now;
    connection.set("polling");
  } catch {
    connection.set("away"); // the banner says so, and the next look comes soon
  }
}
