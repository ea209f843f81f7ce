/** The local servers of the hub's own PC (`chorus server`): which run, start, stop, and which one is the default. */

import { throttled } from "../../parts/later.js";
import { el, fill, icon, say } from "../../shell/dom.js";
import { bytes, count, duration, number } from "../../shell/format.js";

const START_WITHIN_S = 900;
const KINDS = { Running: "ok", Starting: "accent", Restarting: "warn", Stopped: "", "Port taken": "bad" };
const OWNERS = { chorus: "started by Chorus", agent: "belongs to this PC's agent", stranger: "started by somebody else" };

export default {
  mount(root, ctx) {
    const about = el("p");
    const list = el("div", { class: "grid" });
    const empty = el("div", { class: "card empty", hidden: true });
    fill(root, el("header", { class: "page-head" }, el("div", {}, el("h1", {}, "Servers"), about)), empty, list);
    const busy = new Set();

    const show = (found) => {
      empty.hidden = found.servers.length > 0;
      if (!found.servers.length) fill(empty, nothing(found));
      say(about, found.servers.length
        ? `llama-servers of this PC, by ${found.file}. The default answers at ${found.api_base_url}.`
        : "llama-servers of this PC");
      fill(list, found.servers.map((one) => card(one, busy.has(one.name), act)));
    };
    const look = throttled(async () => {
      const focus = document.activeElement?.dataset?.act;
      const found = await ctx.attempt(ctx.api("/servers"));
      if (!found) return;
      show(found);
      // The cards are built anew, so the focus goes back to the same button.
      if (focus) list.querySelector(`[data-act="${CSS.escape(focus)}"]`)?.focus();
    }, 300, ctx.signal);

    const act = async (verb, name) => {
      busy.add(name);
      look();
      try {
        if (verb === "start") await start(ctx, name);
        else if (verb === "stop") ctx.toast.ok((await ctx.api(path(name, "stop"), { method: "POST", withinS: 60 })).message);
        else {
          await ctx.api("/servers/default", { method: "PUT", body: { name } });
          ctx.toast.ok(`${name} is the default now.`);
        }
      } catch (error) {
        ctx.toast.failed(error);
      }
      busy.delete(name);
      look();
    };
    ctx.every(3, look);
  },
};

async function start(ctx, name) {
  const first = await ctx.api(path(name, "start"), { body: {}, withinS: START_WITHIN_S });
  if (first.started) {
    ctx.toast.ok(`${name} runs on port ${first.server.port}.`);
    return;
  }
  const sure = await ctx.confirmed({
    title: first.running.length ? "Other servers are running already" : "There is not enough free memory",
    text: `${first.running.length ? `${first.running.join(", ")} ${first.running.length > 1 ? "run" : "runs"}; several large models at once may exhaust the memory. ` : ""}${first.arithmetic}. Start ${name} anyway?`,
    yes: "Start anyway",
    danger: !first.fits,
  });
  if (!sure) return;
  const forced = await ctx.api(path(name, "start"), { body: { force: true }, withinS: START_WITHIN_S });
  ctx.toast.ok(`${name} runs on port ${forced.server.port}.`);
}

function path(name, verb) {
  return `/servers/${encodeURIComponent(name)}/${verb}`;
}

function card(server, isBusy, act) {
  const running = server.state === "Running";
  const facts = {
    Address: `${server.host}:${server.port}`,
    Model: server.model,
    "Started by": server.owner ? OWNERS[server.owner] : null,
    Memory: server.memory_bytes === null ? null : bytes(server.memory_bytes),
    CPU: server.cpu_percent === null ? null : `${number(server.cpu_percent)} % of a core`,
    Up: server.uptime_s === null ? null : `${duration(server.uptime_s)}, ${count(server.restarts, "restart")}`,
    Note: server.detail || null,
  };
  const button = (verb, text, mark, options = {}) =>
    el("button", { class: `small ${options.class ?? ""}`, disabled: isBusy, "data-act": `${verb} ${server.name}`,
      "aria-label": `${text}: ${server.name}`, on: { click: () => act(verb, server.name) } }, icon(mark), text);
  return el("article", { class: "card stack", "data-name": server.name },
    el("header", { class: "row apart" },
      el("div", { class: "row" }, icon("server"), el("h2", {}, server.name),
        server.default ? el("span", { class: "badge accent" }, "default") : null),
      el("span", { class: `badge dot ${KINDS[server.state] ?? ""}` }, isBusy ? "working…" : server.state)),
    el("dl", { class: "server-facts" }, Object.entries(facts).filter(([, value]) => value !== null)
      .map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value)))),
    el("footer", { class: "row" },
      running ? button("stop", "Stop", "square") : button("start", "Start", "play", { class: "primary" }),
      server.default ? null : button("switch", "Make default", "pin")));
}

function nothing(found) {
  return [
    icon("server"),
    el("h2", {}, found.problem ? "The file of servers cannot be read" : "No local servers are set up"),
    el("p", {}, found.problem || `Name them in ${found.file || "servers.json"}; each is started and stopped here, and joins the fleet when the agent runs with --engines local_servers.`),
    el("pre", { class: "left", tabindex: 0 }, EXAMPLE),
  ];
}

const EXAMPLE = `{
  "local_llm_servers": [
    {
      "name": "qwen-coder",
      "llama_server_path": "/opt/llama.cpp/llama-server",
      "server_host": "127.0.0.1",
      "server_port": 8000,
      "model_dir": "/models",
      "gguf_file": "qwen3-coder.gguf"
    }
  ],
  "llm_endpoint": { "default_local_server": "qwen-coder" }
}`;
