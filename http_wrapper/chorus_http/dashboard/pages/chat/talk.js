/** The chat that is open, on the page: its messages, what can be done with them, and where one writes. */

import { Announcer } from "../../words/announcer.js";
import { split } from "../../words/thoughts.js";
import { el, fill, icon, reconcile, say } from "../../shell/dom.js";
import { askName, askSettings, confirmDelete, showExports } from "./chat_settings.js";
import { Composer } from "./composer.js";
import { Menu } from "./menu.js";
import { MessageView } from "./message_view.js";
import { OpenChat } from "./open_chat.js";
import { sampling } from "./sampling.js";

/** So near to its end a list of messages follows what comes. */
const NEAR_PX = 80;

export class Talk {
  #ctx;
  #choice;
  #documents;
  #opened;
  #chat = null;
  #views = new Map();
  #announcer = new Announcer();
  #announced = "";
  #revision = 0;
  #frame = 0;
  /** The person is at the end and is kept there; who scrolled back reads in peace. */
  #follows = true;

  /** `opened(id)`: the chat got its place on the server, or lost it (null). */
  constructor(ctx, { choice, documents, opened }) {
    this.#ctx = ctx;
    this.#choice = choice;
    this.#documents = documents;
    this.#opened = opened;
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
    this.newest = el(
      "button",
      { class: "newest round", type: "button", "aria-label": "To the newest message" },
      icon("arrow-down"),
    );
    this.newest.addEventListener("click", () => this.#toEnd());
    this.composer = new Composer({
      label: "Ask something",
      send: (text) => this.#ask(text),
      stop: () => ctx.attempt(this.#chat.stop()),
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
    this.scroller.addEventListener(
      "scroll",
      () => {
        this.#follows = this.#atEnd();
        this.#showNewest();
      },
      { passive: true },
    );
    // Words are drawn a frame after they were told, so it is the growth that is followed.
    const growth = new ResizeObserver(() => {
      if (this.#follows && this.#chat.busy) this.#toEnd();
      this.#showNewest();
    });
    growth.observe(this.messages);
    ctx.signal.addEventListener("abort", () => growth.disconnect());
  }

  /** Show a chat; null is a new one that begins with its first question. */
  async open(id, { message = null } = {}) {
    const chat = new OpenChat(this.#ctx, id, {
      // Words come faster than a screen shows them.
      changed: (kind) => (kind === "delta" ? this.#drawSoon() : this.#draw()),
      told: (kind, body) => this.#tell(kind, body),
      begun: (begun) => this.#opened(begun),
      gone: (why) => this.#leave(why),
    });
    this.#chat?.leave();
    this.#chat = chat;
    this.#announced = "";
    this.#revision = 0;
    this.#views.clear();
    fill(this.messages);
    this.#draw();
    if (!id) {
      this.composer.focus();
      return;
    }
    await chat.follow();
    this.#toEnd();
    if (message && chat === this.#chat) {
      await this.#ctx.attempt(chat.show(message));
      this.#views.get(message)?.element.scrollIntoView({ block: "center" });
    }
  }

  /** The person chose who answers. */
  async choose(model) {
    if (!this.#chat.id) return;
    await this.#ctx.attempt(this.#chat.change({ model }));
    this.composer.focus();
  }

  // What a person does --------------------------------------------------------------------------------------------

  async #ask(text) {
    const chat = this.#chat;
    const asked = chat.ask(text, this.#wishes(), { model: this.#choice.value });
    this.#toEnd();
    if (!(await asked)) this.composer.restore(text);
  }

  /** How an answer is to be made, besides by whom. */
  #wishes() {
    return { rag: this.#documents.option, ...sampling() };
  }

  #again(message) {
    return this.#chat.again(message, { model: this.#choice.value, ...this.#wishes() });
  }

  async #rename() {
    const chat = this.#chat;
    const title = await askName(this.#ctx, chat.conversation.session.title);
    if (title) await this.#ctx.attempt(chat.change({ title }));
  }

  async #set() {
    const chat = this.#chat;
    const { system = chat.system } = (await askSettings(this.#ctx, chat.system)) ?? {};
    if (system !== chat.system) await this.#ctx.attempt(chat.change({ system }));
  }

  async #delete() {
    const chat = this.#chat;
    if (await confirmDelete(this.#ctx, chat.conversation.session.title)) await this.#ctx.attempt(chat.delete());
  }

  // What is shown -------------------------------------------------------------------------------------------------

  #drawSoon() {
    this.#frame ||= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { busy, conversation, id } = this.#chat;
    const title = conversation.session?.title ?? "New chat";
    if (conversation.session && conversation.session.revision !== this.#revision) {
      this.#revision = conversation.session.revision;
      this.#choice.choose(conversation.session.model);
    }
    say(this.title, title);
    this.#ctx.setTitle(title);
    this.#drawMenu();
    this.composer.busy(busy);
    this.#drawMessages(busy);
    this.welcome.hidden = this.messages.childElementCount > 0 || id !== null;
    this.#drawProblem(busy);
    if (this.#follows) this.#toEnd();
    this.#showNewest();
  }

  #drawMenu() {
    const { session } = this.#chat.conversation;
    const wanted = String(Boolean(session));
    if (this.menu.element.dataset.shows === wanted) return;
    this.menu.element.dataset.shows = wanted;
    const settings = { mark: "sliders-horizontal", text: "Settings", act: () => this.#set() };
    const rest = [
      { mark: "pencil", text: "Rename", act: () => this.#rename() },
      { mark: "sparkles", text: "Have it named", act: () => this.#ctx.attempt(this.#chat.name()) },
      { mark: "download", text: "Export", act: () => showExports(this.#ctx, this.#chat.path("/export")) },
      { mark: "trash-2", text: "Delete", act: () => this.#delete(), danger: true },
    ];
    this.menu.setItems([settings, ...(session ? rest : [])]);
  }

  #drawMessages(busy) {
    const { pending, conversation } = this.#chat;
    const { running } = conversation;
    const shown = [...conversation.shown()];
    if (pending !== null) shown.push({ id: "pending", role: "user", content: pending, pending: true });
    if (running) shown.push({ id: running.message_id, role: "assistant", growing: true, ...running });
    reconcile(this.messages, shown, {
      key: (message) => message.id,
      make: (message) => this.#made(message).element,
      update: (_, message) =>
        this.#views.get(message.id).update(message, {
          growing: message.growing,
          pending: message.pending,
          busy,
        }),
    });
  }

  #made(message) {
    const view = new MessageView(message, {
      again: (one) => this.#again(one),
      edit: (one, text) => this.#chat.edit(one, text, this.#wishes()),
      show: (id) => this.#ctx.attempt(this.#chat.show(id)),
    });
    this.#views.set(message.id, view);
    return view;
  }

  #drawProblem(busy) {
    const { problem, messages } = this.#chat.conversation;
    const wanted = busy ? "" : problem;
    if (this.problem.dataset.shows === wanted) return;
    this.problem.dataset.shows = wanted;
    const last = messages.at(-1);
    const retry =
      last?.role === "user"
        ? el(
            "button",
            { class: "small", type: "button", on: { click: () => this.#again(last) } },
            icon("refresh-cw"),
            "Try again",
          )
        : null;
    fill(this.problem, wanted ? [icon("triangle-alert"), el("p", {}, wanted), retry] : []);
  }

  #tell(kind, body) {
    if (kind === "started") {
      this.#announced = body.message_id;
      this.#announcer.begin(this.#choice.name);
    }
    const { running } = this.#chat.conversation;
    if (kind === "delta" && running && this.#announcer.isDue) {
      this.#announcer.grow(split(running.content, { ended: false }).answer);
    }
    if (kind === "finished" && body.message.id === this.#announced) {
      this.#announcer.end(split(body.message.content).answer);
    }
  }

  /** The chat is gone; why it did not come to be at all is told in its place. */
  #leave(why) {
    const { problem } = this.#chat.conversation;
    if (why) this.#ctx.toast.note(why);
    this.#opened(null);
    this.open(null);
    if (!why) this.#chat.conversation.problem = problem;
    this.#draw();
  }

  #atEnd() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }

  #toEnd() {
    this.#follows = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #showNewest() {
    this.newest.hidden = this.#atEnd();
  }
}
