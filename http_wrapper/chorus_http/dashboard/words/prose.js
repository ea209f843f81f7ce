/**
 * A text that grows, shown as Markdown. Only the blocks at its end are read and drawn again, at most once a frame and
 * never for more than a fifth of the time, so that a long answer costs no more at its end than at its beginning and a
 * selection in what stands there already survives.
 */

import { el } from "../shell/dom.js";
import { blocksOf, elementOf, grown, LONGEST_READ } from "./markdown.js";

/** So many blocks at the end may still change by what is added: a list and what looks like its continuation. */
const UNSETTLED = 2;
const RESTS = 4;

export class Prose {
  #blocks = [];
  #env = {};
  #text = "";
  #wanted = null;
  #frame = 0;
  #busyUntil = 0;
  #marks;

  /** `cite` and `known`: see `elementOf`. */
  constructor(marks = {}) {
    this.#marks = marks;
    this.element = el("div", { class: "prose" });
  }

  /** Show this text soon. */
  grow(text) {
    this.#wanted = text;
    if (!this.#frame) this.#frame = requestAnimationFrame(() => this.#draw());
  }

  /** Show this text now, for good. */
  show(text) {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.#wanted = null;
    this.#write(text);
  }

  /** Draw everything again: other citations are known now. */
  mark(marks) {
    this.#marks = marks;
    const text = this.#text;
    this.#text = "";
    this.#blocks = [];
    this.element.replaceChildren();
    this.show(text);
  }

  #draw() {
    this.#frame = 0;
    if (this.#wanted === null) return;
    if (performance.now() < this.#busyUntil) {
      this.#frame = requestAnimationFrame(() => this.#draw());
      return;
    }
    const began = performance.now();
    const text = this.#wanted;
    this.#wanted = null;
    this.#write(text);
    const ended = performance.now();
    this.#busyUntil = ended + RESTS * (ended - began);
  }

  #write(whole) {
    const text = whole.slice(0, LONGEST_READ).replaceAll("\r\n", "\n").replaceAll("\r", "\n");
    if (text !== this.#text) this.#writeBlocks(text);
    this.#writeRest(whole.slice(LONGEST_READ));
  }

  #writeBlocks(text) {
    let settled = 0;
    if (text.startsWith(this.#text)) settled = Math.max(0, this.#blocks.length - UNSETTLED);
    else this.#env = {};
    const from = settled ? this.#blocks[settled].from : 0;
    const fresh = this.#read(text.slice(from)).map((block) => ({ ...block, from: block.from + from }));
    const old = this.#blocks.splice(settled);
    fresh.forEach((block, index) => this.#place(block, old[index]));
    for (const gone of old.slice(fresh.length)) gone.element.remove();
    this.#blocks.push(...fresh);
    this.#text = text;
  }

  #read(text) {
    try {
      return blocksOf(text, this.#env);
    } catch (error) {
      console.error(error); // a text that breaks the parser is still a text
      return [{ from: 0, source: text, kind: "plain", tokens: [] }];
    }
  }

  #place(block, old) {
    if (old && old.source === block.source && old.kind === block.kind) {
      block.element = old.element;
      return;
    }
    if (old && grown(old.element, old, block)) {
      block.element = old.element;
      return;
    }
    block.element = block.kind === "plain" ? plain(block.source) : elementOf(block, this.#marks);
    if (old) old.element.replaceWith(block.element);
    else this.element.insertBefore(block.element, this.element.querySelector(":scope > .rest"));
  }

  #writeRest(text) {
    const rest = this.element.querySelector(":scope > .rest");
    if (!text) rest?.remove();
    else if (rest) rest.textContent = text;
    else this.element.append(el("div", { class: "plain-text rest" }, text));
  }
}

function plain(text) {
  return el("div", { class: "plain-text" }, text);
}
