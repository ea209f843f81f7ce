/** A button that opens a short list of actions. Arrow keys move in it; Escape or a click elsewhere closes it. */

import { el, icon } from "../../shell/dom.js";

/** `setItems` says what it offers. */
export class Menu {
  constructor(label) {
    this.list = el("div", { class: "menu-list", role: "menu", "aria-label": label, hidden: true });
    this.button = el(
      "button",
      {
        class: "plain",
        type: "button",
        "aria-label": label,
        title: label,
        "aria-haspopup": "menu",
        "aria-expanded": "false",
      },
      icon("ellipsis-vertical"),
    );
    this.element = el("div", { class: "menu-box" }, this.button, this.list);
    this.button.addEventListener("click", () => this.#open(this.list.hidden));
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("focusout", ({ relatedTarget }) => {
      if (!this.element.contains(relatedTarget)) this.#open(false);
    });
  }

  /** `items`: `[{mark, text, act, danger}]`. */
  setItems(items) {
    this.list.replaceChildren(
      ...items.map(({ mark, text, act, danger = false }) => {
        const click = () => {
          this.button.focus();
          this.#open(false);
          act();
        };
        return el(
          "button",
          {
            class: danger ? "plain danger-text" : "plain",
            type: "button",
            role: "menuitem",
            tabindex: "-1",
            on: { click },
          },
          icon(mark),
          text,
        );
      }),
    );
  }

  #open(open) {
    this.list.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    if (open) this.list.firstElementChild?.focus();
  }

  #key(event) {
    if (event.key === "Escape" && !this.list.hidden) {
      event.stopPropagation();
      this.#open(false);
      this.button.focus();
    }
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const items = [...this.list.children];
    const at = items.indexOf(document.activeElement);
    items[(at + by + items.length) % items.length]?.focus();
    if (this.list.hidden) this.#open(true);
  }
}
