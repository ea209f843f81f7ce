/** Numbered passages that an answer was made from, and the marks in the answer that lead to them. */

import { el, icon } from "../../shell/dom.js";

let lists = 0;

/** A folded list of passages; `sources` as POST /rag/ask tells them. */
export function sourcesView(sources) {
  lists += 1;
  const cited = sources.filter((source) => source.cited).length;
  const title = cited ? `${cited} of ${sources.length} passages cited` : `${sources.length} passages`;
  return el(
    "details",
    { class: "sources", "data-list": lists },
    el("summary", {}, icon("quote"), el("span", {}, title)),
    el(
      "ol",
      {},
      sources.map((source) =>
        el(
          "li",
          { value: source.number, tabindex: "-1", "data-number": source.number, class: source.cited ? "cited" : null },
          el("h4", {}, source.title || source.source || "Untitled", place(source)),
          el("blockquote", { class: "plain-text", dir: "auto" }, source.text),
        ),
      ),
    ),
  );
}

function place({ title, headings = [], page }) {
  const found = [
    ...headings.filter((heading) => heading !== title),
    page === null || page === undefined ? null : `page ${page}`,
  ].filter(Boolean);
  return found.length ? el("span", { class: "muted" }, ` ${found.join(" › ")}`) : null;
}

/** For `Prose`: marks of the passages in `list`, a `sourcesView`. */
export function citationMarks(sources, list) {
  const known = new Set(sources.map((source) => source.number));
  const jump = (number) => {
    list.open = true;
    const target = list.querySelector(`[data-number="${number}"]`);
    target.scrollIntoView({ block: "nearest" });
    target.focus();
  };
  const mark = (number) => {
    const { title } = sources.find((source) => source.number === number);
    const label = `Passage ${number}: ${title}`;
    return el(
      "button",
      { class: "cite", type: "button", title: label, "aria-label": label, on: { click: () => jump(number) } },
      number,
    );
  };
  return {
    known: (number) => known.has(number),
    cite: (numbers) => el("span", { class: "cites" }, numbers.map(mark)),
  };
}
