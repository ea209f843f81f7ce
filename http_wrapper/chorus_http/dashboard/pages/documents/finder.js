/** Asking and searching in the open collection. */

import { el, fill, icon } from "../../shell/dom.js";
import { duration, number, percent } from "../../shell/format.js";
import { Announcer } from "../../words/announcer.js";
import { copyButton } from "../../words/copy_button.js";
import { highlighted } from "../../words/highlight.js";
import { Prose } from "../../words/prose.js";
import { split } from "../../words/thoughts.js";
import { Composer } from "../chat/composer.js";
import { citationMarks, sourcesView } from "../chat/sources_view.js";

const FOUND = 8;

export class Finder {
  #ctx;
  #collection;
  #running = null;
  #announcer = new Announcer();

  /** `collection()`: the name of the open one. */
  constructor(ctx, collection) {
    this.#ctx = ctx;
    this.#collection = collection;
    this.asks = el("input", { type: "radio", name: "find", value: "ask", checked: true });
    const searches = el("input", { type: "radio", name: "find", value: "search" });
    this.composer = new Composer({
      label: "Ask your documents",
      send: (text) => this.#find(text),
      stop: () => this.#running?.abort(),
      beside: [
        el(
          "div",
          { class: "switch", role: "radiogroup", "aria-label": "What to do" },
          el("label", {}, this.asks, icon("message-square"), "Answer"),
          el("label", {}, searches, icon("search"), "Search"),
        ),
      ],
    });
    this.found = el("div", { class: "found" });
    this.element = el(
      "section",
      { class: "stack finder", "aria-label": "Ask or search" },
      this.composer.element,
      this.found,
      this.#announcer.element,
    );
  }

  /** Forget what was found. */
  clear() {
    this.#running?.abort();
    fill(this.found);
  }

  async #find(text) {
    this.#running?.abort();
    const running = new AbortController();
    this.#running = running;
    const signal = AbortSignal.any([running.signal, this.#ctx.signal]);
    this.composer.busy(true);
    try {
      await (this.asks.checked ? this.#ask(text, signal) : this.#search(text, signal));
    } catch (error) {
      if (error.name !== "AbortError")
        fill(this.found, el("p", { class: "notice bad" }, icon("triangle-alert"), error.message));
    } finally {
      if (this.#running === running) this.composer.busy(false);
    }
  }

  async #search(query, signal) {
    const body = { query, collection: this.#collection(), top_k: FOUND };
    const { results } = await this.#ctx.api("/rag/search", { body, signal });
    fill(
      this.found,
      results.length
        ? el(
            "ol",
            { class: "passages", "aria-label": "Passages" },
            results.map((passage) => passageView(passage, query)),
          )
        : el("p", { class: "notice" }, icon("info"), "No passage speaks of this."),
    );
  }

  async #ask(question, signal) {
    const answer = new Answer(question);
    fill(this.found, answer.element);
    this.#announcer.begin("The model");
    const body = { question, collection: this.#collection(), stream: true };
    for await (const { event, data } of this.#ctx.stream("/rag/ask", { body, signal })) {
      answer.apply(event, data);
      if (event === "delta") this.#announcer.grow(answer.text);
      if (event === "finished") this.#announcer.end(data.answer);
    }
  }
}

/** One answer with its passages. */
class Answer {
  #prose = new Prose();
  text = "";

  constructor(question) {
    this.sources = el("div");
    this.facts = el("p", { class: "facts" });
    this.waiting = el("p", { class: "muted small" }, "Looking for passages …");
    this.element = el(
      "article",
      { class: "card answer", "aria-label": "Answer" },
      el(
        "header",
        { class: "row apart" },
        el("h2", { class: "grow" }, question),
        copyButton(() => this.text, { what: "answer" }),
      ),
      this.waiting,
      this.#prose.element,
      this.sources,
      this.facts,
    );
  }

  /** An event of POST /rag/ask. */
  apply(event, body) {
    if (event === "sources") {
      this.waiting.remove();
      this.#show(body.sources);
    } else if (event === "delta") {
      this.text += body.text;
      this.#prose.grow(split(this.text, { ended: false }).answer);
    } else if (event === "finished") {
      this.text = body.answer;
      this.#prose.show(split(body.answer).answer);
      this.#show(body.sources);
      const told = [body.model && `${body.model} on ${body.node}`, body.seconds && duration(body.seconds)];
      if (body.wrong_citations.length)
        told.push(`names passages that it was not given: ${body.wrong_citations.join(", ")}`);
      fill(this.facts, told.filter(Boolean).join(" · "));
    }
  }

  #show(sources) {
    if (!sources.length) return;
    const list = sourcesView(sources);
    list.open = this.sources.querySelector("details")?.open ?? false;
    fill(this.sources, list);
    this.#prose.mark(citationMarks(sources, list));
  }
}

function scores({ score, similarity }) {
  const told = `score ${number(score, 3)}`;
  return similarity === null ? told : `${told} · meaning ${percent(similarity)}`;
}

function passageView(passage, query) {
  const where = [...passage.headings, passage.page === null ? null : `page ${passage.page}`]
    .filter(Boolean)
    .join(" › ");
  return el(
    "li",
    { class: "card passage" },
    el(
      "header",
      { class: "row apart" },
      el(
        "h3",
        { class: "ellipsis grow" },
        passage.title || passage.source || "Untitled",
        where && el("span", { class: "muted" }, ` ${where}`),
      ),
      el(
        "span",
        { class: "badge", title: "Its place comes from the score: words and meaning together" },
        scores(passage),
      ),
    ),
    el("p", { class: "plain-text", dir: "auto" }, highlighted(passage.text, query)),
  );
}
