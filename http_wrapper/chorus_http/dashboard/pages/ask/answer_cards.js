/** A card for each PC that is asked: waiting, answering word by word, done with its time and speed, late, or failed. */

import { el, fill, icon, say } from "../../shell/dom.js";
import { count, duration, number } from "../../shell/format.js";
import { Prose } from "../../words/prose.js";
import { vote } from "../chat/council_view.js";

/** Refusals that say nothing against the PC: its time was over, or the others were enough. */
const NO_FAULT = { deadline_exceeded: "late", cancelled: "spared" };
const STATES = {
  waiting: ["Waiting", "rest"],
  answering: ["Answering", "accent"],
  done: ["Answered", "ok"],
  late: ["Late", "warn"],
  spared: ["Not waited for", "rest"],
  failed: ["Failed", "bad"],
};

export class AnswerCards {
  #cards = new Map();

  constructor() {
    this.element = el("ul", { class: "grid answers", "aria-label": "What each PC says" });
  }

  /** Everybody who is asked begins with an empty card. */
  begin(clients) {
    this.#cards.clear();
    const began = performance.now();
    for (const client of clients) this.#cards.set(client.node_id, new Card(client.name, began));
    fill(
      this.element,
      [...this.#cards.values()].map((card) => card.element),
    );
  }

  /** An event of POST /query. */
  apply(event, body) {
    switch (event) {
      case "member_started":
        this.#card(body).start(body);
        break;
      case "member_delta":
        this.#card(body).grow(body.text);
        break;
      case "member_answer":
        this.#card(body).finish(body);
        break;
      case "finished":
        for (const member of body.members) this.#card(member).finish(member);
        this.end("Not asked: the outcome stood without it.", "spared");
        break;
      default:
        break;
    }
  }

  /** Nothing more comes: who has not answered did not in time. */
  end(reason, state = "late") {
    for (const card of this.#cards.values()) card.giveUp(reason, state);
  }

  /** Show how long those who are not done have been at it. */
  tick() {
    for (const card of this.#cards.values()) card.tick();
  }

  /** `{done, all}`. */
  counted() {
    const cards = [...this.#cards.values()];
    return { done: cards.filter((card) => card.ended).length, all: cards.length };
  }

  /** A PC may answer several times; its first answer takes the card that was prepared. */
  #card({ node_id: node, member, node: name }) {
    const known = this.#cards.get(member) ?? this.#prepared(node, member);
    if (known) return known;
    const card = new Card(name, performance.now());
    this.#cards.set(member, card);
    this.element.append(card.element);
    return card;
  }

  #prepared(node, member) {
    const card = this.#cards.get(node);
    if (!card) return null;
    this.#cards.delete(node);
    this.#cards.set(member, card);
    return card;
  }
}

class Card {
  #began;
  #text = "";
  #prose = new Prose();
  ended = false;

  constructor(name, began) {
    this.#began = began;
    this.name = el("h3", { class: "ellipsis" }, name ?? "A PC");
    this.model = el("p", { class: "muted small ellipsis" });
    this.state = el("span");
    this.note = el("p", { class: "note" });
    this.figures = el("p", { class: "facts" });
    this.element = el(
      "li",
      { class: "card answer" },
      el("header", { class: "row apart" }, el("div", { class: "grow" }, this.name, this.model), this.state),
      this.#prose.element,
      this.note,
      this.figures,
    );
    this.#show("waiting");
  }

  start({ node, model }) {
    if (node) say(this.name, node);
    say(this.model, model);
    this.#show("answering");
  }

  grow(text) {
    this.#text += text;
    this.#prose.grow(this.#text);
  }

  finish(member) {
    this.ended = true;
    if (member.node) say(this.name, member.node);
    say(this.model, member.model);
    if (member.error) {
      this.#show(NO_FAULT[member.error.code] ?? "failed");
      say(this.note, member.error.message);
      this.#prose.show(member.text || this.#text);
    } else {
      this.#show("done");
      say(this.note, "");
      this.#prose.show(member.text);
    }
    const told = [
      member.seconds ? duration(member.seconds) : null,
      member.tokens ? count(member.tokens, "token") : null,
      member.tokens_per_s ? `${number(member.tokens_per_s, member.tokens_per_s < 10 ? 1 : 0)} tokens/s` : null,
    ];
    fill(this.figures, vote(member), told.filter(Boolean).join(" · "));
  }

  giveUp(reason, state) {
    if (this.ended) return;
    this.ended = true;
    this.#show(state);
    say(this.note, reason);
  }

  tick() {
    if (!this.ended) say(this.figures, duration((performance.now() - this.#began) / 1000));
  }

  #show(state) {
    const [text, kind] = STATES[state];
    this.element.dataset.state = state;
    this.state.className = `badge dot ${kind}`;
    say(this.state, text);
  }
}
