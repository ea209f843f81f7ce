/** Where one writes: the field grows with the text, Enter sends, and while an answer is made the button stops it. */

import { el, fill, icon } from "../../shell/dom.js";

export class Composer {
  #send;
  #stop;
  #busy = false;

  /** `send(text)` and `stop()` are called for what the person does; `beside`: elements of the row below the field. */
  constructor({ send, stop, label, beside = [] }) {
    this.#send = send;
    this.#stop = stop;
    this.field = el("textarea", {
      rows: 1,
      "aria-label": label,
      placeholder: label,
      enterkeyhint: "send",
      dir: "auto",
    });
    this.button = el("button", { class: "primary round", type: "submit" });
    this.element = el(
      "form",
      { class: "composer", on: { submit: (event) => this.#submit(event) } },
      this.field,
      el("div", { class: "row" }, beside, el("span", { class: "spacer" }), this.button),
    );
    this.field.addEventListener("input", () => this.#sized());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    this.busy(false);
  }

  /** Shows a stop button instead of the one that sends. */
  busy(busy) {
    if (this.#busy === busy && this.button.firstChild) return;
    this.#busy = busy;
    this.button.setAttribute("aria-label", busy ? "Stop" : "Send");
    this.button.title = busy ? "Stop" : "Send";
    fill(this.button, icon(busy ? "square" : "arrow-up"));
  }

  /** Give back a text that could not be sent. */
  restore(text) {
    if (!this.field.value) this.field.value = text;
    this.#sized();
  }

  focus() {
    this.field.focus({ preventScroll: true });
  }

  #submit(event) {
    event.preventDefault();
    if (this.#busy) {
      this.#stop();
      return;
    }
    const text = this.field.value.trim();
    if (!text) return;
    this.field.value = "";
    this.#sized();
    this.#send(text);
  }

  #key(event) {
    if (event.key === "Escape" && this.#busy) this.#stop();
    // On a phone Enter makes a new line, as its keyboard has no other key for that.
    const touch = matchMedia("(pointer: coarse)").matches;
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch) return;
    event.preventDefault();
    if (!this.#busy) this.element.requestSubmit();
  }

  #sized() {
    this.field.style.setProperty("height", "auto");
    this.field.style.setProperty("height", `${this.field.scrollHeight}px`);
  }
}
