/** Make a key: what it may do, for how long, within which limits; then its secret, this once. */

import { el, icon } from "../../shell/dom.js";

const DAY_S = 86400;
const SCOPES = {
  infer: "ask models (all APIs)",
  chat: "keep chat sessions",
  rag: "documents",
  metrics: "see the fleet and the queue",
  admin: "everything: keys, models, PCs",
};
const BEGUN_WITH = ["infer", "chat"];
/** Days and their words. */
const LIVES = [["", "until it is revoked"], [1, "one day"], [7, "a week"], [30, "a month"], [365, "a year"]];

/** True when a key was made. */
export async function newKeyDialog(ctx) {
  const made = await ctx.dialog({ title: "New key", ...form(ctx) });
  if (!made) return false;
  await ctx.dialog({ title: `The key “${made.key.name}”`, ...secret(made, ctx) });
  return true;
}

function form(ctx) {
  const name = input("name", { required: true, autofocus: true, maxlength: 64, placeholder: "ada's laptop" });
  const owner = input("owner", { maxlength: 64, placeholder: "the name" });
  const life = el("select", { id: "key-life" }, LIVES.map(([days, words]) => el("option", { value: days }, words)));
  const perMinute = input("per-minute", { type: "number", min: 1 });
  const parallel = input("parallel", { type: "number", min: 1 });
  const perDay = input("per-day", { type: "number", min: 1 });
  const scopes = Object.entries(SCOPES).map(([scope, words]) => {
    const box = el("input", { type: "checkbox", value: scope, checked: BEGUN_WITH.includes(scope) });
    return { box, row: el("label", { class: "choice" }, box, el("span", {}, el("strong", {}, scope), ` – ${words}`)) };
  });
  const problem = el("p", { class: "problem", role: "alert" });
  const go = el("button", { class: "primary", type: "submit", form: "new-key" }, "Make the key");
  const submit = (close) => async (event) => {
    event.preventDefault();
    problem.textContent = "";
    const chosen = scopes.filter(({ box }) => box.checked).map(({ box }) => box.value);
    if (!chosen.length) {
      problem.textContent = "Choose at least one thing that it may do.";
      return;
    }
    const body = { name: name.value.trim(), scopes: chosen };
    if (owner.value.trim()) body.owner = owner.value.trim();
    if (life.value) body.expires_in_s = Number(life.value) * DAY_S;
    for (const [field, of] of [["requests_per_minute", perMinute], ["parallel", parallel], ["tokens_per_day", perDay]]) {
      if (of.value) body[field] = Number(of.value);
    }
    go.disabled = true;
    try {
      close(await ctx.api("/keys", { body }));
    } catch (error) {
      problem.textContent = error.message;
      go.disabled = false;
    }
  };
  return {
    body: (close) => el("form", { id: "new-key", class: "stack", on: { submit: submit(close) } },
      field("key-name", "Name", name),
      field("key-owner", "Whose key it is", owner, "Keys of one owner share one fair share."),
      el("fieldset", { class: "plain-set stack tight" }, el("legend", {}, "It may"), scopes.map(({ row }) => row)),
      field("key-life", "It is good", life),
      el("details", {}, el("summary", {}, "Limits"),
        el("div", { class: "stack" },
          field("key-per-minute", "Requests a minute", perMinute),
          field("key-parallel", "Requests at once", parallel),
          field("key-per-day", "Tokens a day", perDay))),
      problem),
    actions: (close) => [el("button", { on: { click: () => close() } }, "Cancel"), go],
  };
}

function input(name, attributes) {
  return el("input", { id: `key-${name}`, autocomplete: "off", ...attributes });
}

function field(id, words, element, hint) {
  return el("div", { class: "field" }, el("label", { for: id }, words), element, hint ? el("p", { class: "hint" }, hint) : null);
}

function secret(made, ctx) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(made.secret);
      ctx.toast.ok("Copied.");
    } catch {
      ctx.toast.note("This browser copies only on a secure page; select the text instead.");
    }
  };
  return {
    body: () => [
      el("p", {}, "Copy it now: it is shown this once and cannot be shown again."),
      el("pre", { class: "secret", tabindex: 0 }, el("code", {}, made.secret)),
      el("p", { class: "muted small" }, "Programs send it as ", el("code", {}, "Authorization: Bearer KEY"), "."),
    ],
    actions: (close) => [
      el("button", { on: { click: copy } }, icon("copy"), "Copy"),
      el("button", { class: "primary", on: { click: () => close(true) } }, "I have it"),
    ],
  };
}
