/** How another PC joins: one command, a code for the phone, and the newcomer as soon as it is there. */

import { el, fill, icon, svg } from "../../shell/dom.js";
import { count, moment, number } from "../../shell/format.js";
import { hardwareLine } from "../../parts/node_words.js";

const SYSTEM_ICONS = { Windows: "laptop", macOS: "apple", Linux: "terminal", Installed: "terminal" };

export default {
  async mount(root, ctx) {
    const newcomers = el("div", { class: "stack", "aria-live": "polite" });
    const waiting = el("p", { class: "row muted waiting" }, el("span", { class: "pulse", "aria-hidden": "true" }),
      "Waiting for a PC to join. It appears here by itself.");
    const steps = el("div", { class: "stack" });
    fill(root,
      el("header", { class: "page-head" }, el("div", {}, el("h1", {}, "Join a PC"),
        el("p", {}, "Any PC on this network can compute along. It dials out, so its firewall does not matter."))),
      steps, el("section", { class: "card stack", "aria-labelledby": "newcomers" },
        el("h2", { id: "newcomers" }, "Newcomers"), newcomers, waiting));

    const before = new Map();
    ctx.live.cluster.watch((status) => {
      if (!before.size) for (const one of status.clients) before.set(one.node_id, one.state);
      for (const one of status.clients) {
        if (one.state === "alive" && before.get(one.node_id) !== "alive") newcomers.prepend(welcome(one, ctx));
        before.set(one.node_id, one.state);
      }
    });
    const told = await ctx.attempt(ctx.api("/join"));
    if (told) fill(steps, shown(told, ctx));
  },
};

function welcome(client, ctx) {
  return el("div", { class: "notice newcomer", "data-name": client.name }, icon("circle-check"),
    el("div", { class: "grow" },
      el("p", {}, el("strong", {}, client.name), " has joined."),
      el("p", { class: "small" }, `${hardwareLine(client)} · score ${number(client.performance_score, 0)} of 100`),
      client.assignment_reason ? el("p", { class: "small" }, client.assignment_reason) : null),
    el("a", { class: "button", href: ctx.href("fleet") }, "See the fleet"));
}

function shown(told, ctx) {
  const closed = told.open ? null : el("div", { class: "notice warn" }, icon("triangle-alert"),
    el("div", { class: "grow stack" },
      el("p", {}, el("strong", {}, "This hub listens to its own PC only. "), "Start it again so that others can reach it:"),
      command(told.opening, ctx),
      el("p", { class: "small" }, "It then makes its certificates, an admin key and a first join token, and shows them once.")));
  const commands = el("div", { class: "stack" }, tabs(told.commands, ctx));
  const tokens = told.token_command ? tokenMaker(told, ctx, (made) => fill(commands, tabs(made, ctx))) : null;
  return [
    closed,
    el("div", { class: "join-grid" },
      el("section", { class: "card stack", "aria-labelledby": "command" },
        el("h2", { id: "command" }, "One command on the other PC"),
        tokens,
        el("p", { class: "muted" }, "In the folder of Chorus there (Python 3.11 or newer is needed; the first start installs the rest):"),
        commands,
        el("p", { class: "muted small" }, "The hub's address for agents: ", el("code", {}, told.address))),
      el("section", { class: "card stack qr", "aria-labelledby": "qr" },
        el("h2", { id: "qr" }, "Or open this page there"),
        code(told.page),
        el("p", { class: "small" }, el("a", { href: told.page.text }, told.page.text)))),
  ];
}

/** Makes a token and shows `commands` with it; whoever may not, asks for one on the coordinator's PC. */
function tokenMaker(told, ctx, show) {
  const uses = el("input", { id: "token-uses", type: "number", min: 1, value: 1, required: true, inputmode: "numeric" });
  const words = el("p", { class: "small", role: "status" });
  const go = el("button", { class: "primary", type: "submit" }, icon("key-round"), "Make a token");
  const make = async (event) => {
    event.preventDefault();
    go.disabled = true;
    const made = await ctx.attempt(ctx.api("/join/tokens", { body: { uses: Number(uses.value) } }));
    go.disabled = false;
    if (!made) return;
    show(made.commands);
    words.textContent = `The commands below hold the token, this once. It admits ${count(made.uses_left, "PC")} ` +
      `until ${moment(made.expires_unix_s)}.`;
  };
  return el("form", { class: "stack tight token-maker", on: { submit: make } },
    el("p", {}, "A token admits the other PC, within an hour:"),
    el("div", { class: "row" }, el("label", { for: "token-uses" }, "for how many PCs"), uses, go),
    words,
    el("p", { class: "muted small" }, "Or on the coordinator's PC: ", el("code", {}, told.token_command)));
}

/** Tabs as the ARIA practices describe them: arrows move, only the chosen one is in the tab order. */
function tabs(commands, ctx) {
  const panels = commands.map(({ system, lines }) =>
    el("div", { role: "tabpanel", id: `panel-${system}`, "aria-labelledby": `tab-${system}`, class: "stack" }, lines.map((line) => command(line, ctx))));
  const buttons = commands.map(({ system }) =>
    el("button", { role: "tab", id: `tab-${system}`, "aria-controls": `panel-${system}`, class: "small" }, icon(SYSTEM_ICONS[system] ?? "monitor"), system));
  const choose = (index, focus) => {
    buttons.forEach((button, at) => {
      button.setAttribute("aria-selected", String(at === index));
      button.tabIndex = at === index ? 0 : -1;
      panels[at].hidden = at !== index;
    });
    if (focus) buttons[index].focus();
  };
  buttons.forEach((button, index) => {
    button.addEventListener("click", () => choose(index, false));
    button.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (step) choose((index + step + buttons.length) % buttons.length, true);
    });
  });
  choose(Math.max(0, commands.findIndex((one) => one.system === thisSystem())), false);
  return el("div", { class: "stack" }, el("div", { class: "row", role: "tablist", "aria-label": "System of the other PC" }, buttons), panels);
}

function command(line, ctx) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(line);
      ctx.toast.ok("Copied.");
    } catch {
      ctx.toast.note("This browser copies only on a secure page; select the text instead.");
    }
  };
  return el("div", { class: "command" }, el("pre", { tabindex: 0, class: "grow" }, el("code", {}, line)),
    el("button", { class: "small", "aria-label": `Copy the command ${line}`, on: { click: copy } }, icon("copy"), "Copy"));
}

function code({ text, size, path }) {
  return svg("svg", { class: "qr-code", viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": `QR code of ${text}` },
    svg("rect", { width: size, height: size, class: "paper" }), svg("path", { d: path, class: "ink" }));
}

function thisSystem() {
  const told = navigator.userAgentData?.platform ?? navigator.platform;
  if (/win/i.test(told)) return "Windows";
  return /mac/i.test(told) ? "macOS" : "Linux";
}
