/** The frame around every page: skip link, navigation, the line that says when the server is away, and `main`. */

import { el, fill, icon } from "./dom.js";
import { href } from "./router.js";
import { session, signOut } from "./session.js";
import { nextTheme, theme } from "./theme.js";
import { toastRegion } from "./toasts.js";

const THEME_ICONS = { system: "sun-moon", light: "sun", dark: "moon" };

/** Put the frame into the page. Returns `main` and what changes the frame. */
export function buildFrame() {
  const main = el("main", { id: "main", tabindex: "-1" });
  const list = el("ul", { class: "pages" });
  const foot = el("div", { class: "nav-foot" });
  const nav = el("nav", { id: "nav", "aria-label": "Pages" }, list, foot);
  const menu = el(
    "button",
    { class: "plain menu", "aria-controls": "nav", "aria-expanded": "false", "aria-label": "Menu" },
    icon("menu"),
  );
  const exposed = el("p", { class: "exposed", hidden: true }, icon("triangle-alert"),
    "Everybody on this network can use and change this: the hub was started with --insecure and asks for no key.");
  const banner = el("p", { class: "banner", role: "status" });
  const setOpen = (open) => {
    menu.setAttribute("aria-expanded", String(open));
    nav.classList.toggle("open", open);
  };
  menu.addEventListener("click", () => setOpen(menu.getAttribute("aria-expanded") !== "true"));
  nav.addEventListener("click", (event) => {
    if (event.target.closest("a")) setOpen(false);
  });
  addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !nav.classList.contains("open")) return;
    setOpen(false);
    menu.focus();
  });

  const skip = el("a", { class: "skip", href: "#main" }, "Skip to the content");
  skip.addEventListener("click", (event) => {
    event.preventDefault(); // the address behind # belongs to the router
    main.focus();
  });
  const brand = el("a", { class: "brand", href: "#/" }, mark(), "Chorus");
  const bar = el("header", { class: "bar" }, brand, menu);
  document.body.replaceChildren(skip, el("div", { class: "shell" }, bar, nav, el("div", { class: "stage" }, exposed, banner, main)),
    toastRegion);

  return {
    main,
    showPages(pages, current) {
      document.body.classList.toggle("signed-out", pages.length === 0);
      exposed.hidden = !session().exposed;
      fill(list, pages.map((page) => el("li", {}, link(page, page.id === current))));
      fill(foot, pages.length ? footer() : themeButton());
    },
    showConnection(state) {
      banner.textContent =
        state === "away" ? "The server does not answer. This page shows what it last knew and keeps trying." : "";
    },
    arrived(title) {
      // Somebody who hears the page is told that another one is there; focus moves only where none was placed.
      if (document.activeElement === document.body || nav.contains(document.activeElement)) {
        main.setAttribute("aria-label", title);
      }
    },
  };
}

function mark() {
  const image = new URL("icon.svg", import.meta.url).pathname;
  return el("img", { src: image, alt: "", width: 28, height: 28 });
}

function link(page, isCurrent) {
  return el(
    "a",
    { href: href(page.id), "aria-current": isCurrent ? "page" : null },
    icon(page.icon),
    el("span", {}, page.title),
  );
}

function footer() {
  const { signed_in: signedIn, owner } = session();
  const out = async () => {
    await signOut();
    location.reload();
  };
  return [
    el("a", { href: "/docs", target: "_blank", rel: "noopener" }, icon("file-text"), el("span", {}, "API")),
    themeButton(),
    signedIn
      ? el("button", { class: "plain", on: { click: out } }, icon("log-out"), el("span", {}, `Sign out ${owner}`))
      : null,
  ];
}

function themeButton() {
  const button = el("button", { class: "plain theme" });
  const show = () => fill(button, icon(THEME_ICONS[theme()]), el("span", {}, `Theme: ${theme()}`));
  button.addEventListener("click", () => {
    nextTheme();
    show();
  });
  show();
  return button;
}
