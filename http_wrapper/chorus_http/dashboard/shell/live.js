/**
 * What happens in the cluster, as it happens. Two things are offered: the present state (`cluster.value`, the JSON of
 * GET /status, with `cluster.watch`), and single events (`onEvent`). Both come from here only, so that a page need not
 * know how they come; while the connection is away they are asked for again and again, and `connection` says so.
 */

import { api } from "./api.js";

const EVERY_S = 2;

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

/** "live", "polling" or "away". */
export const connection = new Watched();

const events = new EventTarget();

/** Hear of one kind of event ("*" for all): `listener({kind, at, data})`. */
export function onEvent(kind, listener, { signal } = {}) {
  events.addEventListener(kind, (event) => listener(event.detail), { signal });
}

/** Begin, and go on for as long as the page is open; `mayLook` is asked before each look. */
export async function follow(mayLook) {
  for (;;) {
    if (mayLook() && !document.hidden) await look();
    await new Promise((resolve) => setTimeout(resolve, EVERY_S * 1000));
  }
}

async function look() {
  try {
    cluster.set(await api("/status", { withinS: 5 }));
    connection.set("polling");
  } catch {
    connection.set("away"); // the banner says so, and the next look comes soon
  }
}
