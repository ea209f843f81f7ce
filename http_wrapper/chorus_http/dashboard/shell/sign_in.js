/** The page in front of all others where the server wants a key. */

import { el, fill, icon } from "./dom.js";
import { signIn } from "./session.js";

/** Show it in `root`; resolves once a key was accepted. */
export function signInPage(root) {
  return new Promise((resolve) => {
    const problem = el("p", { class: "problem", role: "alert" });
    const key = el("input", {
      id: "sign-in-key",
      type: "password",
      autocomplete: "current-password",
      required: true,
      autofocus: true,
      "aria-describedby": "sign-in-how",
      spellcheck: "false",
    });
    const button = el("button", { class: "primary", type: "submit" }, icon("log-in"), "Sign in");
    const submit = async (event) => {
      event.preventDefault();
      button.disabled = true;
      problem.textContent = "";
      try {
        await signIn(key.value.trim());
        resolve();
      } catch (error) {
        problem.textContent = error.message;
        key.select();
      } finally {
        button.disabled = false;
      }
    };
    fill(
      root,
      el(
        "form",
        { class: "sign-in card", on: { submit } },
        el("h1", {}, "Welcome to Chorus"),
        el("p", { id: "sign-in-how", class: "muted" }, "This server asks for an API key. Its owner makes one with ",
          el("code", {}, "chorus keys create"), "."),
        el("label", { for: "sign-in-key" }, "API key"),
        key,
        problem,
        button,
      ),
    );
    key.focus();
  });
}
