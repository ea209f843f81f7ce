/** The documents page: what there is, how it gets in, and finding and asking in it. */

import { el, icon } from "../../shell/dom.js";
import { CollectionChoice } from "./collection_choice.js";
import { DocumentList } from "./document_list.js";
import { Finder } from "./finder.js";
import { Uploads } from "./uploads.js";

export default {
  async mount(root, ctx) {
    const list = new DocumentList(ctx, { changed: () => refresh() });
    const choice = new CollectionChoice(ctx, {
      changed: () => {
        finder.clear();
        list.show(choice.name);
      },
    });
    const refresh = async () => {
      await ctx.attempt(choice.load());
      await ctx.attempt(list.show(choice.name));
    };
    const finder = new Finder(ctx, () => choice.name);
    const uploads = new Uploads(ctx, { collection: () => choice.name, added: refresh });
    root.append(
      el(
        "header",
        { class: "page-head" },
        el(
          "div",
          {},
          el("h1", {}, "Documents"),
          el("p", {}, "Texts that questions are answered from, with the passages that say so."),
        ),
        choice.element,
      ),
    );
    try {
      await choice.load();
    } catch (error) {
      if (error.status !== 501) throw error;
      root.append(el("p", { class: "notice warn" }, icon("info"), error.message));
      return;
    }
    root.append(
      finder.element,
      el(
        "div",
        { class: "columns" },
        el("section", { class: "stack" }, el("h2", {}, "Add"), uploads.element),
        el("section", { class: "stack" }, el("h2", {}, "What is here"), list.element),
      ),
    );
    uploads.takeDrops(root);
    await ctx.attempt(list.show(choice.name));
  },
};
