/** How documents get in: files by a button or dropped anywhere on the page, or pasted text; each with its progress. */

import { el, icon, say } from "../../shell/dom.js";
import { bytes, count, percent } from "../../shell/format.js";

const LOOK_EVERY_MS = 400;
const TYPES =
  ".txt,.md,.markdown,.html,.htm,.pdf,.docx,.csv,.json,.py,.js,.ts,.java,.c,.cpp,.go,.rs,.sh,.sql,.yaml,.toml";
/** Of the way that an upload shows: the sending, then the reading and embedding on the server. */
const SENDING = 0.3;

export class Uploads {
  #ctx;
  #collection;
  #added;
  #line = Promise.resolve();

  /** `collection()`: where to; `added()`: something came in. */
  constructor(ctx, { collection, added }) {
    this.#ctx = ctx;
    this.#collection = collection;
    this.#added = added;
    this.files = el("input", {
      type: "file",
      multiple: true,
      accept: TYPES,
      class: "hidden-visually",
      tabindex: "-1",
      "aria-hidden": "true",
    });
    this.files.addEventListener("change", () => {
      this.#take(this.files.files);
      this.files.value = "";
    });
    this.zone = el(
      "div",
      { class: "drop-zone" },
      icon("upload"),
      el("p", {}, el("strong", {}, "Drop files here"), " or"),
      el(
        "div",
        { class: "row" },
        el("button", { class: "primary", type: "button", on: { click: () => this.files.click() } }, "Choose files"),
        el("button", { type: "button", on: { click: () => this.#paste() } }, "Paste text"),
      ),
      el("p", { class: "muted small" }, "Text, Markdown, HTML, PDF, Word, CSV, source code; up to 25 MiB each."),
      this.files,
    );
    this.list = el("ul", { class: "uploads", "aria-label": "What comes in" });
    this.element = el("div", { class: "stack" }, this.zone, this.list);
  }

  /** Files dropped anywhere on `place` are taken in. */
  takeDrops(place) {
    const over = (event) => {
      if (![...event.dataTransfer.types].includes("Files")) return;
      event.preventDefault();
      this.zone.classList.add("over");
    };
    place.addEventListener("dragover", over);
    place.addEventListener("dragleave", () => this.zone.classList.remove("over"));
    place.addEventListener("drop", (event) => {
      event.preventDefault();
      this.zone.classList.remove("over");
      this.#take(event.dataTransfer.files);
    });
  }

  #take(files) {
    for (const file of files) {
      const row = new Upload(file.name, bytes(file.size));
      const collection = this.#collection();
      this.#queue(row, () => {
        const form = new FormData();
        form.append("collection", collection);
        form.append("wait", "false");
        form.append("file", file);
        return this.#ctx.upload("/rag/documents", form, { onProgress: (share) => row.sent(share) });
      });
    }
  }

  async #paste() {
    const title = el("input", { type: "text", maxlength: 200, id: "paste-title" });
    const text = el("textarea", { rows: 10, required: true, autofocus: true, id: "paste-text" });
    const pasted = await this.#ctx.dialog({
      title: "Paste text",
      wide: true,
      body: () => [
        el("div", { class: "field" }, el("label", { for: "paste-title" }, "Title"), title),
        el("div", { class: "field" }, el("label", { for: "paste-text" }, "Text or Markdown"), text),
      ],
      actions: (close) => [
        el("button", { type: "button", on: { click: () => close() } }, "Cancel"),
        el(
          "button",
          { class: "primary", type: "button", on: { click: () => text.reportValidity() && close(true) } },
          "Add",
        ),
      ],
    });
    if (!pasted) return;
    const row = new Upload(title.value.trim() || "Pasted text", bytes(new Blob([text.value]).size));
    const body = {
      text: text.value,
      title: title.value.trim() || undefined,
      collection: this.#collection(),
      wait: false,
    };
    this.#queue(row, () => this.#ctx.api("/rag/documents", { body }));
  }

  /** One after the other: the server embeds one document at a time anyway. */
  #queue(row, send) {
    this.list.prepend(row.element);
    this.#line = this.#line.then(() => this.#carry(row, send));
  }

  async #carry(row, send) {
    try {
      let ingest = await send();
      while (ingest.ended_unix_s === null) {
        row.reading(ingest);
        await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS));
        ingest = await this.#ctx.api(`/rag/ingests/${encodeURIComponent(ingest.ingest_id)}`);
      }
      row.ended(ingest);
      this.#added();
    } catch (error) {
      if (error.name !== "AbortError") row.failed(error.message);
    }
  }
}

/** One line of progress. */
class Upload {
  constructor(name, size) {
    this.state = el("span", { class: "badge", role: "status" }, "Waiting");
    this.told = el("p", { class: "muted small" }, size);
    this.bar = el("span", { class: "bar-fill" });
    this.track = el(
      "div",
      {
        class: "bar-track",
        role: "progressbar",
        "aria-label": name,
        "aria-valuemin": 0,
        "aria-valuemax": 100,
        "aria-valuenow": 0,
      },
      this.bar,
    );
    this.element = el(
      "li",
      { class: "upload" },
      el("div", { class: "row apart" }, el("p", { class: "title ellipsis grow" }, name), this.state),
      this.track,
      this.told,
    );
  }

  sent(share) {
    this.#show("Sending", "accent", share * SENDING);
  }

  reading({ chunks_total: all, chunks_done: done }) {
    this.#show("Reading", "accent", SENDING + (1 - SENDING) * (all ? done / all : 0));
    if (all) say(this.told, `${done} of ${count(all, "passage")}`);
  }

  ended({ documents: [document] }) {
    if (document.error) {
      this.failed(document.error.message);
      return;
    }
    this.#show("Added", "ok", 1);
    this.track.hidden = true;
    const unchanged = document.chunks && !document.embedded;
    say(this.told, unchanged ? "Was here already, unchanged." : count(document.chunks ?? 0, "passage"));
  }

  failed(message) {
    this.#show("Not added", "bad", 0);
    this.track.hidden = true;
    say(this.told, message);
    this.told.classList.replace("muted", "problem");
  }

  #show(word, kind, share) {
    this.state.className = `badge ${kind}`;
    say(this.state, word);
    this.bar.style.setProperty("--share", percent(share).replace(" ", ""));
    this.track.setAttribute("aria-valuenow", Math.round(share * 100));
  }
}
