/** A block of code with its language and a button that copies it. */

import { el, say } from "../shell/dom.js";
import { copyButton } from "./copy_button.js";

const LONGEST_LANGUAGE = 24;

export function codeBlock(text, language) {
  const code = el("code", {}, shown(text));
  const name = language.trim().split(/\s/, 1)[0].slice(0, LONGEST_LANGUAGE);
  return el(
    "figure",
    { class: "code-block" },
    el(
      "figcaption",
      {},
      el("span", {}, name || "text"),
      copyButton(() => code.textContent, { what: "code" }),
    ),
    el("pre", { tabindex: "0", "aria-label": name ? `Code, ${name}` : "Code" }, code),
  );
}

/** Put other code into a block of the same language. */
export function writeCode(block, text) {
  say(block.querySelector("code"), shown(text));
}

function shown(text) {
  return text.replace(/\n$/, "");
}
