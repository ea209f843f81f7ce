/** Every PC as it is now, what it computes and for whom, and the last minutes as charts. */

import { chart } from "../../parts/chart.js";
import { el, fill, icon, reconcile, say } from "../../shell/dom.js";
import { bytes, count, number } from "../../shell/format.js";
import { history, onHistory } from "../../shell/history.js";
import { nodeCard, updateNodeCard } from "./node_card.js";
import { openNode } from "./node_dialog.js";
import { serving } from "./serving.js";

const SEARCH_FROM = 8;
const ORDER = { alive: 0, suspect: 1, asleep: 2, dead: 3 };

export default {
  mount(root, ctx) {
    const about = el("p");
    const figures = figureRow(["PCs alive", "Tokens per second", "Running", "Waiting", "Memory of models"]);
    const speed = chart({
      title: "Tokens per second",
      unit: "tok/s",
      series: [{ label: "all PCs", color: "--series-1" }],
      signal: ctx.signal,
    });
    const load = chart({
      title: "Requests",
      unit: "requests",
      series: [
        { label: "running", color: "--series-2" },
        { label: "waiting", color: "--series-3" },
      ],
      signal: ctx.signal,
    });
    const flow = serving(ctx);
    const search = el("input", { type: "search", placeholder: "Find a PC or a model", "aria-label": "Find a PC or a model" });
    const cards = el("div", { class: "grid nodes" });
    const none = el("p", { class: "muted", hidden: true }, "No PC matches.");
    const full = el("div", { class: "stack sections" }, figures.root,
      el("div", { class: "charts" }, speed.root, load.root), flow.root,
      el("section", { class: "stack", "aria-labelledby": "pcs" },
        el("div", { class: "row apart" }, el("h2", { id: "pcs" }, "PCs"), search), cards, none));
    const empty = el("div", { class: "card empty", hidden: true }, icon("laptop"), el("h2", {}, "No PC has joined yet"),
      el("p", {}, "Chorus needs at least one PC that computes. It takes one command on that PC."),
      ctx.can("admin") ? el("a", { class: "button", href: ctx.href("join") }, icon("plus"), "Join a PC") : null);

    fill(root, el("header", { class: "page-head" }, el("div", {}, el("h1", {}, "Fleet"), about), actions(ctx)), empty, full);

    const show = () => {
      const status = ctx.live.cluster.value;
      if (!status) return;
      const clients = [...status.clients].sort((a, b) =>
        ORDER[a.state] - ORDER[b.state] || b.performance_score - a.performance_score || a.name.localeCompare(b.name));
      empty.hidden = clients.length > 0;
      full.hidden = clients.length === 0;
      say(about, `${count(clients.length, "PC")} as one service · Chorus ${status.version}`);
      const rates = clients.map((one) => one.tokens_per_s).filter((one) => one !== null && one !== undefined);
      const held = clients.flatMap((one) => one.replicas).reduce((sum, one) => sum + (one.resident_bytes ?? 0), 0);
      figures.show([
        `${status.active_clients} / ${status.total_clients}`,
        rates.length ? number(rates.reduce((sum, one) => sum + one, 0), 1) : "–",
        number(status.requests.running),
        number(status.requests.waiting),
        bytes(held),
      ]);
      search.hidden = clients.length < SEARCH_FROM;
      const wanted = search.hidden ? "" : search.value.trim().toLowerCase();
      const found = clients.filter((one) => matches(one, wanted));
      none.hidden = found.length > 0;
      reconcile(cards, found, {
        key: (one) => one.node_id,
        make: (one) => nodeCard(one, () => openNode(ctx, one.node_id)),
        update: updateNodeCard,
      });
    };
    ctx.live.cluster.watch(show);
    search.addEventListener("input", show);
    const plot = () => {
      if (!history.at.length || full.hidden) return;
      speed.show([history.at, history.tokensPerS]);
      load.show([history.at, history.running, history.waiting]);
    };
    onHistory(plot, { signal: ctx.signal });
    plot();
  },
};

function matches(client, wanted) {
  return !wanted || [client.name, client.state, ...client.models].some((one) => one.toLowerCase().includes(wanted));
}

function figureRow(names) {
  const values = names.map(() => el("dd", {}, "–"));
  const root = el("dl", { class: "figures" }, names.map((name, index) =>
    el("div", { class: "figure" }, el("dt", {}, name), values[index])));
  return { root, show: (texts) => texts.forEach((text, index) => say(values[index], text)) };
}

function actions(ctx) {
  if (!ctx.can("admin")) return null;
  const place = async () => {
    const sure = await ctx.confirmed({
      title: "Place models anew?",
      text: "Chorus computes again which model belongs on which PC, and loads and frees models to match. Running answers finish first.",
      yes: "Place anew",
    });
    if (!sure) return;
    const done = await ctx.attempt(ctx.api("/reassign", { method: "POST", withinS: 60 }));
    if (done) ctx.toast.ok(done.message);
  };
  return el("div", { class: "row" },
    el("button", { on: { click: place } }, icon("refresh-cw"), "Place models anew"),
    el("a", { class: "button", href: ctx.href("join") }, icon("plus"), "Join a PC"));
}
