/** How the running slots and the places in the queue are shared between those who ask. */

import { who } from "../../parts/who.js";
import { el, fill } from "../../shell/dom.js";
import { count, percent } from "../../shell/format.js";

const MOST = 8;

/** Returns `{ root, show(queue) }`; hidden while nobody asks for anything. */
export function fairShare() {
  const rows = el("div", { class: "stack tight" });
  const root = el("section", { class: "card stack", hidden: true, "aria-labelledby": "fair-share" },
    el("h2", { id: "fair-share" }, "Fair share"),
    el("p", { class: "muted small" },
      "The next free slot goes to whoever has used the least lately, so one person's hundred requests do not hold up another's first."),
    rows);
  return {
    root,
    show(queue) {
      const users = new Map();
      const of = (user) => {
        const name = who(user);
        if (!users.has(name)) users.set(name, { name, running: 0, waiting: 0 });
        return users.get(name);
      };
      for (const one of queue.running_requests) of(one.user).running += 1;
      for (const one of queue.waiting_requests) of(one.user).waiting += 1;
      const shown = [...users.values()].sort((a, b) => b.running - a.running || b.waiting - a.waiting).slice(0, MOST);
      root.hidden = shown.length === 0;
      fill(rows, shown.map((user) => row(user, queue.running)));
    },
  };
}

function row({ name, running, waiting }, total) {
  const share = total ? running / total : 0;
  return el("div", { class: "meter" },
    el("div", { class: "row" }, el("span", {}, name),
      el("span", { class: "muted" }, `${count(running, "slot")} (${percent(share)})${waiting ? `, ${waiting} waiting` : ""}`)),
    el("div", { class: "bar-track", "aria-hidden": "true" },
      el("div", { class: "bar-fill", vars: { "--share": percent(share).replace(" ", "") } })));
}
