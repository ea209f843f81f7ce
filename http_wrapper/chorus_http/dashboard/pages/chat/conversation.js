/**
 * One chat as this tab knows it: the messages of the branch that is shown and the answer that is being made. It hears
 * the same events as every other tab of the chat, also about what was done here, so that all of them show the same.
 */

export class Conversation {
  /** The session's facts (title, model, …), without its messages. */
  session = null;
  messages = [];
  /** The answer that is being made: `{message_id, parent_id, model, node, content, members}`. */
  running = null;
  /** Why the last answer did not come, in words. */
  problem = "";
  deleted = false;

  /** Take what GET /chat/sessions/ID answered. False when it is older than what is known here: ask again. */
  load({ messages, running: _, ...session }) {
    if (this.session && session.revision < this.session.revision) return false;
    this.session = session;
    this.messages = messages;
    if (this.running && this.#find(this.running.message_id) >= 0) this.running = null;
    return true;
  }

  /** Something happened. True when the session has to be read anew to know all of it. */
  apply(kind, body) {
    switch (kind) {
      case "snapshot":
        this.running = body.running ? { members: [], ...body.running } : null;
        return true;
      case "message":
        this.problem = "";
        this.#put(body);
        return true; // which versions it has is told there
      case "started":
        this.problem = "";
        if (this.#find(body.message_id) < 0) this.running = { members: [], ...body };
        return false;
      case "delta":
        return this.#grow(body, (running) => {
          // What a snapshot held already is told once more to those who came while it was made.
          if (body.at >= running.content.length) running.content += body.text;
        });
      case "member":
        return this.#grow(body, (running) => running.members.push(body.member));
      case "finished":
        this.running = null;
        this.#put(body);
        return true;
      case "failed":
        this.running = null;
        this.problem = body.message;
        return true; // what it said before it failed may have been kept
      case "changed":
        return this.#changed(body.session);
      case "deleted":
        this.deleted = true;
        return false;
      default:
        return false; // later servers tell more
    }
  }

  /** The messages to show: an answer that is being made anew stands in place of those it had. */
  shown() {
    if (!this.running) return this.messages;
    const question = this.#find(this.running.parent_id);
    return question < 0 ? this.messages : this.messages.slice(0, question + 1);
  }

  #find(id) {
    return this.messages.findIndex((message) => message.id === id);
  }

  #put({ message, session }) {
    this.session = session;
    if (this.#find(message.id) >= 0) return;
    const before = this.messages.slice(0, this.#find(message.parent_id) + 1);
    this.messages = [...before, { versions: [message.id], ...message }];
  }

  #grow(body, change) {
    if (this.running?.message_id === body.message_id) {
      change(this.running);
      return false;
    }
    return false; // of an answer that is finished here already
  }

  #changed(session) {
    const before = this.session;
    if (before && session.revision < before.revision) return false;
    this.session = session;
    return session.head !== (this.messages.at(-1)?.id ?? null);
  }
}
