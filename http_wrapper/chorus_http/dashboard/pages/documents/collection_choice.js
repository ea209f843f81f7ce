/** Which collection is open: the address names it, or it was the last; a new one begins with its first document. */

import { el, fill, icon } from "../../shell/dom.js";
import { count } from "../../shell/format.js";

const DEFAULT = "default";
const NEW = "\u0000new";
const KEPT_AS = "chorus.documents.collection";

export class CollectionChoice {
  #ctx;
  #changed;
  #collections = [];
  name;

  /** `changed()`: another collection is open. */
  constructor(ctx, { changed }) {
    this.#ctx = ctx;
    this.#changed = changed;
    this.name = ctx.params.get("collection") || localStorage.getItem(KEPT_AS) || DEFAULT;
    this.select = el("select", { "aria-label": "Collection", on: { change: () => this.#choose(this.select.value) } });
    this.drop = el(
      "button",
      {
        class: "plain",
        type: "button",
        "aria-label": "Delete this collection",
        title: "Delete this collection",
        on: { click: () => this.#delete() },
      },
      icon("trash-2"),
    );
    this.element = el("div", { class: "row collection" }, icon("folder"), this.select, this.drop);
  }

  /** Read which there are. Throws ApiError; 501 where documents are not installed. */
  async load() {
    this.#collections = (await this.#ctx.api("/rag/collections")).collections;
    this.#draw();
  }

  #draw() {
    const known = new Map(this.#collections.map((one) => [one.name, one]));
    const names = [...new Set([...known.keys(), this.name])].sort();
    const told = (name) => `${name} (${count(known.get(name)?.documents ?? 0, "document")})`;
    fill(
      this.select,
      names.map((name) => el("option", { value: name, selected: name === this.name }, told(name))),
      el("option", { value: NEW }, "New collection …"),
    );
    this.select.value = this.name;
    this.drop.hidden = !known.has(this.name);
  }

  async #choose(name) {
    const chosen = name === NEW ? await this.#askName() : name;
    if (chosen) {
      this.name = chosen;
      localStorage.setItem(KEPT_AS, chosen);
    }
    this.#draw();
    if (chosen) this.#changed();
  }

  #askName() {
    const field = el("input", { type: "text", required: true, maxlength: 128, autofocus: true });
    return this.#ctx.dialog({
      title: "New collection",
      body: (close) =>
        el(
          "form",
          {
            id: "new-collection",
            on: {
              submit: (event) => {
                event.preventDefault();
                close(field.value.trim());
              },
            },
          },
          el("label", {}, "Name", field),
        ),
      actions: (close) => [
        el("button", { type: "button", on: { click: () => close() } }, "Cancel"),
        el("button", { class: "primary", type: "submit", form: "new-collection" }, "Open it"),
      ],
    });
  }

  async #delete() {
    const sure = await this.#ctx.confirmed({
      title: "Delete this collection?",
      text: `“${this.name}” and all its documents are deleted for good.`,
      yes: "Delete",
      danger: true,
    });
    if (!sure) return;
    const path = `/rag/collections/${encodeURIComponent(this.name)}`;
    await this.#ctx.attempt(this.#ctx.api(path, { method: "DELETE" }));
    await this.#ctx.attempt(this.load());
    this.#changed();
  }
}
