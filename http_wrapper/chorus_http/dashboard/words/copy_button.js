/** A button that copies a text and says that it did. */

import { el, fill, icon } from "../shell/dom.js";
import { toast } from "../shell/toasts.js";

const THANKED_MS = 1500;

/** `read()` gives the text at the moment of the click; `what` names it for those who hear the page. */
export function copyButton(read, { what }) {
  const button = el("button", { class: "plain small", type: "button", "aria-label": `Copy ${what}` }, icon("copy"));
  button.addEventListener("click", async () => {
    try {
      await copy(read());
    } catch {
      toast.failed("The browser does not let this page copy; mark the text and copy it yourself.");
      return;
    }
    fill(button, icon("check"));
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => {
      fill(button, icon("copy"));
      button.setAttribute("aria-label", `Copy ${what}`);
    }, THANKED_MS);
  });
  return button;
}

async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Browsers offer the clipboard to pages from HTTPS and from this PC only; on a LAN by HTTP the old way is left.
  const field = el("textarea", { class: "hidden-visually", props: { value: text } });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  if (!done) throw new Error("not copied");
}
