/** Who answers: a model, a council, or whichever model is the largest that is ready. */

import { el, fill } from "../../shell/dom.js";

const AUTOMATIC = "";

export class ModelChoice {
  #known = [];
  #wanted = AUTOMATIC;

  /** `changed(name)`: the person chose another; null is the automatic choice. */
  constructor(changed) {
    this.element = el("select", { class: "model-choice", "aria-label": "Who answers" });
    this.element.addEventListener("change", () => {
      this.#wanted = this.element.value;
      changed(this.value);
    });
    this.#draw();
  }

  /** The chosen name; null leaves the choice to the server. */
  get value() {
    return this.#wanted || null;
  }

  /** Who answers, in a word, for those who hear the page. */
  get name() {
    return this.#wanted || "The model";
  }

  choose(name) {
    if (this.#wanted === (name ?? AUTOMATIC)) return;
    this.#wanted = name ?? AUTOMATIC;
    this.#draw();
  }

  /** `models`: the list that GET /v1/models gives. */
  offer(models) {
    const known = models.filter((model) => !model.x_chorus?.embedding);
    const same = known.map((one) => one.id).join() === this.#known.map((one) => one.id).join();
    this.#known = known;
    if (!same) this.#draw(); // an open list is left in peace
  }

  #draw() {
    const councils = this.#known.filter((model) => model.x_chorus?.council);
    const models = this.#known.filter((model) => !model.x_chorus?.council);
    const largest = models.reduce((best, one) => (size(one) > size(best) ? one : best), null);
    const gone = this.#wanted && !this.#known.some((model) => model.id === this.#wanted);
    fill(
      this.element,
      option(AUTOMATIC, largest ? `Automatic (${largest.id})` : "Automatic", this.#wanted),
      group("Models", models, this.#wanted),
      group("Councils: several PCs answer as one", councils, this.#wanted),
      gone ? option(this.#wanted, `${this.#wanted} (not ready)`, this.#wanted) : null,
    );
  }
}

function size(model) {
  return model?.x_chorus?.parameters ?? 0;
}

function group(label, models, wanted) {
  if (!models.length) return null;
  return el(
    "optgroup",
    { label },
    models.map((model) => option(model.id, model.id, wanted)),
  );
}

function option(value, text, wanted) {
  return el("option", { value, selected: value === wanted }, text);
}
