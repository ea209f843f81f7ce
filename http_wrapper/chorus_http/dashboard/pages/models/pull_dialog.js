/** Bring a model into the house: from an Ollama registry by name, or a .gguf file by its address. */

import { el, icon } from "../../shell/dom.js";

export async function pullDialog(ctx) {
  const clients = (ctx.live.cluster.value?.clients ?? []).filter((one) => one.state === "alive");
  const source = el("input", { id: "pull-source", required: true, autofocus: true, placeholder: "llama3.2:3b or https://…/model.gguf", autocomplete: "off", spellcheck: "false" });
  const node = el("select", { id: "pull-node" }, el("option", { value: "" }, "the ablest PC"),
    clients.map((one) => el("option", { value: one.name }, one.name)));
  const problem = el("p", { class: "problem", role: "alert" });
  const go = el("button", { class: "primary", type: "submit", form: "pull" }, icon("download"), "Fetch");
  await ctx.dialog({
    title: "Fetch a model",
    body: (close) => el("form", { id: "pull", class: "stack", on: { submit: async (event) => {
      event.preventDefault();
      go.disabled = true;
      problem.textContent = "";
      try {
        const body = { source: source.value.trim(), ...(node.value ? { node: node.value } : {}) };
        const begun = await ctx.api("/transfers", { body, withinS: 60 });
        ctx.toast.ok(`${begun.model} is on its way to ${begun.node}.`);
        close();
      } catch (error) {
        problem.textContent = error.message;
        go.disabled = false;
      }
    } } },
      el("div", { class: "field" }, el("label", { for: "pull-source" }, "Name in the registry, or address of a .gguf file"), source),
      el("div", { class: "field" }, el("label", { for: "pull-node" }, "Onto"), node,
        el("p", { class: "hint" }, "Other PCs copy it from there over the network, so it is downloaded once.")),
      problem),
    actions: (close) => [el("button", { on: { click: () => close() } }, "Cancel"), go],
  });
}
