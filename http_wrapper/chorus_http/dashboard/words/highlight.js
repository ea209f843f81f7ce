/** The words of a search, marked in what was found. */

import { el } from "../shell/dom.js";

const LEAST_CHARACTERS = 2;

/** The text as nodes; words that begin like one of the query's are in <mark>. */
export function highlighted(text, query) {
  const wanted = [...query.matchAll(/[\p{L}\p{N}]+/gu)]
    .map(([word]) => stem(word))
    .filter((word) => word.length >= LEAST_CHARACTERS);
  if (!wanted.length) return [text];
  const found = new RegExp(`(?<![\\p{L}\\p{N}])(?:${wanted.join("|")})[\\p{L}\\p{N}]*`, "giu");
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(found)) {
    nodes.push(text.slice(from, match.index), el("mark", {}, match[0]));
    from = match.index + match[0].length;
  }
  return [...nodes, text.slice(from)];
}

/** Endings that languages change are left to match anything. */
function stem(word) {
  return word.length > 5 ? word.slice(0, -2) : word;
}
