/** The chat page: all chats beside the one that is open. Choosing another does not build the page anew. */

import { el, icon } from "../../shell/dom.js";
import { DocumentsChoice } from "./documents_choice.js";
import { ModelChoice } from "./model_choice.js";
import { watchChats } from "./room.js";
import { SessionList } from "./session_list.js";
import { Talk } from "./talk.js";

const KEPT_MODEL = "chorus.chat.model";

export default {
  mount(root, ctx) {
    const choice = new ModelChoice((model) => {
      localStorage.setItem(KEPT_MODEL, model ?? "");
      talk.choose(model);
    });
    const documents = new DocumentsChoice();
    const open = (id, { message = null } = {}) => {
      const address = ctx.href("chat", id ? { id } : {});
      // The shell builds a page anew when the address changes; within this one that is not needed.
      if (location.hash !== address) history.pushState(null, "", address);
      root.classList.remove("listing");
      list.mark(id);
      if (!id) choice.choose(localStorage.getItem(KEPT_MODEL) || null);
      talk.open(id, { message });
    };
    const list = new SessionList(ctx, { open });
    const talk = new Talk(ctx, {
      choice,
      documents,
      opened: (id) => {
        history.replaceState(null, "", ctx.href("chat", id ? { id } : {}));
        list.mark(id);
      },
    });
    const listing = el(
      "button",
      { class: "plain to-list", type: "button", "aria-label": "All chats", "aria-controls": "chat-list" },
      icon("messages-square"),
    );
    listing.addEventListener("click", () => {
      const shown = root.classList.toggle("listing");
      listing.setAttribute("aria-expanded", String(shown));
      if (shown) list.search.focus();
    });
    talk.head.prepend(listing);
    root.append(list.element, talk.element);

    choice.choose(localStorage.getItem(KEPT_MODEL) || null);
    watchChats(ctx, { told: (body) => list.apply(body), begun: () => ctx.attempt(list.load()) });
    documents.load(ctx);
    ctx.every(20, async () => choice.offer((await ctx.attempt(ctx.api("/v1/models")))?.data ?? []));
    list.mark(ctx.params.get("id"));
    talk.open(ctx.params.get("id"));
    if (matchMedia("(pointer: fine)").matches) talk.composer.focus();
  },
};
