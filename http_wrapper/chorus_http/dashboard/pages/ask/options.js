/** Who is asked and how their answers become one. */

import { el, icon, reconcile, say } from "../../shell/dom.js";

const STRATEGIES = [
  ["vote", "Vote", "what most say"],
  ["semantic", "Middle", "the answer nearest to all others"],
  ["judge", "Judge", "a model reads all and picks one"],
  ["synthesise", "Synthesis", "a model writes one answer of all"],
  ["first", "First", "the first that comes"],
  ["longest", "Longest", "the longest"],
  ["concat", "All", "one after the other"],
];
const WITHIN_S = [10, 30, 60, 300];

export class AskOptions {
  #clients = [];
  #left = new Set();

  constructor() {
    this.how = el(
      "select",
      { "aria-label": "How one answer is made of all" },
      STRATEGIES.map(([value, name, what]) => el("option", { value }, `${name}: ${what}`)),
    );
    this.within = el(
      "select",
      { "aria-label": "How long is waited" },
      WITHIN_S.map((seconds) =>
        el(
          "option",
          { value: seconds, selected: seconds === 60 },
          seconds < 60 ? `${seconds} s` : `${seconds / 60} min`,
        ),
      ),
    );
    this.pcs = el("div", { class: "pcs", role: "group", "aria-label": "PCs that are asked" });
    this.element = el("div", { class: "ask-options" }, this.pcs, this.how, this.within);
  }

  /** Whether any PC could be asked. */
  get some() {
    return this.#clients.length > 0;
  }

  /** The PCs there are; `clients` of GET /status. */
  offer(clients) {
    this.#clients = clients
      .filter((one) => one.replicas.some((replica) => replica.state === "ready"))
      .filter((one) => one.state === "alive" || one.state === "suspect");
    reconcile(this.pcs, this.#clients, {
      key: (client) => client.node_id,
      make: (client) => this.#switch(client),
      update: (element, client) => say(element.querySelector("span"), client.name),
    });
  }

  /** Those that are asked. */
  chosen() {
    return this.#clients.filter((client) => !this.#left.has(client.node_id));
  }

  /** The body of POST /query. */
  body(prompt) {
    const nodes = this.#left.size ? this.chosen().map((client) => client.node_id) : undefined;
    return { prompt, nodes, strategy: this.how.value, timeout_s: Number(this.within.value), stream: true };
  }

  #switch({ node_id: id }) {
    const box = el("input", { type: "checkbox", checked: true, props: { checked: true } });
    box.addEventListener("change", () => {
      if (box.checked) this.#left.delete(id);
      else if (this.chosen().length > 1) this.#left.add(id);
      else box.checked = true; // somebody has to be asked
    });
    return el("label", { class: "pc" }, box, icon("monitor"), el("span"));
  }
}
