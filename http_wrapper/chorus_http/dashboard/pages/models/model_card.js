/** One model: its memory as a sum, and each PC with what it would mean to have it there. */

import { progress } from "../../parts/meter.js";
import { el, fill, icon, reconcile, say } from "../../shell/dom.js";
import { bytes, count, number, percent } from "../../shell/format.js";

const VERDICTS = {
  loaded: { kind: "ok", text: "in memory" },
  loading: { kind: "accent", text: "loading" },
  fits: { kind: "", text: "fits" },
  after_freeing: { kind: "warn", text: "fits after freeing others" },
  too_big: { kind: "bad", text: "too big" },
  away: { kind: "", text: "away" },
};
const parts = new WeakMap();

export function modelCard(model, ctx, look) {
  const name = el("h2", { class: "ellipsis" });
  const badges = el("span", { class: "row" });
  const sum = el("p", { class: "sum" });
  const bar = el("div", { class: "bar-track sum-bar", "aria-hidden": "true" });
  const loads = el("div", { class: "stack tight" });
  const where = el("p", { class: "row where" });
  const rows = el("tbody");
  const table = el("details", {},
    el("summary", {}, "PC by PC"),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "PC"), el("th", { scope: "col" }, "Verdict"),
        el("th", { scope: "col", class: "number" }, "Needs"), el("th", { scope: "col", class: "number" }, "Free"),
        el("th", { scope: "col" }, el("span", { class: "hidden-visually" }, "Actions")))),
      rows)));
  const load = el("button", { class: "small", on: { click: () => order(ctx, "load", state.model, null, look) } }, icon("play"), "Load");
  const unload = el("button", { class: "small", on: { click: () => order(ctx, "unload", state.model, null, look) } }, icon("square"), "Unload");
  const remove = el("button", { class: "small", on: { click: () => deleteModel(ctx, state.model, look) } }, icon("trash-2"), "Delete");
  const state = { model: model.model, name, badges, sum, bar, loads, where, rows, load, unload, remove, ctx, look, table };
  const root = el("article", { class: "card model stack" },
    el("header", { class: "row apart" },
      el("div", { class: "row grow" }, name, badges), el("div", { class: "row" }, load, unload, remove)),
    sum, bar, loads, where, table);
  parts.set(root, state);
  return root;
}

export function updateModelCard(root, model) {
  const part = parts.get(root);
  const { ctx } = part;
  root.dataset.model = model.model;
  say(part.name, model.model);
  const told = [
    model.parameters ? `${number(model.parameters / 1e9, 1)} B` : null,
    model.tier,
    model.architecture,
    model.embedding ? "embedding" : null,
    model.alias_of ? `also ${model.alias_of}` : null,
  ].filter(Boolean);
  if (part.badges.dataset.told !== told.join()) {
    part.badges.dataset.told = told.join();
    fill(part.badges, told.map((text) => el("span", { class: "badge" }, text)));
  }
  showSum(part, model);
  const loading = model.nodes.filter((one) => one.verdict === "loading");
  const loaded = model.nodes.filter((one) => one.verdict === "loaded");
  reconcile(part.loads, loading, { key: (one) => one.node_id, make: (one) => loadRow(model.model, one), update: updateLoadRow });
  showWhere(part.where, model.nodes);
  const possible = model.nodes.some((one) => one.verdict === "fits" || one.verdict === "after_freeing");
  part.load.hidden = loaded.length > 0 || loading.length > 0;
  part.load.disabled = !possible;
  part.load.title = possible ? "On the PC where it comes soonest" : "It fits on no PC that is here";
  part.unload.hidden = loaded.length === 0 || loaded.every((one) => one.kept);
  part.remove.hidden = !model.fetched || !ctx.can("admin");
  const shown = [...model.nodes].sort((a, b) => rank(a) - rank(b) || a.node.localeCompare(b.node));
  reconcile(part.rows, shown, {
    key: (one) => one.node_id,
    make: () => el("tr"),
    update: (row, one) => updateRow(row, one, part),
  });
}

function rank(node) {
  return Object.keys(VERDICTS).indexOf(node.verdict);
}

