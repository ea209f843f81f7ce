/** Numbers in square brackets, as `[1]` or `[2, 3]`, that name passages which the model was given. */

const NUMBERS = /\[\s*(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\s*\]/g;

/**
 * The text in pieces: strings, and lists of numbers where passages are cited. Numbers for which `known` says no stay
 * text: the model has made them up.
 */
export function piecesOf(text, known) {
  const pieces = [];
  let from = 0;
  for (const found of text.matchAll(NUMBERS)) {
    const numbers = found[1].split(/[,;]/).map(Number);
    if (!numbers.every(known)) continue;
    if (found.index > from) pieces.push(text.slice(from, found.index));
    pieces.push(numbers);
    from = found.index + found[0].length;
  }
  if (from < text.length) pieces.push(text.slice(from));
  return pieces;
}
