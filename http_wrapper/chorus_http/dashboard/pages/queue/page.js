/** Who waits, for what and why, who runs, and how the slots are shared. */

import { throttled } from "../../parts/later.js";
import { who } from "../../parts/who.js";
import { el, fill, icon, say } from "../../shell/dom.js";
import { count, duration, number } from "../../shell/format.js";
import { explainForm } from "./explain.js";
import { fairShare } from "./fair_share.js";

const GAP_MS = 500;

export default {
  mount(root, ctx) {
    const about = el("p");
    const models = table("Models", ["Model", "Slots", "Running", "Waiting", "A newcomer waits"], [1, 2, 3, 4]);
    const waiting = table("Waiting", ["Place", "Who", "Model", "Waited", "Expected", "Why"], [3, 4]);
    const running = table("Running", ["Who", "Model", "PC", "For"], [3]);
    const share = fairShare();
    const idle = el("div", { class: "card empty" }, icon("coffee"), el("h2", {}, "Nobody waits, nothing runs"),
      el("p", {}, "Requests appear here the moment they come. Each is given the PC that will finish it first; when all are busy, everybody gets a fair share."));
    fill(root, el("header", { class: "page-head" }, el("div", {}, el("h1", {}, "Queue"), about)),
      idle, share.root, waiting.root, running.root, models.root, ctx.can("infer") ? explainForm(ctx) : null);

    const look = throttled(async () => {
      const queue = await ctx.attempt(ctx.api("/queue/status"));
      if (!queue) return;
      const busy = queue.waiting + queue.running > 0;
      idle.hidden = busy;
      say(about, `${number(queue.waiting)} waiting, ${number(queue.running)} running; at most ${number(queue.limit)} may wait`);
      share.show(queue);
      waiting.show(queue.waiting_requests.map((one) => ({ key: one.request_id, cells: waitingCells(one, queue.models) })), queue.waiting);
      running.show(queue.running_requests.map((one) => ({
        key: one.request_id,
        cells: [who(one.user), one.model, one.node, duration(one.running_s)],
      })), queue.running);
      models.show(queue.models.map((one) => ({
        key: one.model,
        cells: [one.model, number(one.slots), number(one.running), number(one.waiting), newcomer(one)],
      })), queue.models.length);
    }, GAP_MS, ctx.signal);
    ctx.live.on("queue", look);
    ctx.live.on("request.started", look);
    ctx.live.on("request.ended", look);
    ctx.every(2, look);
  },
};

function waitingCells(one, models) {
  const place = `${one.position} of ${one.of}`;
  const late = one.late ? [" ", el("span", { class: "badge warn" }, "late")] : [];
  return [place, [who(one.user), late], one.model, duration(one.waited_s), duration(one.expected_wait_s), why(one, models)];
}

function newcomer({ waiting, running, slots, expected_wait_s: wait }) {
  return wait === 0 || (wait === null && !waiting && running < slots) ? "not at all" : duration(wait);
}

/** Why a request has no slot yet, in a sentence. */
function why(one, models) {
  if (one.going_on) return one.load_left_s ? `${one.going_on}, about ${duration(one.load_left_s)} left` : one.going_on;
  const model = models.find((each) => each.model === one.model);
  if (!model || model.slots === 0) return "no PC has the model loaded yet";
  const ahead = one.position > 1 ? `, ${count(one.position - 1, "request")} before it` : "";
  return `all ${count(model.slots, "slot")} of it are busy${ahead}`;
}

const MOST_ROWS = 100;

function table(title, headings, numbers) {
  const id = `queue-${title.toLowerCase()}`;
  const body = el("tbody");
  const more = el("p", { class: "muted small", hidden: true });
  const root = el("section", { class: "card stack", "aria-labelledby": id, hidden: true },
    el("h2", { id }, title),
    el("div", { class: "scroll" }, el("table", {},
      el("thead", {}, el("tr", {}, headings.map((text, index) =>
        el("th", { scope: "col", class: numbers.includes(index) ? "number" : null }, text)))), body)),
    more);
  return {
    root,
    show(rows, total) {
      root.hidden = rows.length === 0;
      fill(body, rows.slice(0, MOST_ROWS).map(({ cells }) => el("tr", {}, cells.map((cell, index) =>
        el("td", { class: numbers.includes(index) ? "number" : null }, cell)))));
      more.hidden = total <= MOST_ROWS;
      say(more, `and ${number(total - MOST_ROWS)} more`);
    },
  };
}
