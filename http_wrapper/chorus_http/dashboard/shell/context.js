/** What a page is given beside its root element. */

import { api, stream, upload } from "./api.js";
import { confirmed, openDialog } from "./dialogs.js";
import { cluster, connection, liveSocket, onEvent } from "./live.js";
import { go, href } from "./router.js";
import { can, session } from "./session.js";
import { toast } from "./toasts.js";

/**
 * `signal` is aborted when the page is left; everything here that waits or listens takes it by itself.
 *
 * - `api(path, {method, body, withinS})`, `stream(path, {body})`, `upload(path, form, {onProgress})`: see api.js.
 * - `attempt(promise or function)`: awaits it; a failure becomes a toast, and undefined the result.
 * - `live.cluster` (`.value`, `.watch(listener)`), `live.connection`, `live.on(kind, listener)`, `live.socket()`: see
 *   live.js.
 * - `every(seconds, work)`: do it now and then again and again while the page is open and to be seen.
 * - `toast.ok/note/failed`, `dialog(options)`, `confirmed(options)`; `can(scope)`, `session()`.
 * - `params` of the address; `go(id, params)`, `href(id, params)`; `setTitle(text)`.
 */
export function contextFor({ params, signal, setTitle }) {
  const mine = (options = {}) => ({ ...options, signal: options.signal ?? signal });
  return {
    signal,
    params,
    setTitle,
    api: (path, options) => api(path, mine(options)),
    stream: (path, options) => stream(path, mine(options)),
    upload: (path, form, options) => upload(path, form, mine(options)),
    live: {
      cluster: watchedFor(cluster, signal),
      connection: watchedFor(connection, signal),
      on: (kind, listener) => onEvent(kind, listener, { signal }),
      socket: liveSocket,
    },
    every: (seconds, work) => every(seconds, work, signal),
    attempt,
    toast,
    dialog: openDialog,
    confirmed,
    can,
    session,
    go,
    href,
  };
}

async function attempt(work) {
  try {
    return await (typeof work === "function" ? work() : work);
  } catch (error) {
    toast.failed(error);
    return undefined;
  }
}

function watchedFor(watched, signal) {
  return {
    get value() {
      return watched.value;
    },
    watch: (listener) => watched.watch(listener, { signal }),
  };
}

async function every(seconds, work, signal) {
  while (!signal.aborted) {
    if (!document.hidden) await work();
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
    });
  }
}