function showSum(part, { needs, file_bytes: fileBytes }) {
  if (!fileBytes) {
    say(part.sum, "It runs elsewhere and takes no memory of these PCs.");
    part.bar.hidden = true;
    return;
  }
  const key = JSON.stringify(needs);
  if (part.sum.dataset.key === key) return;
  part.sum.dataset.key = key;
  part.bar.hidden = false;
  const term = (mark, value, words) =>
    el("span", { class: "term" }, el("span", { class: `swatch ${mark}`, "aria-hidden": "true" }), `${bytes(value)} ${words}`);
  fill(part.sum, `Needs ${bytes(needs.total_bytes)} = `, term("first", needs.weights_bytes, "weights"), " + ",
    term("second", needs.kv_bytes, "memory of the conversation"), " + ", term("third", needs.buffers_bytes, "buffers"));
  const share = (value) => ({ "--share": `${((value / needs.total_bytes) * 100).toFixed(1)}%` });
  fill(part.bar, el("div", { class: "bar-fill", vars: share(needs.weights_bytes) }),
    el("div", { class: "bar-fill second", vars: share(needs.kv_bytes) }),
    el("div", { class: "bar-fill third", vars: share(needs.buffers_bytes) }));
}

const MOST_NAMES = 4;

function showWhere(root, nodes) {
  const key = JSON.stringify(nodes.map((one) => [one.node, one.verdict, one.on_disk]));
  if (root.dataset.key === key) return;
  root.dataset.key = key;
  const chips = Object.entries(VERDICTS).flatMap(([verdict, { kind, text }]) => {
    const names = nodes.filter((one) => one.verdict === verdict).map((one) => one.node);
    if (!names.length || verdict === "away") return [];
    const told = names.length > MOST_NAMES ? count(names.length, "PC") : names.join(", ");
    return [el("span", { class: `badge ${kind}` }, `${text}: ${told}`)];
  });
  const disks = nodes.filter((one) => one.on_disk).length;
  fill(root, chips, el("span", { class: "muted small" }, disks ? `on the disk of ${count(disks, "PC")}` : "on no disk that is here"));
}

const bars = new WeakMap();

function loadRow(model, node) {
  const bar = progress(`${model} loads on ${node.node}`);
  bars.set(bar.root, bar);
  return bar.root;
}

function updateLoadRow(root, node) {
  const share = node.progress;
  say(root.querySelector(".muted"), `Loading on ${node.node}`);
  bars.get(root).show(share, share === null ? "just begun" : percent(share));
}

function updateRow(row, node, part) {
  const key = JSON.stringify([node, part.model]);
  if (row.dataset.shown === key) return;
  const hadFocus = row.contains(document.activeElement);
  row.dataset.shown = key;
  const { kind, text } = VERDICTS[node.verdict];
  const share = node.progress === null ? "" : ` ${percent(node.progress)}`;
  fill(row,
    el("th", { scope: "row" }, node.node),
    el("td", {}, el("span", { class: `badge ${kind}` }, text + share),
      node.on_disk ? null : el("span", { class: "muted small" }, " not on its disk")),
    el("td", { class: "number" }, bytes(node.needs_bytes), node.measured_bytes
      ? el("div", { class: "muted small" }, `${bytes(node.measured_bytes)} measured`) : null),
    el("td", { class: "number" }, bytes(node.free_bytes), el("div", { class: "muted small" }, device(node.device))),
    el("td", { class: "number" }, rowAction(node, part)));
  if (hadFocus) row.querySelector("button")?.focus();
}

function device(kind) {
  return { cpu: "RAM", discrete_gpu: "GPU", shared_gpu: "shared GPU" }[kind] ?? kind;
}

function rowAction(node, { ctx, model, look }) {
  const button = (text, mark, click) =>
    el("button", { class: "small", on: { click }, "aria-label": `${text}: ${model} on ${node.node}` }, icon(mark), text);
  if (node.verdict === "loaded") {
    return node.kept
      ? el("span", { class: "muted small" }, "kept by its owner")
      : button("Unload", "square", () => order(ctx, "unload", model, node.node, look));
  }
  if (node.verdict === "loading" || node.verdict === "away" || node.verdict === "too_big") return null;
  if (node.on_disk) return button("Load", "play", () => order(ctx, "load", model, node.node, look));
  if (!ctx.can("admin")) return null;
  return button("Copy here", "arrow-right-left", () => copy(ctx, model, node.node));
}

async function order(ctx, verb, model, node, look) {
  const body = node ? { model, node } : { model };
  const done = await ctx.attempt(ctx.api(`/api/model/${verb}`, { body }));
  if (done) ctx.toast.ok(`${model}: ${done.message}`);
  look();
}

async function copy(ctx, model, node) {
  const begun = await ctx.attempt(ctx.api("/transfers", { body: { model, node } }));
  if (begun) ctx.toast.ok(`${model} is on its way to ${node}.`);
}

async function deleteModel(ctx, model, look) {
  const sure = await ctx.confirmed({
    title: `Delete ${model}?`,
    text: "Its files that came over the network are deleted from every PC that fetched them. It can be fetched again.",
    yes: "Delete",
    danger: true,
  });
  if (!sure) return;
  await ctx.attempt(ctx.api("/api/delete", { method: "DELETE", body: { model } }));
  look();
}
