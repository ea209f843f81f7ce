/**
 * One chat on the page. What it shows comes from the chat's events alone, also the answers to what is asked here: the
 * request that asks only waits for the end. So all tabs show the same, and one that opens late joins in.
 */

import { Announcer } from "../../words/announcer.js";
import { split } from "../../words/thoughts.js";
import { api } from "../../shell/api.js";
import { el, fill, icon, reconcile, say } from "../../shell/dom.js";
import { askName, askSettings, confirmDelete, showExports } from "./chat_settings.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { Menu } from "./menu.js";
import { MessageView } from "./message_view.js";
import { watchChat } from "./room.js";
import { sampling } from "./sampling.js";

const ANSWER_WITHIN_S = 3600;
const NAME_WITHIN_S = 60;
/** So near to its end a list of messages follows what comes. */
const NEAR_PX = 80;

export class Talk {
  #ctx;
  #choice;
  #documents;
  #opened;
  #id = null;
  #conversation = new Conversation();
  #left = new AbortController();
  #views = new Map();
  #pending = null;
  #system = "";
  #reading = null;
  #announcer = new Announcer();
  #announced = "";

  /** `opened(id)`: the chat got its place on the server, or lost it (null). */
  constructor(ctx, { choice, documents, opened }) {
    this.#ctx = ctx;
    this.#choice = choice;
    this.#documents = documents;
    this.#opened = opened;
    ctx.signal.addEventListener("abort", () => this.#left.abort());
    this.title = el("h1", {}, "New chat");
    this.menu = new Menu("More about this chat");
    this.head = el("header", { class: "talk-head" }, this.title, this.menu.element);
    this.messages = el("div", { class: "messages" });
    this.welcome = el(
      "div",
      { class: "welcome" },
      icon("message-square"),
      el("h2", {}, "What would you like to know?"),
      el("p", { class: "muted" }, "Your words stay on the PCs of this network."),
    );
    this.problem = el("div", { class: "trouble", role: "alert" });
    this.scroller = el("div", { class: "talk-scroll", tabindex: "-1" }, this.welcome, this.messages, this.problem);
    this.newest = el("button", { class: "newest round", type: "button", "aria-label": "To the newest message" },
      icon("arrow-down"));
    this.newest.addEventListener("click", () => this.#toEnd());
    this.composer = new Composer({
      label: "Ask something",
      send: (text) => this.#ask(text),
      stop: () => this.#stop(),
      beside: [choice.element, documents.element],
    });
    this.element = el(
      "section",
      { class: "talk", "aria-label": "Chat" },
      this.head,
      this.scroller,
      el("div", { class: "ask-bar" }, this.newest, this.composer.element),
      this.#announcer.element,
    );
    this.scroller.addEventListener("scroll", () => this.#showNewest(), { passive: true });
  }

  /** Show a chat; null is a new one that begins with its first question. */
  async open(id, { message = null } = {}) {
    this.#left.abort();
    this.#left = new AbortController();
    this.#id = id;
    this.#conversation = new Conversation();
    this.#pending = null;
    this.#system = "";
    this.#announced = "";
    this.#views.clear();
    fill(this.messages);
    this.#draw();
    if (!id) {
      this.composer.focus();
      return;
    }
    await this.#watch();
    if (message) {
      await this.#showBranch(message);
      this.#views.get(message)?.element.scrollIntoView({ block: "center" });
    }
  }

  /** The person chose who answers. */
  async choose(model) {
    if (!this.#id) return;
    await this.#ctx.attempt(this.#change({ model }));
    this.composer.focus();
  }

  /** Follow the chat; resolves when it is shown for the first time. */
  #watch() {
    const { signal } = this.#left;
    return new Promise((resolve) => {
      watchChat(this.#ctx, this.#id, {
        signal,
        told: async (kind, body) => {
          if (signal.aborted) return;
          const again = this.#conversation.apply(kind, body);
          this.#tell(kind, body);
          this.#draw();
          if (again) await this.#read();
          if (kind === "snapshot") {
            this.#toEnd();
            resolve();
          }
        },
        refused: (error) => {
          resolve();
          if (error.code === "not_found") {
            this.#leave("There is no such chat any more.");
            return;
          }
          this.#conversation.problem = error.message;
          this.#draw();
        },
      });
    });
  }

  /** Read the chat's messages anew; those who want it meanwhile wait for one more reading. */
  async #read() {
    if (this.#reading?.waiting) return this.#reading.waiting;
    if (this.#reading) {
      const current = this.#reading;
      current.waiting = current.done.then(() => this.#read());
      return current.waiting;
    }
    const conversation = this.#conversation;
    const reading = {};
    this.#reading = reading;
    reading.done = (async () => {
      const whole = await this.#ctx.attempt(api(this.#path(), { signal: this.#left.signal }));
      this.#reading = null;
      if (!whole || conversation !== this.#conversation) return;
      conversation.load(whole);
      this.#choice.choose(whole.model);
      this.#draw();
    })();
    return reading.done;
  }

  #path(rest = "") {
    return `/chat/sessions/${encodeURIComponent(this.#id)}${rest}`;
  }

  #change(body) {
    return api(this.#path(), { method: "PATCH", body });
  }

  // What a person does --------------------------------------------------------------------------------------------

  async #ask(text) {
    this.#pending = text;
    this.#conversation.problem = "";
    this.#draw();
    this.#toEnd();
    const first = this.#id === null;
    try {
      if (first) await this.#begin();
      await this.#answered("/messages", { content: text, ...this.#wishes() });
    } catch (error) {
      this.#failed(error);
    }
    if (this.#pending !== null) {
      this.#pending = null; // it was refused before it was written down
      this.composer.restore(text);
      if (first && this.#id) this.#forget();
      this.#draw();
    }
  }

  /** Nothing was written down in the chat that was begun for it: no empty one is left behind. */
  #forget() {
    const path = this.#path();
    this.#left.abort();
    this.#left = new AbortController();
    this.#id = null;
    this.#conversation.session = null;
    this.#opened(null);
    api(path, { method: "DELETE" }).catch(() => {}); // it is empty, and stays in the list
  }

  async #begin() {
    const session = await api("/chat/sessions", { body: { model: this.#choice.value, system: this.#system } });
    this.#id = session.id;
    this.#opened(session.id);
    await this.#watch();
  }

  /** Ask, and wait for the end; what comes meanwhile is told by the chat's events. Goes on when the page is left. */
  async #answered(path, body) {
    await api(this.#path(path), { body, withinS: ANSWER_WITHIN_S });
  }

  #failed(error) {
    if (error.name === "AbortError") return;
    this.#conversation.problem ||= error.message;
    this.#draw();
  }

  async #again(message) {
    const path = `/messages/${encodeURIComponent(message.id)}/regenerate`;
    const body = { model: this.#choice.value, ...this.#wishes() };
    await this.#answered(path, body).catch((error) => this.#failed(error));
  }

  async #edit(message, content) {
    const body = { content, edits: message.id, ...this.#wishes() };
    await this.#answered("/messages", body).catch((error) => this.#failed(error));
  }

  async #showBranch(messageId) {
    const body = { message_id: messageId };
    const whole = await this.#ctx.attempt(api(this.#path("/head"), { method: "PUT", body }));
    if (!whole) return;
    this.#conversation.load(whole);
    this.#draw();
  }

  /** How an answer is to be made, besides by whom. */
  #wishes() {
    return { rag: this.#documents.option, ...sampling() };
  }

  #stop() {
    if (this.#id) this.#ctx.attempt(api(this.#path("/stop"), { method: "POST", body: {} }));
  }

  async #rename() {
    const title = await askName(this.#ctx, this.#conversation.session.title);
    if (title) await this.#ctx.attempt(api(this.#path("/title"), { method: "PUT", body: { title } }));
  }

  /** The smallest ready model makes a title of what was said. */
  async #name() {
    const path = this.#path("/title");
    await this.#ctx.attempt(api(path, { method: "POST", body: {}, withinS: NAME_WITHIN_S }));
  }

  async #set() {
    const before = this.#conversation.session?.system ?? this.#system;
    const { system = before } = (await askSettings(this.#ctx, before)) ?? {};
    if (system === before) return;
    if (this.#id) await this.#ctx.attempt(this.#change({ system }));
    else this.#system = system;
    this.#draw();
  }

  async #delete() {
    const id = this.#id;
    if (!(await confirmDelete(this.#ctx, this.#conversation.session.title))) return;
    await this.#ctx.attempt(api(`/chat/sessions/${encodeURIComponent(id)}`, { method: "DELETE" }));
  }

  // What is shown -------------------------------------------------------------------------------------------------

  #draw() {
    const talk = this.#conversation;
    if (talk.deleted) {
      this.#leave("This chat was deleted.");
      return;
    }
    const busy = talk.running !== null || this.#pending !== null;
    const title = talk.session?.title ?? "New chat";
    say(this.title, title);
    this.#ctx.setTitle(title);
    this.#drawMenu();
    this.composer.busy(talk.running !== null);
    const follows = this.#atEnd();
    this.#drawMessages(busy);
    this.welcome.hidden = this.messages.childElementCount > 0 || this.#id !== null;
    this.#drawProblem(busy);
    if (follows) this.#toEnd();
    this.#showNewest();
  }

  #drawMenu() {
    const { session } = this.#conversation;
    const wanted = String(Boolean(session));
    if (this.menu.element.dataset.shows === wanted) return;
    this.menu.element.dataset.shows = wanted;
    const settings = { mark: "sliders-horizontal", text: "Settings", act: () => this.#set() };
    const rest = [
      { mark: "pencil", text: "Rename", act: () => this.#rename() },
      { mark: "sparkles", text: "Have it named", act: () => this.#name() },
      { mark: "download", text: "Export", act: () => showExports(this.#ctx, this.#id) },
      { mark: "trash-2", text: "Delete", act: () => this.#delete(), danger: true },
    ];
    this.menu.setItems([settings, ...(session ? rest : [])]);
  }

  #drawMessages(busy) {
    const talk = this.#conversation;
    const shown = [...talk.shown()];
    if (this.#pending !== null) {
      shown.push({ id: "pending", role: "user", content: this.#pending, pending: true });
    }
    if (talk.running) shown.push({ id: talk.running.message_id, role: "assistant", growing: true, ...talk.running });
    reconcile(this.messages, shown, {
      key: (message) => message.id,
      make: (message) => this.#made(message).element,
      update: (_, message) => this.#views.get(message.id).update(message, {
        growing: message.growing,
        pending: message.pending,
        busy,
      }),
    });
  }

  #made(message) {
    const view = new MessageView(message, {
      again: (one) => this.#again(one),
      edit: (one, text) => this.#edit(one, text),
      show: (id) => this.#showBranch(id),
    });
    this.#views.set(message.id, view);
    return view;
  }

  #drawProblem(busy) {
    const { problem, messages } = this.#conversation;
    const wanted = busy ? "" : problem;
    if (this.problem.dataset.shows === wanted) return;
    this.problem.dataset.shows = wanted;
    const last = messages.at(-1);
    const retry = last?.role === "user"
      ? el("button", { class: "small", type: "button", on: { click: () => this.#again(last) } }, icon("refresh-cw"), "Try again")
      : null;
    fill(this.problem, wanted ? [icon("triangle-alert"), el("p", {}, wanted), retry] : []);
  }

  #tell(kind, body) {
    if (kind === "message") this.#pending = null;
    if (kind === "started") {
      this.#announced = body.message_id;
      this.#announcer.begin(this.#choice.name);
    }
    const { running } = this.#conversation;
    if (kind === "delta" && running) this.#announcer.grow(split(running.content, { ended: false }).answer);
    if (kind === "finished" && body.message.id === this.#announced) {
      this.#announcer.end(split(body.message.content).answer);
    }
  }

  #leave(why) {
    this.#ctx.toast.note(why);
    this.#opened(null);
    this.open(null);
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }

  #toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #showNewest() {
    this.newest.hidden = this.#atEnd();
  }
}
