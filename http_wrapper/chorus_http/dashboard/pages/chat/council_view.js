/** What the members of a council said, side by side, and how much they disagreed. */

import { Prose } from "../../words/prose.js";
import { el, icon } from "../../shell/dom.js";
import { count, duration, number, percent } from "../../shell/format.js";

/** `growing`: more members may still answer. */
export function councilView({ strategy, disagreement, members, growing = false }, { open }) {
  const told = [count(members.length, "answer")];
  if (strategy) told.push(strategy);
  if (!growing && disagreement !== undefined) told.push(`${percent(disagreement)} disagreement`);
  return el(
    "details",
    { class: "council", open },
    el("summary", {}, icon("users"), el("span", {}, told.join(" · "))),
    el("ul", { class: "members" }, members.map(memberView)),
  );
}

function memberView(member) {
  const prose = new Prose();
  prose.show(member.text ?? "");
  const figures = [];
  if (member.seconds) figures.push(duration(member.seconds));
  if (member.tokens) figures.push(count(member.tokens, "token"));
  if (member.weight !== undefined && member.weight !== null) figures.push(`weight ${number(member.weight, 2)}`);
  return el(
    "li",
    { class: member.error ? "member failed" : "member" },
    el("h4", {}, member.node || member.model, el("span", { class: "muted" }, ` ${member.node ? member.model : ""}`)),
    member.error ? el("p", { class: "note bad" }, icon("triangle-alert"), member.error) : prose.element,
    el("p", { class: "facts" }, vote(member), figures.join(" · ")),
  );
}

/** Whether it was for the answer that the council gave. */
export function vote({ agrees }) {
  if (agrees === undefined || agrees === null) return null;
  return agrees
    ? el("span", { class: "badge ok" }, icon("check"), "agrees")
    : el("span", { class: "badge warn" }, icon("x"), "differs");
}
