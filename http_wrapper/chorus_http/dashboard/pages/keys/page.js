/** API keys: who may use this cluster. A new key's secret is shown once. */

import { el, fill, icon, reconcile, say } from "../../shell/dom.js";
import { ago, count, moment, number } from "../../shell/format.js";
import { newKeyDialog } from "./new_key.js";

export default {
  mount(root, ctx) {
    const about = el("p");
    const rows = el("tbody");
    const old = el("input", { type: "checkbox", id: "show-old" });
    const ended = el("label", { class: "choice", hidden: true }, old, "Show keys that have ended");
    const empty = el("div", { class: "card empty", hidden: true }, icon("key-round"), el("h2", {}, "No keys yet"),
      el("p", {}, "On this PC alone none is needed. Make one for every person or program that comes over the network: each gets a fair share of its own, limits, and an end."));
    const table = el("div", { class: "card flush scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, ["Name", "Whose", "May", "Used", "Tokens today", "Limits", "State"].map((text) =>
        el("th", { scope: "col" }, text)), el("th", { scope: "col" }, el("span", { class: "hidden-visually" }, "Actions")))),
      rows));
    let keys = [];

    const show = () => {
      const live = keys.filter((one) => one.live);
      const shown = old.checked ? keys : live;
      say(about, `${count(live.length, "key")} in use${keys.length > live.length ? `, ${keys.length - live.length} ended` : ""}`);
      empty.hidden = keys.length > 0;
      ended.hidden = keys.length === live.length;
      table.hidden = shown.length === 0;
      reconcile(rows, shown, { key: (one) => one.key_id, make: () => el("tr"), update: (row, one) => update(row, one, revoke) });
    };
    const look = async () => {
      const answer = await ctx.attempt(ctx.api("/keys"));
      if (answer) keys = answer.keys;
      show();
    };
    const make = async () => {
      if (await newKeyDialog(ctx)) await look();
    };
    const revoke = async (key) => {
      const sure = await ctx.confirmed({
        title: `Revoke ${key.name}?`,
        text: `Whatever runs for it is cut off within a second, and the key never works again.${key.mine ? " It is the key you are signed in with." : ""}`,
        yes: "Revoke",
        danger: true,
      });
      if (!sure) return;
      const done = await ctx.attempt(ctx.api(`/keys/${encodeURIComponent(key.key_id)}`, { method: "DELETE" }));
      if (done) ctx.toast.ok(`${key.name} is revoked.`);
      await look();
    };
    fill(root,
      el("header", { class: "page-head" }, el("div", {}, el("h1", {}, "Keys"), about),
        el("button", { class: "primary", on: { click: make } }, icon("plus"), "New key")),
      empty, table,
      ended);
    old.addEventListener("change", show);
    ctx.every(15, look);
  },
};

function update(row, key, revoke) {
  const text = JSON.stringify(key);
  if (row.dataset.shown === text) return;
  row.dataset.shown = text;
  const limits = [
    key.requests_per_minute ? `${number(key.requests_per_minute)}/min` : null,
    key.parallel ? `${key.parallel} at once` : null,
    key.tokens_per_day ? `${number(key.tokens_per_day)} tokens/day` : null,
    key.trusted ? "trusted front" : null,
  ].filter(Boolean);
  fill(row,
    el("th", { scope: "row" }, key.name, el("div", { class: "muted small mono" }, key.key_id)),
    el("td", {}, key.owner),
    el("td", {}, el("span", { class: "row" }, key.scopes.map((one) =>
      el("span", { class: `badge ${one === "admin" ? "accent" : ""}` }, one)))),
    el("td", {}, key.last_used_unix_s === null ? "never" : ago(key.last_used_unix_s)),
    el("td", { class: "number" }, number(key.tokens_today)),
    el("td", { class: "small" }, limits.join(", ") || "–"),
    el("td", {}, state(key)),
    el("td", { class: "number" }, key.live
      ? el("button", { class: "small", "aria-label": `Revoke ${key.name}`, on: { click: () => revoke(key) } }, "Revoke")
      : null));
}

function state(key) {
  if (key.revoked_unix_s !== null) return el("span", { class: "badge bad" }, "revoked");
  if (!key.live) return el("span", { class: "badge warn" }, "expired");
  const until = key.expires_unix_s === null ? "" : ` until ${moment(key.expires_unix_s)}`;
  return [el("span", { class: "badge ok" }, `in use${until}`), key.mine ? el("span", { class: "badge" }, "yours") : null];
}
