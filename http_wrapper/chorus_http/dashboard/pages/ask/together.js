/** The one answer that is made of all. */

import { el, fill, icon, say } from "../../shell/dom.js";
import { count, duration, percent } from "../../shell/format.js";
import { copyButton } from "../../words/copy_button.js";
import { Prose } from "../../words/prose.js";

export class Together {
  #text = "";
  #prose = new Prose();

  constructor() {
    this.question = el("p", { class: "muted ellipsis" });
    this.progress = el("span", { class: "badge" });
    this.bar = el("span", { class: "bar-fill" });
    this.track = el("div", { class: "bar-track", "aria-hidden": "true" }, this.bar);
    this.facts = el("p", { class: "facts" });
    this.element = el(
      "section",
      { class: "card together", "aria-label": "Together" },
      el(
        "header",
        { class: "row apart" },
        el("div", { class: "grow" }, el("h2", {}, "Together"), this.question),
        this.progress,
        copyButton(() => this.#text, { what: "the answer" }),
      ),
      this.track,
      this.#prose.element,
      this.facts,
    );
  }

  begin(prompt) {
    this.#text = "";
    this.#prose.show("");
    say(this.question, prompt);
    this.track.hidden = false;
    fill(this.facts);
    this.element.dataset.state = "waiting";
    this.#count({ done: 0, all: 0 });
  }

  /** An event of POST /query; `counted`: how many have answered. */
  apply(event, body, counted) {
    if (event === "answer_delta") {
      this.#text += body.text;
      this.#prose.grow(this.#text);
    }
    if (event === "finished") this.#finish(body, counted);
    else this.#count(counted);
  }

  fail(message) {
    this.element.dataset.state = "failed";
    this.track.hidden = true;
    say(this.progress, "No answer");
    fill(this.facts, el("span", { class: "note bad" }, icon("triangle-alert"), message));
  }

  #finish(body, { all }) {
    this.#text = body.answer;
    this.#prose.show(body.answer);
    this.track.hidden = true;
    this.element.dataset.state = "done";
    const came = body.members.filter((member) => !member.error).length;
    say(this.progress, `${came} of ${count(all, "PC")}`);
    const told = [`by ${body.strategy}`, `${percent(body.agreement)} agreement`, duration(body.seconds), body.note];
    fill(this.facts, told.filter(Boolean).join(" · "));
  }

  #count({ done, all }) {
    say(this.progress, all ? `${done} of ${all} answered` : "Asking …");
    this.bar.style.setProperty("--share", all ? `${(100 * done) / all}%` : "0%");
  }
}
