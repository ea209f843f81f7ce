/** Questions in front of the page. The browser's own <dialog> keeps the focus inside, closes on Escape and gives the
 * focus back to where it was. */

import { el, icon } from "./dom.js";

/**
 * Show a dialog. `body(close)` builds its content and `actions(close)` its buttons; resolves with what `close(value)`
 * was given, or undefined when it was dismissed.
 */
export function openDialog({ title, body, actions, wide = false }) {
  return new Promise((resolve) => {
    let result;
    const close = (value) => {
      result = value;
      dialog.close();
    };
    const heading = el("h2", { id: "dialog-title" }, title);
    const dialog = el(
      "dialog",
      { class: wide ? "wide" : null, "aria-labelledby": "dialog-title" },
      el(
        "header",
        {},
        heading,
        el("button", { class: "plain", "aria-label": "Close", on: { click: () => close() } }, icon("x")),
      ),
      el("div", { class: "dialog-body" }, body(close)),
      actions ? el("footer", {}, actions(close)) : null,
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(result);
    });
    document.body.append(dialog);
    dialog.showModal();
    dialog.querySelector("[autofocus]")?.focus();
  });
}

/** Ask before something that cannot be taken back. Resolves true or false; Escape is a no. */
export async function confirmed({ title, text, yes, danger = false }) {
  const answer = await openDialog({
    title,
    body: () => el("p", {}, text),
    actions: (close) => [
      el("button", { on: { click: () => close(false) } }, "Cancel"),
      el("button", { class: danger ? "danger" : "primary", autofocus: true, on: { click: () => close(true) } }, yes),
    ],
  });
  return answer === true;
}
