/** Starts the page: who sits here, the frame around the pages, and the page that the address names. */

import { PAGES } from "../pages/registry.js";
import { onSignInNeeded } from "./api.js";
import { contextFor } from "./context.js";
import { el, fill, icon } from "./dom.js";
import { buildFrame } from "./frame.js";
import "./history.js"; // begins to collect
import { connection, follow } from "./live.js";
import { href, route } from "./router.js";
import { can, mustSignIn, refreshSession } from "./session.js";
import { signInPage } from "./sign_in.js";
import { applyTheme } from "./theme.js";

applyTheme();
const frame = buildFrame();
let leave = () => {};
let asking = false;
let follows = false;

async function begin() {
  connection.watch((state) => frame.showConnection(state));
  for (;;) {
    try {
      await refreshSession();
      break;
    } catch (error) {
      trouble(error.message);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
  onSignInNeeded(askForKey);
  addEventListener("hashchange", open);
  if (mustSignIn()) await askForKey();
  else await open();
}

async function askForKey() {
  if (asking) return;
  asking = true;
  leave();
  await refreshSession().catch(() => {}); // the form says what is wrong when it is sent
  frame.showPages([], "");
  await signInPage(frame.main);
  if (follows) location.reload(); // what was open belongs to whom the server knew before
  asking = false;
  await open();
}

async function open() {
  if (asking) return;
  if (!follows) follow(can("metrics"));
  follows = true;
  leave();
  const pages = PAGES.filter((page) => !page.scope || can(page.scope));
  const { id, params } = route();
  const page = pages.find((one) => one.id === id) ?? (id ? null : pages[0]);
  frame.showPages(pages, page?.id ?? "");
  const left = new AbortController();
  let unmount;
  leave = () => {
    left.abort();
    unmount?.();
    leave = () => {};
  };
  if (!page) {
    notFound(pages);
    return;
  }
  const setTitle = (text) => {
    document.title = `${text} · Chorus`;
  };
  setTitle(page.title);
  const root = el("div", { class: `page ${page.id}` });
  try {
    const [module] = await Promise.all([page.module(), page.style && styled(page.style)]);
    if (left.signal.aborted) return;
    fill(frame.main, root);
    unmount = await module.default.mount(root, contextFor({ params, signal: left.signal, setTitle }));
    if (left.signal.aborted) unmount?.();
  } catch (error) {
    if (left.signal.aborted) return;
    console.error(error);
    trouble(`This page did not open: ${error.message}. If Chorus was just updated, load it again.`);
  }
  frame.arrived(page.title);
}

const styles = new Map();

function styled(path) {
  if (!styles.has(path)) {
    const sheet = el("link", { rel: "stylesheet", href: new URL(`../${path}`, import.meta.url).pathname });
    styles.set(path, new Promise((resolve, reject) => {
      sheet.addEventListener("load", resolve);
      sheet.addEventListener("error", () => reject(new Error(`${path} did not come`)));
    }));
    document.head.append(sheet);
  }
  return styles.get(path);
}

function notFound(pages) {
  fill(
    frame.main,
    el("div", { class: "empty" }, icon("search"), el("h1", {}, "There is no such page"),
      el("p", {}, el("a", { href: href(pages[0]?.id ?? "") }, "Go to the first one"))),
  );
}

function trouble(message) {
  fill(
    frame.main,
    el("div", { class: "empty bad", role: "alert" }, icon("triangle-alert"), el("h1", {}, "Something is wrong"),
      el("p", {}, message),
      el("button", { class: "primary", on: { click: () => location.reload() } }, icon("refresh-cw"), "Load again")),
  );
}

begin();
