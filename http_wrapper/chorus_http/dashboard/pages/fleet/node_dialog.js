/** One PC in full: every fact, its models with their arithmetic, its last minutes, and what can be done with it. */

import { chart } from "../../parts/chart.js";
import { REPLICA_KIND, hardwareLine, stateOf } from "../../parts/node_words.js";
import { el, fill, icon, say } from "../../shell/dom.js";
import { bytes, duration, number, percent } from "../../shell/format.js";
import { history, nodeHistory, onHistory } from "../../shell/history.js";

export async function openNode(ctx, nodeId) {
  const find = () => ctx.live.cluster.value?.clients.find((one) => one.node_id === nodeId);
  const first = find();
  if (!first) return;
  const closed = new AbortController();
  ctx.signal.addEventListener("abort", () => closed.abort(), { once: true });
  const badge = el("span", { class: "badge dot" });
  const why = el("p", { class: "muted" });
  const facts = el("dl", { class: "facts" });
  const models = el("div", { class: "stack" });
  const lines = chart({
    title: "Last minutes",
    unit: "",
    series: [
      { label: "tok/s", color: "--series-1" },
      { label: "CPU %", color: "--series-2" },
    ],
    signal: closed.signal,
  });
  const show = () => {
    const client = find();
    if (!client) return;
    const state = stateOf(client);
    say(badge, state.text);
    badge.className = `badge dot ${state.kind}`;
    say(why, state.why);
    fill(facts, Object.entries(factsOf(client)).map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
    fill(models, client.replicas.length ? client.replicas.map(replica) : el("p", { class: "muted" }, client.assignment_reason || "No model is loaded."));
  };
  const plot = () => {
    const mine = nodeHistory.get(nodeId);
    if (mine) lines.show([history.at.slice(-mine.cpu.length), mine.tokensPerS, mine.cpu]);
  };
  const wake = async () => {
    const done = await ctx.attempt(ctx.api(`/nodes/${encodeURIComponent(nodeId)}/wake`, { method: "POST" }));
    if (done) ctx.toast.ok(done.message);
  };
  const mayWake = ctx.can("admin") && first.mac_addresses.length > 0 && ["asleep", "dead"].includes(first.state);
  const shown = ctx.dialog({
    title: first.name,
    wide: true,
    body: () => [
      el("div", { class: "row" }, badge, why),
      lines.root,
      facts,
      el("h3", {}, "In memory"),
      models,
    ],
    actions: (close) => [
      mayWake ? el("button", { on: { click: wake } }, icon("zap"), "Wake it") : null,
      el("a", { class: "button", href: ctx.href("models", { node: first.name }), on: { click: () => close() } }, icon("box"), "Models on it"),
      el("button", { class: "primary", on: { click: () => close() } }, "Close"),
    ],
  });
  ctx.live.cluster.watch((value) => !closed.signal.aborted && value && show());
  onHistory(plot, { signal: closed.signal });
  plot();
  await shown;
  closed.abort();
}

function factsOf(client) {
  const { hardware } = client;
  const cards = hardware.gpus.map((gpu) => `${gpu.name} (${bytes(gpu.memory_bytes)})`).join(", ");
  return {
    Hardware: hardwareLine(client),
    Graphics: cards || "none",
    Memory: `${bytes(client.ram_available_bytes)} free of ${bytes(hardware.ram_bytes)}`,
    Score: `${number(client.performance_score, 1)} of 100${client.limited_by ? `, limited by ${client.limited_by}` : ""}`,
    "Assigned model": client.assigned_model ?? "none",
    Why: client.assignment_reason || "–",
    Address: client.address,
    "On its disk": client.models.join(", ") || "no model",
    Up: duration(client.uptime_s),
    "Last heartbeat": `${duration(client.heartbeat_age_s)} ago`,
    "Tokens made": number(client.tokens_total),
    Version: client.version,
  };
}

function replica(one) {
  const speed = one.decode_tokens_per_s ? `${number(one.decode_tokens_per_s, 1)} tok/s per answer` : null;
  const told = [
    `${one.slots_busy} of ${one.slots} slots busy`,
    one.context_tokens ? `${number(one.context_tokens)} tokens of context` : null,
    one.resident_bytes ? `takes ${bytes(one.resident_bytes)}` : null,
    one.expected_bytes ? `${bytes(one.expected_bytes)} expected` : null,
    speed,
    one.engine,
  ].filter(Boolean);
  const share = one.progress === null || one.progress === undefined ? "" : ` ${percent(one.progress)}`;
  return el("div", { class: "replica-full" },
    el("div", { class: "row apart" }, el("strong", { class: "ellipsis" }, one.model),
      el("span", { class: `badge ${REPLICA_KIND[one.state] ?? ""}` }, `${one.state}${one.state === "loading" ? share : ""}`)),
    el("p", { class: "small muted" }, told.join(" · ")),
    one.arithmetic ? el("p", { class: "small mono" }, one.arithmetic) : null,
    one.detail ? el("p", { class: "small muted" }, one.detail) : null);
}
