/** The documents of a collection, a page at a time. */

import { el, fill, icon } from "../../shell/dom.js";
import { ago, bytes, count } from "../../shell/format.js";

const LISTED = 100;

export class DocumentList {
  #ctx;
  #changed;
  #collection = "";

  /** `changed()`: one was deleted. */
  constructor(ctx, { changed }) {
    this.#ctx = ctx;
    this.#changed = changed;
    this.list = el("ul", { class: "document-list" });
    this.none = el("div", { class: "empty", hidden: true }, icon("file-text"), el("p", {}, "Nothing is here yet."));
    this.more = el("button", { class: "small", type: "button", hidden: true }, "Show more");
    this.element = el("div", { class: "stack" }, this.list, this.none, this.more);
  }

  async show(collection) {
    this.#collection = collection;
    const page = await this.#page(null);
    if (collection !== this.#collection) return; // another was chosen meanwhile
    fill(
      this.list,
      page.documents.map((one) => this.#row(one)),
    );
    this.none.hidden = page.documents.length > 0;
    this.#offerMore(page.next);
  }

  #page(after) {
    const query = new URLSearchParams({ collection: this.#collection, limit: LISTED, ...(after ? { after } : {}) });
    return this.#ctx.api(`/rag/documents?${query}`);
  }

  #offerMore(next) {
    this.more.hidden = !next;
    this.more.onclick = async () => {
      const page = await this.#ctx.attempt(this.#page(next));
      if (!page) return;
      this.list.append(...page.documents.map((one) => this.#row(one)));
      this.#offerMore(page.next);
    };
  }

  #row(one) {
    const told = [one.kind, bytes(one.size_bytes), count(one.chunks, "passage"), ago(one.updated_unix_s)];
    const label = `Delete ${one.title || one.source || "this document"}`;
    return el(
      "li",
      { class: "document" },
      icon("file-text"),
      el(
        "div",
        { class: "grow" },
        el("p", { class: "title ellipsis" }, one.title || one.source || "Untitled"),
        el("p", { class: "muted small" }, told.join(" · ")),
        one.complete ? null : el("p", { class: "note" }, icon("clock"), "Still being read."),
        one.notices.map((text) => el("p", { class: "note" }, icon("info"), text)),
      ),
      el(
        "button",
        { class: "plain", type: "button", "aria-label": label, title: label, on: { click: () => this.#delete(one) } },
        icon("trash-2"),
      ),
    );
  }

  async #delete(one) {
    const sure = await this.#ctx.confirmed({
      title: "Delete this document?",
      text: `“${one.title || one.source || "Untitled"}” is no longer found afterwards.`,
      yes: "Delete",
      danger: true,
    });
    if (!sure) return;
    const path = `/rag/documents/${encodeURIComponent(one.id)}`;
    const failed = await this.#ctx.attempt(this.#ctx.api(path, { method: "DELETE" }).then(() => false));
    if (failed === false) this.#changed();
  }
}
