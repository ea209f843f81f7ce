/** All chats of this person, the last first, as other tabs change them; a search goes through titles and messages. */

import { el, fill, icon, reconcile, say } from "../../shell/dom.js";

const LISTED = 200;
const SEARCH_AFTER_MS = 150;
const DAY_MS = 86_400_000;

export class SessionList {
  #ctx;
  #open;
  #sessions = new Map();
  #shown = null;
  #timer = 0;
  #asked = 0;

  /** `open(id, {message})` is called when the person chooses a chat; with null for a new one. */
  constructor(ctx, { open }) {
    this.#ctx = ctx;
    this.#open = open;
    this.search = el("input", { type: "search", placeholder: "Search chats", "aria-label": "Search chats" });
    this.list = el("ul", { class: "sessions" });
    this.none = el("p", { class: "muted none" });
    this.element = el(
      "div",
      { class: "chat-list", id: "chat-list", role: "navigation", "aria-label": "Chats" },
      el(
        "div",
        { class: "row" },
        el("button", { class: "wide", type: "button", on: { click: () => open(null) } }, icon("plus"), "New chat"),
      ),
      el("div", { class: "search" }, icon("search"), this.search),
      el("div", { class: "chat-scroll" }, this.list, this.none),
      this.#importButton(),
    );
    this.search.addEventListener("input", () => this.#searchSoon());
    this.search.addEventListener("keydown", (event) => {
      if (event.key === "ArrowDown") this.list.querySelector("a")?.focus();
    });
    this.list.addEventListener("keydown", (event) => this.#step(event));
  }

  #importButton() {
    const file = el("input", {
      type: "file",
      accept: ".json,application/json",
      class: "hidden-visually",
      tabindex: "-1",
      "aria-hidden": "true",
    });
    file.addEventListener("change", async () => {
      const [chosen] = file.files;
      file.value = "";
      if (chosen) await this.#ctx.attempt(this.#import(chosen));
    });
    const choose = () => file.click();
    return el(
      "div",
      {},
      file,
      el("button", { class: "plain small", type: "button", on: { click: choose } }, icon("upload"), "Import a chat"),
    );
  }

  async #import(file) {
    const headers = { "content-type": "application/json" };
    const body = new Blob([await file.arrayBuffer()]);
    const { id } = await this.#ctx.api("/chat/sessions/import", { method: "POST", headers, body });
    this.#open(id);
  }

  async load() {
    const { sessions } = await this.#ctx.api(`/chat/sessions?limit=${LISTED}`);
    this.#sessions = new Map(sessions.map((session) => [session.id, session]));
    this.#draw();
  }

  /** A session changed, or came; see GET /chat/events. */
  apply(body) {
    if (body.deleted) this.#sessions.delete(body.deleted);
    if (body.session) this.#sessions.set(body.session.id, body.session);
    this.#draw();
  }

  /** Mark the chat that is open. */
  mark(id) {
    this.#shown = id;
    this.#draw();
  }

  #draw() {
    if (this.search.value.trim()) return; // the list shows what was found
    const sessions = [...this.#sessions.values()].sort((one, other) => other.updated_unix_s - one.updated_unix_s);
    let day = "";
    const rows = [];
    for (const session of sessions) {
      const its = dayOf(session.updated_unix_s);
      if (its !== day) rows.push({ key: `day ${its}`, day: its });
      day = its;
      rows.push({ key: session.id, session });
    }
    reconcile(this.list, rows, {
      key: (row) => row.key,
      make: (row) => (row.day ? el("li", { class: "day" }, row.day) : this.#item(row.session)),
      update: (element, row) => {
        if (row.day) return;
        const link = element.querySelector("a");
        say(link, row.session.title);
        if (row.session.id === this.#shown) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
      },
    });
    say(this.none, sessions.length ? "" : "No chats yet.");
  }

  #item({ id }, message = null) {
    const href = this.#ctx.href("chat", { id });
    const click = (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return; // another tab or window
      event.preventDefault();
      this.#open(id, { message });
    };
    return el("li", {}, el("a", { href, on: { click } }));
  }

  #searchSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#search(), SEARCH_AFTER_MS);
  }

  async #search() {
    const words = this.search.value.trim();
    if (!words) {
      fill(this.list);
      this.#draw();
      return;
    }
    const asked = ++this.#asked;
    const found = await this.#ctx.attempt(this.#ctx.api(`/chat/search?limit=50&q=${encodeURIComponent(words)}`));
    if (!found || asked !== this.#asked || this.#ctx.signal.aborted) return;
    fill(
      this.list,
      found.results.map((result) => this.#hit(result)),
    );
    say(this.none, found.results.length ? "" : `No chat holds “${words}”.`);
  }

  #hit(result) {
    const item = this.#item({ id: result.session_id }, result.message_id);
    item.firstElementChild.append(
      el("strong", {}, result.title),
      el("span", { class: "snippet" }, marked(result.snippet)),
    );
    return item;
  }

  #step(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const links = [...this.list.querySelectorAll("a")];
    const next = links.indexOf(document.activeElement) + by;
    (next < 0 ? this.search : links[Math.min(next, links.length - 1)]).focus();
  }
}

/** The server marks the words that were found with [ ]. */
function marked(snippet) {
  return snippet.split(/\[([^\]]*)\]/).map((part, index) => (index % 2 ? el("mark", {}, part) : part));
}

function dayOf(unixS) {
  const midnight = new Date().setHours(0, 0, 0, 0);
  const days = Math.ceil((midnight - unixS * 1000) / DAY_MS);
  if (days <= 0) return "Today";
  if (days === 1) return "Yesterday";
  return days <= 7 ? "This week" : new Date(unixS * 1000).toLocaleDateString("en", { month: "long", year: "numeric" });
}
