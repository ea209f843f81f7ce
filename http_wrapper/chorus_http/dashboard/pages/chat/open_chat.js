/**
 * One chat and what can be done with it. What it knows comes from the chat's events alone, also the answers to what is
 * asked here: the request that asks only waits for the end. So all tabs know the same, and who comes late joins in.
 */

import { api } from "../../shell/api.js";
import { Conversation } from "./conversation.js";
import { watchChat } from "./room.js";

const ANSWER_WITHIN_S = 3600;
const NAME_WITHIN_S = 60;

export class OpenChat {
  #ctx;
  #listener;
  #left = new AbortController();
  #reading = null;
  #system = "";

  conversation = new Conversation();
  /** A question that was sent and is not written down yet; null without one. */
  pending = null;

  /**
   * `id` null: it comes to be with its first question. `listener`: `changed(kind)` when there is something else to show,
   * `told(kind, body)` for each event, `begun(id)` when it has its place on the server, `gone(why)` when it has none.
   */
  constructor(ctx, id, listener) {
    this.#ctx = ctx;
    this.id = id;
    this.#listener = listener;
    ctx.signal.addEventListener("abort", () => this.leave(), { signal: this.#left.signal });
  }

  get busy() {
    return this.conversation.running !== null || this.pending !== null;
  }

  /** Its instructions (the system prompt). */
  get system() {
    return this.conversation.session?.system ?? this.#system;
  }

  /** Nobody looks at it any more; an answer that is being made goes on. */
  leave() {
    this.#left.abort();
  }

  /** Follow what happens in it; resolves when its messages are known. */
  follow() {
    return new Promise((resolve) => {
      watchChat(this.#ctx, this.id, {
        signal: this.#left.signal,
        told: async (kind, body) => {
          if (this.#gone) return;
          const again = this.conversation.apply(kind, body);
          if (kind === "message") this.pending = null;
          this.#listener.told(kind, body);
          if (this.conversation.deleted) this.#listener.gone("This chat was deleted.");
          this.#changed(kind);
          if (again) await this.#read();
          if (kind === "snapshot") resolve();
        },
        refused: (error) => {
          resolve();
          if (this.#gone) return;
          if (error.code === "not_found") this.#listener.gone("There is no such chat any more.");
          else this.#fail(error);
        },
      });
    });
  }

  /** Ask; `begin`: what a new chat begins with. Resolves to false when the question was not even written down. */
  async ask(content, wishes, begin) {
    const first = this.id === null;
    this.pending = content;
    this.conversation.problem = "";
    this.#changed();
    try {
      if (first) await this.#begin(begin);
      await this.#answered("/messages", { content, ...wishes });
    } catch (error) {
      this.#fail(error);
    }
    if (this.pending === null) return true;
    this.pending = null;
    if (first && this.id) this.#forget();
    this.#changed();
    return false;
  }

  /** Have a question, or that of an answer, answered anew. */
  async again(message, wishes) {
    const path = `/messages/${encodeURIComponent(message.id)}/regenerate`;
    await this.#answered(path, wishes).catch((error) => this.#fail(error));
  }

  /** Ask another question in place of one. */
  async edit(message, content, wishes) {
    await this.#answered("/messages", { content, edits: message.id, ...wishes }).catch((error) => this.#fail(error));
  }

  /** Show the branch of this message. Throws ApiError. */
  async show(messageId) {
    const whole = await api(this.path("/head"), { method: "PUT", body: { message_id: messageId } });
    this.conversation.load(whole);
    this.#changed();
  }

  /** End the answer that is being made. Throws ApiError. */
  async stop() {
    if (this.id) await api(this.path("/stop"), { method: "POST", body: {} });
  }

  /** `{title}`, `{model}` or `{system}`. Throws ApiError. */
  async change(body) {
    if (this.id) await api(this.path(), { method: "PATCH", body });
    else this.#system = body.system ?? this.#system;
  }

  /** The smallest ready model makes a title of what was said. Throws ApiError. */
  async name() {
    await api(this.path("/title"), { method: "POST", body: {}, withinS: NAME_WITHIN_S });
  }

  /** Throws ApiError. */
  async delete() {
    await api(this.path(), { method: "DELETE" });
  }

  path(rest = "") {
    return `/chat/sessions/${encodeURIComponent(this.id)}${rest}`;
  }

  get #gone() {
    return this.#left.signal.aborted;
  }

  #changed(kind = "") {
    if (!this.#gone) this.#listener.changed(kind);
  }

  #fail(error) {
    if (error.name === "AbortError") return;
    this.conversation.problem ||= error.message;
    this.#changed();
  }

  async #begin({ model }) {
    const session = await api("/chat/sessions", { body: { model, system: this.#system } });
    this.id = session.id;
    if (this.#gone) return;
    this.#listener.begun(session.id);
    await this.follow();
  }

  /** Nothing was written down in the chat that was begun for it: no empty one is left behind. */
  #forget() {
    api(this.path(), { method: "DELETE" }).catch(() => {}); // it is empty, and stays in the list
    if (!this.#gone) this.#listener.gone("");
  }

  async #answered(path, body) {
    await api(this.path(path), { body, withinS: ANSWER_WITHIN_S });
  }

  /** Read the messages anew; those who want it meanwhile wait for one more reading. */
  async #read() {
    const current = this.#reading;
    if (current) {
      current.next ??= current.done.then(() => this.#read());
      return current.next;
    }
    const reading = {};
    this.#reading = reading;
    reading.done = this.#ctx.attempt(api(this.path(), { signal: this.#left.signal })).then((whole) => {
      this.#reading = null;
      if (!whole) return;
      this.conversation.load(whole);
      this.#changed();
    });
    return reading.done;
  }
}
