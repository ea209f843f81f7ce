/** One message on the page: what was said, how it came about, and what can be done with it. */

import { copyButton } from "../../words/copy_button.js";
import { Prose } from "../../words/prose.js";
import { split } from "../../words/thoughts.js";
import { el, fill, icon, say } from "../../shell/dom.js";
import { count, duration, number } from "../../shell/format.js";
import { councilView } from "./council_view.js";
import { citationMarks, sourcesView } from "./sources_view.js";

/**
 * `act` is what a person may do: `edit(message, text)`, `again(message)`, `show(messageId)`. Each may be refused while
 * an answer is being made, so the buttons are hidden then.
 */
export class MessageView {
  #act;
  #message = null;
  #flags = "";
  #prose = null;
  #thought = null;
  #sources = "";
  #council = "";

  constructor(message, act) {
    this.#act = act;
    const mine = message.role === "user";
    this.body = el("div", { class: "said" });
    this.by = el("header", { class: "by" });
    this.after = el("div", { class: "after" });
    this.notes = el("div", { class: "notes" });
    this.foot = el("footer");
    this.element = el(
      "article",
      { class: `message ${mine ? "mine" : "theirs"}`, "aria-label": mine ? "You" : "Answer" },
      mine ? null : this.by,
      this.body,
      this.after,
      this.notes,
      this.foot,
    );
    if (!mine) {
      this.#prose = new Prose();
      fill(this.body, this.#prose.element);
    }
  }

  /** Write the message into the page. `growing`: it is being made; `busy`: some answer in this chat is. */
  update(message, { growing = false, busy = false, pending = false } = {}) {
    const flags = `${growing} ${busy} ${pending}`;
    if (!growing && message === this.#message && flags === this.#flags) return;
    this.#flags = flags;
    this.element.classList.toggle("pending", pending);
    this.element.setAttribute("aria-busy", String(growing));
    if (message.role === "user") this.#updateMine(message);
    else this.#updateTheirs(message, growing);
    this.#updateFoot(message, busy || growing || pending);
    this.#message = message;
  }

  #updateMine(message) {
    if (this.#message?.content === message.content) return;
    fill(this.body, el("div", { class: "plain-text", dir: "auto" }, message.content));
  }

  #updateTheirs(message, growing) {
    const facts = message.answer ?? message;
    say(this.by, [facts.model, facts.node].filter(Boolean).join(" on "));
    const { thought, answer, thinking } = split(message.content, { ended: !growing });
    this.#showThought(thought, thinking);
    this.#showSources(facts.sources ?? []);
    if (growing) this.#prose.grow(answer);
    else this.#prose.show(answer);
    this.element.classList.toggle("waiting", growing && !answer && !thought);
    this.#showCouncil(facts.council ?? (message.members?.length ? { members: message.members, growing: true } : null));
    fill(this.notes, growing ? [] : notes(facts));
  }

  #showThought(thought, thinking) {
    if (!thought && !thinking) return;
    if (!this.#thought) {
      const prose = new Prose();
      const title = el("span");
      const box = el("details", { class: "thought" }, el("summary", {}, icon("brain"), title), prose.element);
      this.#thought = { prose, title };
      this.body.prepend(box);
    }
    say(this.#thought.title, thinking ? "Thinking …" : `Thoughts (${count(words(thought), "word")})`);
    if (thinking) this.#thought.prose.grow(thought);
    else this.#thought.prose.show(thought);
  }

  #showSources(sources) {
    const known = sources.length ? JSON.stringify(sources.map((source) => [source.document_id, source.text, source.cited])) : "";
    if (known === this.#sources) return;
    this.#sources = known;
    const list = sourcesView(sources);
    const before = this.element.querySelector(":scope > .sources");
    list.open = before?.open ?? false;
    before?.remove();
    this.after.before(list);
    this.#prose.mark(citationMarks(sources, list));
  }

  #showCouncil(council) {
    const known = council ? `${council.members.length} ${Boolean(council.growing)}` : "";
    if (known === this.#council) return;
    this.#council = known;
    const open = this.after.querySelector("details")?.open ?? true;
    fill(this.after, council ? councilView(council, { open }) : []);
  }

  #updateFoot(message, busy) {
    const mine = message.role === "user";
    const wanted = JSON.stringify([message.id, message.versions, busy, message.answer?.seconds]);
    if (this.foot.dataset.shows === wanted) return;
    this.foot.dataset.shows = wanted;
    if (busy && !message.answer && !mine) {
      fill(this.foot);
      return;
    }
    const read = () => (mine ? message.content : split(message.content).answer);
    fill(
      this.foot,
      versions(message, busy ? null : this.#act.show),
      copyButton(read, { what: mine ? "question" : "answer" }),
      busy ? null : mine ? this.#editButton(message) : this.#againButton(message),
      message.answer ? el("span", { class: "facts" }, figures(message.answer)) : null,
    );
  }

  #againButton(message) {
    const click = () => this.#act.again(message);
    const label = "Answer again";
    return el(
      "button",
      { class: "plain small", type: "button", "aria-label": label, title: label, on: { click } },
      icon("refresh-cw"),
    );
  }

