/**
 * Markdown that a model wrote, as elements. No HTML is made on the way: a parser gives tokens, and for each kind of
 * token that is known here one harmless element is created, so there is nothing to sanitise and nothing to forget.
 * HTML in the text stays text. Pictures are never fetched (their address could carry the conversation away), links lead
 * only to web and mail addresses and say where, and tables end where they would make the page slow.
 */

import markdownIt from "../vendor/markdown-it/markdown-it.esm.min.js";
import { el } from "../shell/dom.js";
import { piecesOf } from "./citations.js";
import { codeBlock, writeCode } from "./code_block.js";

/** Characters of one text that are read as Markdown; what follows is shown as it is. */
export const LONGEST_READ = 200_000;
const MOST_CELLS = 4000;
/** Emphasis within emphasis; a browser's layout breaks down over some thousand. */
const DEEPEST = 20;
const SCHEMES = new Set(["http:", "https:", "mailto:"]);
const SIMPLE = new Set(["p", "ul", "li", "blockquote", "strong", "em", "s", "thead", "tbody", "tr"]);

const parser = markdownIt({ html: false, linkify: true, typographer: false, maxNesting: 30 });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });

/**
 * The blocks of a text: `[{from, source, kind, tokens}]`, `from` being the offset of the first of its characters.
 * `env` keeps what links refer to; pass the same object for parts of one text.
 */
export function blocksOf(text, env = {}) {
  const lines = [0];
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) lines.push(at + 1);
  const offset = (line) => lines[line] ?? text.length;
  const blocks = [];
  let tokens = [];
  for (const token of parser.parse(text, env)) {
    tokens.push(token);
    if (token.level !== 0 || token.nesting === 1) continue;
    const [begin, end] = tokens[0].map;
    const from = offset(begin);
    blocks.push({ from, source: text.slice(from, offset(end)), kind: tokens[0].type, tokens });
    tokens = [];
  }
  return blocks;
}

/** The element of a block. `cite(numbers)` makes the mark of a citation, `known(number)` says whether there is one. */
export function elementOf(block, { cite, known = () => false } = {}) {
  const [first] = block.tokens;
  if (first.type === "table_open" && cells(block.tokens) > MOST_CELLS) return tooLarge(block.source);
  return new Builder(cite, known).build(block.tokens);
}

/** Write a grown block into the element of the shorter one. False where it needs an element of its own. */
export function grown(element, before, block) {
  if (before.kind !== "fence" || block.kind !== "fence" || before.tokens[0].info !== block.tokens[0].info) return false;
  writeCode(element, block.tokens[0].content);
  return true;
}

class Builder {
  constructor(cite, known) {
    this.cite = cite;
    this.known = known;
    this.inLink = false;
  }

  build(tokens) {
    const top = document.createDocumentFragment();
    const open = [top];
    for (const token of tokens) {
      if (token.nesting === -1) {
        open.pop();
      } else if (token.nesting === 1) {
        const element = this.opened(token);
        open.at(-1).append(element);
        open.push(element.querySelector(":scope > table") ?? element);
      } else {
        open.at(-1).append(...this.single(token));
      }
    }
    return top.childElementCount === 1 ? top.firstElementChild : el("div", {}, top);
  }

  /** What a block's opening token stands for. */
  opened(token) {
    if (SIMPLE.has(token.tag)) return el(token.tag);
    if (token.type === "heading_open") return el(`h${Math.min(6, Number(token.tag[1]) + 2)}`);
    if (token.tag === "ol") return el("ol", { start: token.attrGet("start") });
    if (token.tag === "th" || token.tag === "td") {
      const align = /^text-align:(center|right)$/.exec(token.attrGet("style") ?? "");
      return el(token.tag, { class: align ? `to-${align[1]}` : null, scope: token.tag === "th" ? "col" : null });
    }
    if (token.tag === "table") {
      return el("div", { class: "table-frame", tabindex: "0", role: "region", "aria-label": "Table" }, el("table"));
    }
    return el("div");
  }

  /** What a token without an inside stands for. */
  single(token) {
    switch (token.type) {
      case "inline":
        return this.inline(token.children);
      case "fence":
        return [codeBlock(token.content, token.info)];
      case "code_block":
        return [codeBlock(token.content, "")];
      case "hr":
        return [el("hr")];
      default:
        return [token.content];
    }
  }

  inline(tokens) {
    const top = document.createDocumentFragment();
    const open = [top];
    for (const token of tokens) {
      if (token.type === "link_open") {
        const link = linkTo(token.attrGet("href"), token.attrGet("title"));
        this.inLink = true;
        open.at(-1).append(link);
        open.push(link);
      } else if (token.type === "link_close") {
        this.inLink = false;
        const link = open.pop();
        if (link.tagName === "A") sayWhere(link);
      } else if (token.nesting === 1) {
        if (open.length > DEEPEST) {
          open.push(open.at(-1));
          continue;
        }
        const element = el(SIMPLE.has(token.tag) ? token.tag : "span");
        open.at(-1).append(element);
        open.push(element);
      } else if (token.nesting === -1) {
        open.pop();
      } else {
        open.at(-1).append(...this.word(token));
      }
    }
    return [...top.childNodes];
  }

  word(token) {
    switch (token.type) {
      case "code_inline":
        return [el("code", {}, token.content)];
      case "softbreak":
        return ["\n"];
      case "hardbreak":
        return [el("br")];
      case "image":
        return [picture(token.attrGet("src"), token.content)];
      case "text":
        return this.cite && !this.inLink ? this.cited(token.content) : [token.content];
      default:
        return [token.content];
    }
  }

  cited(text) {
    return piecesOf(text, this.known).map((piece) => (typeof piece === "string" ? piece : this.cite(piece)));
  }
}

/** The address, if a person may be led there; a relative one would lead into the dashboard itself. */
function allowed(href) {
  try {
    const url = new URL(href);
    return SCHEMES.has(url.protocol) ? url : null;
  } catch {
    return null; // no whole address
  }
}

function linkTo(href, title) {
  const url = allowed(href);
  if (!url) return el("span", { class: "no-link" });
  return el("a", {
    href: url.href,
    target: "_blank",
    rel: "noopener noreferrer nofollow",
    title: title ? `${title}: ${url.href}` : url.href,
  });
}

/** A link whose text looks like another address says where it really leads. */
function sayWhere(link) {
  const shown = /^\s*(?:https?:\/\/)?([\w-]+(?:\.[\w-]+)+)/i.exec(link.textContent);
  const host = new URL(link.href).hostname;
  if (shown && host && shown[1].toLowerCase() !== host) link.append(el("span", { class: "where" }, ` (${host})`));
}

function picture(src, text) {
  const url = allowed(src);
  const words = text ? `Picture: ${text}` : "Picture";
  if (!url || url.protocol === "mailto:") return el("span", { class: "picture" }, words);
  const link = linkTo(src, "Not loaded");
  link.classList.add("picture");
  link.append(`${words} (${url.hostname})`);
  return link;
}

function cells(tokens) {
  return tokens.reduce((sum, token) => sum + (token.type === "td_open" || token.type === "th_open"), 0);
}

function tooLarge(source) {
  return el(
    "div",
    {},
    el("p", { class: "muted" }, "A table too large to be drawn as one:"),
    el("pre", { class: "plain-text", tabindex: "0" }, source),
  );
}
