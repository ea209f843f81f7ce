/** Models on their way to PCs, with their progress; hidden while there are none. */

import { progress } from "../../parts/meter.js";
import { throttled } from "../../parts/later.js";
import { el, icon, reconcile, say } from "../../shell/dom.js";
import { bytes, duration, percent } from "../../shell/format.js";

const FINISHED_SHOWN = 3;
const GAP_MS = 500;
const parts = new WeakMap();

export function transferList(ctx) {
  const list = el("div", { class: "stack" });
  const root = el("section", { class: "card stack", hidden: true, "aria-labelledby": "transfers" },
    el("h2", { id: "transfers" }, "On the way"), list);
  const known = new Map();
  const show = () => {
    const all = [...known.values()];
    const over = all.filter(isOver).slice(-FINISHED_SHOWN);
    const shown = [...all.filter((one) => !isOver(one)), ...over];
    root.hidden = shown.length === 0;
    reconcile(list, shown, { key: (one) => one.transfer_id, make: (one) => row(one, ctx), update });
  };
  const look = throttled(async () => {
    const answer = await ctx.api("/transfers").catch(() => null); // the page's own look tells what is wrong
    if (!answer) return;
    known.clear();
    for (const one of answer.transfers) known.set(one.transfer_id, one);
    show();
  }, GAP_MS, ctx.signal);
  ctx.live.on("transfer", ({ data }) => {
    known.set(data.transfer_id, data);
    show();
  });
  ctx.every(3, () => (ctx.live.connection.value === "live" && known.size ? undefined : look()));
  return { root };
}

function isOver(transfer) {
  return ["done", "failed", "cancelled"].includes(transfer.state);
}

function row(transfer, ctx) {
  const bar = progress(`${transfer.model} to ${transfer.node}`);
  const detail = el("p", { class: "small muted" });
  const stop = el("button", { class: "plain small", "aria-label": `Stop ${transfer.model} to ${transfer.node}`, on: {
    click: () => ctx.attempt(ctx.api(`/transfers/${encodeURIComponent(transfer.transfer_id)}`, { method: "DELETE" })),
  } }, icon("x"));
  const root = el("div", { class: "row" }, el("div", { class: "grow stack tight" }, bar.root, detail), ctx.can("admin") ? stop : null);
  parts.set(root, { bar, detail, stop });
  return root;
}

function update(root, transfer) {
  const { bar, detail, stop } = parts.get(root);
  const from = transfer.source ? ` from ${transfer.source}` : "";
  say(bar.root.querySelector(".muted"), `${transfer.model} → ${transfer.node}${from}`);
  bar.show(transfer.state === "done" ? 1 : transfer.share, words(transfer));
  say(detail, transfer.error?.message ?? speed(transfer));
  stop.hidden = isOver(transfer);
}

function words(transfer) {
  if (transfer.state !== "running") return transfer.state;
  return transfer.share === null ? bytes(transfer.done_bytes) : percent(transfer.share);
}

function speed(transfer) {
  if (transfer.state !== "running") return transfer.detail;
  const left = transfer.left_s === null ? "" : `, ${duration(transfer.left_s)} left`;
  return `${bytes(transfer.done_bytes)} of ${bytes(transfer.total_bytes)}, ${bytes(transfer.bytes_per_s)}/s${left}`;
}