  #editButton(message) {
    const click = () => this.#edit(message);
    const label = "Edit and ask again";
    return el(
      "button",
      { class: "plain small edit", type: "button", "aria-label": label, title: label, on: { click } },
      icon("pencil"),
    );
  }

  #edit(message) {
    const field = el("textarea", { "aria-label": "Your question", rows: 2, props: { value: message.content } });
    const close = () => {
      fill(this.body, el("div", { class: "plain-text", dir: "auto" }, message.content));
      this.element.classList.remove("editing");
      this.foot.querySelector(".edit")?.focus();
    };
    const send = () => {
      const text = field.value.trim();
      if (text) this.#act.edit(message, text);
      close();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.element.classList.add("editing");
    fill(
      this.body,
      field,
      el(
        "div",
        { class: "row" },
        el("button", { class: "primary small", type: "button", on: { click: send } }, "Ask this instead"),
        el("button", { class: "small", type: "button", on: { click: close } }, "Cancel"),
        el("span", { class: "muted" }, "The old version and its answers stay."),
      ),
    );
    field.focus();
  }
}

/** Which of several versions is shown, with the way to the others. */
function versions({ id, versions: ids = [] }, show) {
  if (ids.length < 2) return null;
  const at = ids.indexOf(id);
  const step = (to, label, mark) =>
    el(
      "button",
      {
        class: "plain small",
        type: "button",
        "aria-label": label,
        disabled: !show || ids[to] === undefined,
        on: { click: () => show(ids[to]) },
      },
      mark,
    );
  return el(
    "span",
    { class: "versions", role: "group", "aria-label": "Versions" },
    step(at - 1, "Version before", "‹"),
    el("span", {}, `${at + 1} / ${ids.length}`),
    step(at + 1, "Next version", "›"),
  );
}

function notes(facts) {
  const found = [];
  if (facts.trimmed) {
    const dropped = count(facts.trimmed.dropped_messages, "earlier message");
    found.push(note("info", `${dropped} did not fit the model's context and was not seen by it.`));
  }
  if (facts.sources?.length === 0)
    found.push(note("quote", "The documents hold nothing about this: answered without them."));
  if (facts.finish_reason === "stopped") found.push(note("square", "Stopped here."));
  if (facts.finish_reason === "length") found.push(note("info", "Cut off: the answer reached its longest length."));
  if (facts.finish_reason === "failed")
    found.push(note("triangle-alert", facts.error || "The answer broke off.", "bad"));
  return found;
}

function note(mark, text, kind = "") {
  return el("p", { class: `note ${kind}` }, icon(mark), text);
}

function figures(answer) {
  const { seconds, completion_tokens: tokens } = answer;
  const found = [];
  if (seconds) found.push(duration(seconds));
  if (tokens) found.push(count(tokens, "token"));
  if (seconds && tokens) found.push(`${number(tokens / seconds, tokens / seconds < 10 ? 1 : 0)} tokens/s`);
  return found.join(" · ");
}

function words(text) {
  return text.split(/\s+/).filter(Boolean).length;
}
