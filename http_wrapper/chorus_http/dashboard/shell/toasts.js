/** Short messages in the corner. Good news goes by itself; trouble stays until it is closed. */

import { el, icon } from "./dom.js";

const SHOWN_S = 5;
const MOST = 4;

const region = el("div", { class: "toasts", role: "region", "aria-label": "Messages" });
const polite = el("div", { role: "status", "aria-live": "polite" });
const urgent = el("div", { role: "alert", "aria-live": "assertive" });
region.append(polite, urgent);

/** Where the messages appear; the shell puts it into the page once. */
export const toastRegion = region;

export const toast = {
  /** It worked. */
  ok: (text) => show(polite, "ok", "circle-check", text),
  /** Worth knowing. */
  note: (text) => show(polite, "note", "info", text),
  /** It did not work: an Error, or words. What somebody aborted is no failure and is not shown. */
  failed: (error) => {
    if (error?.name !== "AbortError") show(urgent, "bad", "circle-alert", error?.message ?? String(error));
  },
};

function show(place, kind, mark, text) {
  for (const old of place.children) if (old.dataset.text === text) old.remove();
  const close = () => box.remove();
  const box = el(
    "div",
    { class: `toast ${kind}`, "data-text": text },
    icon(mark),
    el("p", {}, text),
    el("button", { class: "plain small", "aria-label": "Close this message", on: { click: close } }, icon("x")),
  );
  place.append(box);
  while (place.children.length > MOST) place.firstElementChild.remove();
  if (kind !== "bad") setTimeout(close, SHOWN_S * 1000);
}
