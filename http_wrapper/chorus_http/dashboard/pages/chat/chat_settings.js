/** What belongs to a chat as a whole: its name, how it is to go, taking it elsewhere, and its end. */

import { el, icon } from "../../shell/dom.js";
import { keepSampling, limitsOf, sampling } from "./sampling.js";

/** Ask for a new name; undefined when it was left as it is. */
export function askName(ctx, title) {
  const field = el("input", { type: "text", required: true, maxlength: 200, autofocus: true, props: { value: title } });
  return ctx.dialog({
    title: "Rename this chat",
    body: (close) =>
      el(
        "form",
        { id: "rename", on: { submit: (event) => submitted(event, () => close(field.value.trim() || undefined)) } },
        el("label", {}, "Name", field),
      ),
    actions: (close) => [
      el("button", { type: "button", on: { click: () => close() } }, "Cancel"),
      el("button", { class: "primary", type: "submit", form: "rename" }, "Rename"),
    ],
  });
}

/** Ask how the chat is to go; undefined when all was left as it is, else `{system}`. This browser keeps the rest. */
export function askSettings(ctx, system) {
  const instructions = el("textarea", {
    id: "instructions",
    rows: 6,
    autofocus: true,
    "aria-describedby": "instructions-what",
    props: { value: system },
  });
  const present = sampling();
  const numbers = {
    temperature: numberField(
      "temperature",
      "Temperature",
      "0 says the likeliest; higher is freer. Empty: the model's own.",
      { step: 0.1, value: present.temperature },
    ),
    max_tokens: numberField(
      "max_tokens",
      "Longest answer, in tokens",
      "Empty: as long as the model's context lets it.",
      { step: 1, value: present.max_tokens },
    ),
  };
  const save = (close) => {
    const fields = Object.entries(numbers);
    if (!fields.every(([, { input }]) => input.reportValidity())) return;
    keepSampling(
      Object.fromEntries(
        fields.filter(([, { input }]) => input.value).map(([name, { input }]) => [name, Number(input.value)]),
      ),
    );
    close({ system: instructions.value.trim() });
  };
  return ctx.dialog({
    title: "Chat settings",
    body: () => [
      el(
        "div",
        { class: "field" },
        el("label", { for: "instructions" }, "Instructions for this chat"),
        instructions,
        el(
          "p",
          { class: "hint", id: "instructions-what" },
          "The model reads them before everything else (a system prompt).",
        ),
      ),
      el("h3", {}, "All chats in this browser"),
      Object.values(numbers).map(({ field }) => field),
    ],
    actions: (close) => [
      el("button", { type: "button", on: { click: () => close() } }, "Cancel"),
      el("button", { class: "primary", type: "button", on: { click: () => save(close) } }, "Save"),
    ],
  });
}

function numberField(name, label, hint, { step, value }) {
  const input = el("input", {
    type: "number",
    id: name,
    step,
    ...limitsOf(name),
    "aria-describedby": `${name}-what`,
    props: { value: value ?? "" },
  });
  const field = el(
    "div",
    { class: "field" },
    el("label", { for: name }, label),
    input,
    el("p", { class: "hint", id: `${name}-what` }, hint),
  );
  return { input, field };
}

/** Take the chat elsewhere: two links that download it from `path`. */
export function showExports(ctx, path) {
  const address = (format) => `${path}?format=${format}`;
  const link = (format, title, text) =>
    el(
      "a",
      { class: "button choice", href: address(format), download: true },
      icon("download"),
      el("span", {}, el("strong", {}, title), el("span", { class: "muted" }, text)),
    );
  return ctx.dialog({
    title: "Export this chat",
    body: () =>
      el(
        "div",
        { class: "choices" },
        link("markdown", "Markdown", "To read: the branch that is shown."),
        link("json", "JSON", "To keep: all branches; it can be imported again."),
      ),
  });
}

export function confirmDelete(ctx, title) {
  return ctx.confirmed({
    title: "Delete this chat?",
    text: `“${title}” and all its branches are deleted for good.`,
    yes: "Delete",
    danger: true,
  });
}

function submitted(event, then) {
  event.preventDefault();
  then();
}
