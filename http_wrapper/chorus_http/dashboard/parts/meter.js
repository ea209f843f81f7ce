/** A bar that says how much of something is used; the words beside it say it too. */

import { el, say } from "../shell/dom.js";

/** Returns `{ root, show(share, words) }`. `share` 0-1, null for unknown. */
export function meter(label) {
  const words = el("span", { class: "number" });
  const bar = el("div", { class: "bar-fill" });
  const root = el(
    "div",
    { class: "meter" },
    el("div", { class: "row" }, el("span", { class: "muted" }, label), words),
    el("div", { class: "bar-track", "aria-hidden": "true" }, bar),
  );
  return {
    root,
    show(share, text) {
      say(words, text);
      const percent = `${Math.round(Math.min(1, Math.max(0, share ?? 0)) * 100)}%`;
      if (bar.style.getPropertyValue("--share") !== percent) bar.style.setProperty("--share", percent);
      bar.classList.toggle("warn", (share ?? 0) > 0.85 && share <= 0.95);
      bar.classList.toggle("bad", (share ?? 0) > 0.95);
    },
  };
}

/** A bar for work that goes on, with a role that says how far it is. Returns `{ root, show(share, words) }`. */
export function progress(label) {
  const words = el("span", { class: "number" });
  const bar = el("div", { class: "bar-fill" });
  const track = el("div", { class: "bar-track", role: "progressbar", "aria-label": label, "aria-valuemin": 0,
    "aria-valuemax": 100 }, bar);
  return {
    root: el("div", { class: "meter" }, el("div", { class: "row" }, el("span", { class: "muted" }, label), words), track),
    show(share, text) {
      say(words, text);
      const percent = Math.round((share ?? 0) * 100);
      bar.style.setProperty("--share", `${percent}%`);
      if (share === null || share === undefined) track.removeAttribute("aria-valuenow");
      else track.setAttribute("aria-valuenow", String(percent));
    },
  };
}
