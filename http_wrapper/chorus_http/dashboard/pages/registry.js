/**
 * Every page, in the order of the navigation. A page is one module, loaded when it is first opened, whose default
 * export is `{ mount(root, ctx) }`; `mount` may return a function that is called when the page is left, and
 * `ctx.signal` is aborted then. See ../shell/context.js for what `ctx` offers.
 *
 * `scope`: what a key needs to see the page; without it the page is left out. `style`: the page's own style sheet.
 */
export const PAGES = [
  { id: "fleet", title: "Fleet", icon: "network", scope: "metrics", module: () => import("./fleet/page.js"), style: "pages/fleet/page.css" },
  { id: "chat", title: "Chat", icon: "message-square", scope: "chat", module: () => import("./chat/page.js"), style: "pages/chat/page.css" },
  { id: "ask", title: "Ask all", icon: "users", scope: "infer", module: () => import("./ask/page.js"), style: "pages/ask/page.css" },
  { id: "documents", title: "Documents", icon: "file-text", scope: "rag", module: () => import("./documents/page.js"), style: "pages/documents/page.css" },
  { id: "models", title: "Models", icon: "box", scope: "infer", module: () => import("./models/page.js"), style: "pages/models/page.css" },
  { id: "queue", title: "Queue", icon: "list-ordered", scope: "metrics", module: () => import("./queue/page.js"), style: "pages/queue/page.css" },
  { id: "servers", title: "Servers", icon: "server", scope: "admin", module: () => import("./servers/page.js"), style: "pages/servers/page.css" },
  { id: "join", title: "Join a PC", icon: "circle-plus", scope: "admin", module: () => import("./join/page.js"), style: "pages/join/page.css" },
  { id: "keys", title: "Keys", icon: "key-round", scope: "admin", module: () => import("./keys/page.js"), style: "pages/keys/page.css" },
];
