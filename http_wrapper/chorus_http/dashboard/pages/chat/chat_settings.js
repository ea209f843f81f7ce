/** What belongs to a chat as a whole: its name, its instructions, taking it elsewhere, and its end. */

import { el, icon } from "../../shell/dom.js";

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

/** Ask for the instructions (the system prompt); undefined when they were left as they are. */
export function askInstructions(ctx, system) {
  const field = el("textarea", { rows: 8, autofocus: true, "aria-describedby": "instructions-what", props: { value: system } });
  return ctx.dialog({
    title: "Instructions",
    body: () => [
      el("p", { class: "muted", id: "instructions-what" },
        "The model reads these before everything else in this chat (a system prompt)."),
      field,
    ],
    actions: (close) => [
      el("button", { type: "button", on: { click: () => close() } }, "Cancel"),
      el("button", { class: "primary", type: "button", on: { click: () => close(field.value.trim()) } }, "Save"),
    ],
  });
}

/** Take the chat elsewhere: two links that download it. */
export function showExports(ctx, id) {
  const address = (format) => `/chat/sessions/${encodeURIComponent(id)}/export?format=${format}`;
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
