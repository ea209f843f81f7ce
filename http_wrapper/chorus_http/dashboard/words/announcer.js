/**
 * Tells those who hear the page how an answer goes on: that it begins, then whole sentences at most every few seconds,
 * and its end. A live region around the streamed text itself would read every word twice or drown in them.
 */

import { el } from "../shell/dom.js";

const EVERY_MS = 4000;
const MOST_SAID = 400;

export class Announcer {
  #said = 0;
  #nextMs = 0;

  constructor() {
    this.element = el("div", { class: "hidden-visually", role: "status", "aria-live": "polite" });
  }

  /** An answer is on its way. */
  begin(who) {
    this.#said = 0;
    this.#nextMs = performance.now() + EVERY_MS;
    this.#tell(`${who} is answering.`);
  }

  /** It is time to say how the answer goes on. */
  get isDue() {
    return performance.now() >= this.#nextMs;
  }

  /** The answer so far. */
  grow(text) {
    if (!this.isDue) return;
    const end = lastSentence(text, this.#said);
    if (end <= this.#said) return;
    this.#tell(text.slice(this.#said, end));
    this.#said = end;
    this.#nextMs = performance.now() + EVERY_MS;
  }

  /** The whole answer, or why there is none. */
  end(text, { closing = "The answer is complete." } = {}) {
    this.#tell(text.slice(this.#said), closing);
    this.#said = text.length;
  }

  #tell(text, closing = "") {
    const short = text.length > MOST_SAID ? `${text.slice(0, MOST_SAID)} … and more.` : text;
    this.element.textContent = `${short} ${closing}`.trim();
  }
}

function lastSentence(text, from) {
  const ends = [...text.slice(from).matchAll(/[.!?:]\s|\n/g)];
  return ends.length ? from + ends.at(-1).index + 1 : from;
}
