/** "Where would this go, and why?": the coordinator's own reasoning for a request that is not run. */

import { el, fill, icon } from "../../shell/dom.js";
import { duration, number } from "../../shell/format.js";

export function explainForm(ctx) {
  const model = el("select", { id: "explain-model", required: true });
  const prompt = el("input", { id: "explain-prompt", value: "Why is the sky blue?", required: true });
  const answer = el("div", { class: "stack", "aria-live": "polite" });
  const choose = (status) => {
    const names = [...new Set(status.clients.flatMap((one) => [...one.replicas.map((replica) => replica.model), ...one.models]))].sort();
    if (model.dataset.names === names.join()) return;
    model.dataset.names = names.join();
    const chosen = model.value;
    fill(model, names.map((name) => el("option", { value: name, selected: name === chosen }, name)));
  };
  ctx.live.cluster.watch(choose);
  const submit = async (event) => {
    event.preventDefault();
    const body = { model: model.value, messages: [{ role: "user", content: prompt.value }] };
    const found = await ctx.attempt(ctx.api("/route/explain", { body }));
    if (found) fill(answer, shown(found));
  };
  return el("section", { class: "card stack", "aria-labelledby": "explain" },
    el("h2", { id: "explain" }, "Where would it go, and why?"),
    el("form", { class: "explain", on: { submit } },
      el("div", { class: "field" }, el("label", { for: "explain-model" }, "Model"), model),
      el("div", { class: "field grow" }, el("label", { for: "explain-prompt" }, "Prompt"), prompt),
      el("button", { type: "submit" }, icon("scale"), "Explain")),
    answer);
}

function shown(found) {
  const best = found.ranking.map((one, index) =>
    el("tr", {}, el("td", {}, number(index + 1)), el("th", { scope: "row" }, one.node_name),
      el("td", { class: "number" }, duration(one.cost_s)), el("td", {}, one.reason)));
  const refused = found.refused.map((one) =>
    el("tr", { class: "muted" }, el("td", {}, "–"), el("th", { scope: "row" }, one.node_name), el("td", { class: "number" }, "–"), el("td", {}, one.reason)));
  return [
    el("p", {}, el("strong", {}, found.verdict), ` (${found.strategy.replaceAll("_", " ")}, ${number(found.prompt_tokens)} tokens of prompt, about ${number(found.expected_tokens)} of answer expected)`),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Rank"), el("th", { scope: "col" }, "PC"),
        el("th", { scope: "col", class: "number" }, "Cost"), el("th", { scope: "col" }, "Reason"))),
      el("tbody", {}, best, refused))),
  ];
}
