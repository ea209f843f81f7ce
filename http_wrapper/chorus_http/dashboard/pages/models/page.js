/** Every model: what it takes and why, where it is, where it fits; loaded, freed, fetched and copied from here. */

import { throttled } from "../../parts/later.js";
import { el, fill, icon, reconcile, say } from "../../shell/dom.js";
import { count } from "../../shell/format.js";
import { modelCard, updateModelCard } from "./model_card.js";
import { pullDialog } from "./pull_dialog.js";
import { transferList } from "./transfers.js";

const CONTEXTS = [2048, 4096, 8192, 16384, 32768, 65536, 131072];
const SLOTS = [1, 2, 4, 8];
const GAP_MS = 400;

export default {
  mount(root, ctx) {
    const context = choice("context", CONTEXTS, 4096, (tokens) => `${tokens / 1024}k tokens`);
    const slots = choice("slots", SLOTS, 1, (most) => count(most, "answer"));
    const search = el("input", { type: "search", id: "find-model", placeholder: "Name, PC or family", value: ctx.params.get("node") ?? "" });
    const cards = el("div", { class: "stack models-list" });
    const empty = el("div", { class: "card empty", hidden: true }, icon("box"), el("h2", {}, "No models yet"),
      el("p", {}, "Put .gguf files on a PC and start its agent with --models-dirs FOLDER, use its Ollama models with --engines ollama, or fetch one from a registry here."));
    const none = el("p", { class: "muted", hidden: true }, "No model matches.");
    const about = el("p");
    const transfers = transferList(ctx);
    let fits = null;
    let order = [];

    // Set once: a model that is loaded must not jump away under the pointer.
    const place = (model) => {
      if (!order.length) order = [...fits.models].sort(byUse).map((one) => one.model);
      if (!order.includes(model.model)) order.push(model.model);
      return order.indexOf(model.model);
    };
    const show = () => {
      if (!fits) return;
      const wanted = search.value.trim().toLowerCase();
      const found = fits.models.filter((one) => matches(one, wanted)).sort((a, b) => place(a) - place(b));
      const loaded = fits.models.filter((one) => one.nodes.some((node) => node.verdict === "loaded")).length;
      say(about, `${count(fits.models.length, "model")}, ${loaded} in memory`);
      empty.hidden = fits.models.length > 0;
      none.hidden = found.length > 0 || fits.models.length === 0;
      reconcile(cards, found, {
        key: (one) => one.model,
        make: (one) => modelCard(one, ctx, look),
        update: updateModelCard,
      });
    };
    const look = throttled(async () => {
      const answer = await ctx.attempt(
        ctx.api(`/models/fit?context_tokens=${context.input.value}&slots=${slots.input.value}`));
      if (answer) fits = answer;
      show();
    }, GAP_MS, ctx.signal);

    fill(root,
      el("header", { class: "page-head" }, el("div", {}, el("h1", {}, "Models"), about),
        ctx.can("admin")
          ? el("button", { class: "primary", on: { click: () => pullDialog(ctx) } }, icon("download"), "Fetch a model")
          : null),
      el("div", { class: "card what-if" },
        el("div", { class: "field grow" }, el("label", { for: "find-model" }, "Find"), search),
        el("div", { class: "field" }, el("label", { for: context.input.id }, "With a context of"), context.input),
        el("div", { class: "field" }, el("label", { for: slots.input.id }, "At once"), slots.input)),
      transfers.root, empty, cards, none);

    search.addEventListener("input", show);
    context.input.addEventListener("change", look);
    slots.input.addEventListener("change", look);
    for (const kind of ["replica", "node.joined", "node.state", "node.models"]) ctx.live.on(kind, look);
    ctx.every(10, look);
    // Without the socket, loads are followed by looking.
    ctx.every(1.5, () => {
      const moves = fits?.models.some((one) => one.nodes.some((node) => node.verdict === "loading"));
      if (moves && ctx.live.connection.value !== "live") look();
    });
  },
};

function choice(name, values, chosen, words) {
  const input = el("select", { id: `what-if-${name}` }, values.map((value) =>
    el("option", { value, selected: value === chosen }, words(value))));
  return { input };
}

function matches(model, wanted) {
  const texts = [model.model, model.architecture ?? "", model.tier ?? "",
    ...model.nodes.filter((one) => one.on_disk || one.verdict === "loaded").map((one) => one.node)];
  return !wanted || texts.some((one) => one.toLowerCase().includes(wanted));
}

function byUse(a, b) {
  const held = (one) => Number(one.nodes.some((node) => node.verdict === "loaded" || node.verdict === "loading"));
  return held(b) - held(a) || b.parameters - a.parameters || a.model.localeCompare(b.model);
}
