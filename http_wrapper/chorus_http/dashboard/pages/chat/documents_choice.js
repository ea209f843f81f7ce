/** Whether a chat is answered from documents, and from which collection. Hidden where there are none. */

import { el, fill } from "../../shell/dom.js";

const KEPT_AS = "chorus.chat.collection";

export class DocumentsChoice {
  #collections = [];

  constructor() {
    this.element = el("select", { class: "documents-choice", "aria-label": "Documents to answer from", hidden: true });
    this.element.addEventListener("change", () => {
      localStorage.setItem(KEPT_AS, this.element.value);
      this.#draw();
    });
  }

  /** `rag` of a message: undefined without documents. */
  get option() {
    return this.#chosen ? { collection: this.#chosen } : undefined;
  }

  /** Read which collections there are; nobody who may not see them is troubled with it. */
  async load(ctx) {
    if (!ctx.can("rag")) return;
    const found = await ctx.api("/rag/collections").catch(() => null); // not installed, or away: no choice then
    this.#collections = (found?.collections ?? []).filter((one) => one.documents > 0).map((one) => one.name);
    this.#draw();
  }

  get #chosen() {
    const kept = localStorage.getItem(KEPT_AS);
    return this.#collections.includes(kept) ? kept : "";
  }

  #draw() {
    this.element.hidden = this.#collections.length === 0;
    this.element.classList.toggle("on", this.#chosen !== "");
    fill(
      this.element,
      el("option", { value: "", selected: !this.#chosen }, "No documents"),
      this.#collections.map((name) => el("option", { value: name, selected: name === this.#chosen }, `From: ${name}`)),
    );
  }
}
