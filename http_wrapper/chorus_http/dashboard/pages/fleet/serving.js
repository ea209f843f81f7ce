/** Who is served by whom, drawn: on the left who asks, on the right the PCs, between them a line for each request. */

import { who } from "../../parts/who.js";
import { el, fill, say, svg } from "../../shell/dom.js";
import { count } from "../../shell/format.js";

const ROW = 34;
const WIDEST = 800;
const NARROWEST = 280;
const ASKS_SHARE = 0.27;
const SERVES_SHARE = 0.38;
const LETTER = 7.6;
const MOST_ROWS = 12;

/** Returns `{ root }`; follows the cluster's events, and begins with what GET /queue/status says. */
export function serving(ctx) {
  const running = new Map();
  const words = el("p", { class: "muted" });
  const drawing = el("div", { class: "serving" });
  const root = el("section", { class: "card stack", "aria-labelledby": "serving" },
    el("div", { class: "row apart" }, el("h2", { id: "serving" }, "Who serves whom"), words), drawing);
  let waits = 0;
  const draw = () => {
    waits = 0;
    const found = [...running.values()];
    say(words, found.length ? count(found.length, "request") : "Nothing runs right now.");
    drawing.hidden = found.length === 0;
    const width = Math.min(WIDEST, Math.max(NARROWEST, drawing.clientWidth));
    if (found.length) fill(drawing, picture(found, width), spoken(found));
  };
  const soon = () => {
    waits ||= setTimeout(draw, 150); // many short requests are one drawing
  };
  const sized = new ResizeObserver(soon);
  sized.observe(root);
  ctx.signal.addEventListener("abort", () => {
    clearTimeout(waits);
    sized.disconnect();
  });

  const begin = async () => {
    const queue = await ctx.api("/queue/status").catch(() => null); // the page's banner tells when the server is away
    if (!queue) return;
    running.clear();
    for (const one of queue.running_requests) running.set(one.request_id, one);
    soon();
  };
  ctx.live.on("request.started", ({ data }) => {
    running.set(data.request_id, data);
    soon();
  });
  ctx.live.on("request.ended", ({ data }) => {
    running.delete(data.request_id);
    soon();
  });
  ctx.live.connection.watch((state) => state !== "away" && begin());
  ctx.every(5, () => ctx.live.connection.value === "polling" && begin());
  draw();
  return { root };
}

function grouped(running) {
  const links = new Map();
  for (const { user, node, model } of running) {
    const from = who(user);
    const key = JSON.stringify([from, node, model]);
    const link = links.get(key) ?? { from, node, model, requests: 0 };
    link.requests += 1;
    links.set(key, link);
  }
  return [...links.values()].sort((a, b) => b.requests - a.requests);
}

function picture(running, width) {
  const [asks, serves] = [width * ASKS_SHARE, width * SERVES_SHARE];
  const links = grouped(running);
  const left = ranked(links.map((one) => one.from));
  const right = ranked(links.map((one) => one.node));
  const rows = Math.max(left.length, right.length);
  const height = rows * ROW + 8;
  const place = (list, name) => {
    const offset = ((rows - list.length) * ROW) / 2;
    return 4 + offset + Math.max(0, list.indexOf(name)) * ROW + ROW / 2;
  };
  const lines = links
    .filter((one) => left.includes(one.from) && right.includes(one.node))
    .map((one) => {
      const [y1, y2] = [place(left, one.from), place(right, one.node)];
      const [x1, x2] = [asks, width - serves];
      const middle = (x1 + x2) / 2;
      return svg("path", {
        class: "flow",
        d: `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`,
        "stroke-width": Math.min(9, 1.5 + one.requests),
      }, svg("title", {}, `${one.from} → ${one.node}: ${one.model}, ${count(one.requests, "request")}`));
    });
  const models = (node) => [...new Set(links.filter((one) => one.node === node).map((one) => one.model))].join(", ");
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, class: "serving-picture", "aria-hidden": "true" },
    lines,
    left.map((name) => box("asks", 0, asks, place(left, name), shortened(name, asks / LETTER))),
    right.map((name) => {
      const letters = serves / LETTER - name.length - 2;
      const model = letters > 4 ? svg("tspan", { class: "model", dx: 8 }, shortened(models(name), letters)) : null;
      return box("serves", width - serves, serves, place(right, name), shortened(name, serves / LETTER), model);
    }));
}

function box(kind, x, width, y, ...words) {
  return svg("g", { class: kind },
    svg("rect", { x: x + 0.5, y: y - 13.5, width: width - 1, height: 27, rx: 8 }),
    svg("text", { x: x + width / 2, y: y + 4.5, "text-anchor": "middle" }, words));
}

/** For who does not see the picture. */
function spoken(running) {
  return el("ul", { class: "hidden-visually" }, grouped(running).map((one) =>
    el("li", {}, `${one.node} answers ${one.from} with ${one.model}: ${count(one.requests, "request")}`)));
}

function ranked(names) {
  return [...new Set(names)].slice(0, MOST_ROWS);
}

function shortened(text, letters) {
  return text.length > letters ? `${text.slice(0, Math.max(1, Math.floor(letters) - 1))}…` : text;
}
