/** The last minutes of the cluster, kept while the page is open: what the charts show when a page is opened. */

import { cluster } from "./live.js";

const EVERY_S = 1;
const KEPT = 600;

/** Arrays of equal length, oldest first. `at`: seconds since 1970; the rest null where it was not known. */
export const history = { at: [], tokensPerS: [], running: [], waiting: [] };

/** Of one PC by node id: `{ tokensPerS, cpu }`, beside `history.at` from its end. */
export const nodeHistory = new Map();

const changes = new EventTarget();

export function onHistory(listener, { signal } = {}) {
  changes.addEventListener("more", listener, { signal });
}

cluster.watch((status) => {
  const now = Date.now() / 1000;
  if (history.at.length && now - history.at.at(-1) < EVERY_S * 0.9) return;
  push(history.at, now);
  const known = status.clients.map((one) => one.tokens_per_s).filter((one) => one !== null && one !== undefined);
  push(history.tokensPerS, known.length ? known.reduce((sum, one) => sum + one, 0) : null);
  push(history.running, status.requests.running);
  push(history.waiting, status.requests.waiting);
  for (const client of status.clients) {
    const mine = nodeHistory.get(client.node_id) ?? { tokensPerS: [], cpu: [] };
    push(mine.tokensPerS, client.tokens_per_s ?? null);
    push(mine.cpu, client.cpu_percent);
    nodeHistory.set(client.node_id, mine);
  }
  for (const id of nodeHistory.keys()) {
    if (!status.clients.some((one) => one.node_id === id)) nodeHistory.delete(id);
  }
  changes.dispatchEvent(new Event("more"));
});

function push(series, value) {
  series.push(value);
  if (series.length > KEPT) series.shift();
}
