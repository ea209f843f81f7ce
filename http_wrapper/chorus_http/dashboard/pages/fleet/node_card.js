/** One PC as a card: its state, its loads, the models in its memory and how fast it answers. */

import { meter } from "../../parts/meter.js";
import { REPLICA_KIND, cardMemory, hardwareLine, stateOf } from "../../parts/node_words.js";
import { el, fill, icon, reconcile, say } from "../../shell/dom.js";
import { bytes, number, percent } from "../../shell/format.js";
import { nodeHistory } from "../../shell/history.js";
import { sparkline } from "./sparkline.js";

const parts = new WeakMap();

export function nodeCard(client, open) {
  const name = el("h3", { class: "ellipsis" });
  const badge = el("span", { class: "badge dot" });
  const line = el("p", { class: "muted small ellipsis" });
  const why = el("p", { class: "small why", hidden: true });
  const cpu = meter("CPU");
  const ram = meter("RAM");
  const card = meter("GPU memory");
  const models = el("ul", { class: "stack tight" });
  const noModel = el("p", { class: "muted small" });
  const spark = sparkline();
  const speed = el("span", { class: "number" });
  const root = el(
    "article",
    { class: "card node" },
    el("header", { class: "row apart" }, el("div", { class: "row grow" }, icon("monitor"), name), badge),
    line,
    why,
    el("div", { class: "meters" }, cpu.root, ram.root, card.root),
    el("div", { class: "stack tight resident" }, models, noModel),
    el("footer", { class: "row apart" },
      spark.root, el("span", { class: "grow small" }, speed),
      el("button", { class: "plain small", on: { click: open } }, "Details",
        el("span", { class: "hidden-visually" }, ` of ${client.name}`))),
  );
  parts.set(root, { name, badge, line, why, cpu, ram, card, models, noModel, spark, speed });
  return root;
}

export function updateNodeCard(root, client) {
  const part = parts.get(root);
  const state = stateOf(client);
  const gone = client.state === "dead" || client.state === "asleep";
  root.dataset.state = state.kind;
  root.dataset.name = client.name;
  say(part.name, client.name);
  say(part.badge, state.text);
  part.badge.className = `badge dot ${state.kind}`;
  say(part.line, hardwareLine(client));
  part.line.title = hardwareLine(client);
  part.why.hidden = !state.why;
  say(part.why, state.why);

  part.cpu.show(gone ? 0 : (client.cpu_percent ?? 0) / 100, gone ? "–" : cpuWords(client));
  const total = client.hardware.ram_bytes;
  const used = total === null || client.ram_available_bytes === null ? null : total - client.ram_available_bytes;
  part.ram.show(gone || used === null ? 0 : used / total, gone ? "–" : `${bytes(used)} of ${bytes(total)}`);
  const cards = cardMemory(client);
  part.card.root.hidden = !cards;
  if (cards) part.card.show(gone ? 0 : cards.used / cards.total, gone ? "–" : `${bytes(cards.used)} of ${bytes(cards.total)}`);

  const replicas = [...client.replicas].sort((a, b) => a.model.localeCompare(b.model));
  reconcile(part.models, replicas, { key: (one) => one.model, make: replicaRow, update: updateReplicaRow });
  part.noModel.hidden = replicas.length > 0;
  say(part.noModel, gone ? "" : client.assignment_reason || "No model is loaded.");

  part.spark.show(nodeHistory.get(client.node_id)?.tokensPerS ?? []);
  say(part.speed, gone || !Number.isFinite(client.tokens_per_s) ? "" : `${number(client.tokens_per_s, 1)} tok/s`);
}

function cpuWords(client) {
  return client.cpu_percent === null ? "–" : percent(client.cpu_percent / 100);
}

const rows = new WeakMap();

function replicaRow() {
  const name = el("span", { class: "ellipsis grow" });
  const badge = el("span", { class: "badge" });
  const slots = el("span", { class: "slots" });
  const detail = el("span", { class: "muted small number" });
  const row = el("li", { class: "replica" }, name, slots, detail, badge);
  rows.set(row, { name, badge, slots, detail });
  return row;
}

function updateReplicaRow(row, replica) {
  const { name, badge, slots, detail } = rows.get(row);
  say(name, replica.model);
  name.title = replica.model;
  const ready = replica.state === "ready";
  const share = replica.progress === null || replica.progress === undefined ? "" : ` ${percent(replica.progress)}`;
  badge.hidden = ready && !replica.degraded;
  say(badge, replica.degraded && ready ? "slow" : `${replica.state}${replica.state === "loading" ? share : ""}`);
  badge.className = `badge ${replica.degraded ? "warn" : (REPLICA_KIND[replica.state] ?? "")}`;
  badge.title = replica.detail;
  slots.hidden = !ready;
  if (ready) showSlots(slots, replica);
  say(detail, ready ? bytes(replica.resident_bytes) : "");
}

const MOST_DOTS = 8;

/** A dot for each slot, filled where a generation runs; beyond a few the numbers alone. */
function showSlots(root, { slots, slots_busy: busy }) {
  const words = `${busy} of ${slots} slots busy`;
  if (root.dataset.words === words) return;
  root.dataset.words = words;
  root.title = words;
  const dots = slots > MOST_DOTS
    ? el("span", { "aria-hidden": "true", class: "small" }, `${busy}/${slots}`)
    : Array.from({ length: slots }, (_, index) =>
      el("span", { class: index < busy ? "slot busy" : "slot", "aria-hidden": "true" }));
  fill(root, dots, el("span", { class: "hidden-visually" }, words));
}
