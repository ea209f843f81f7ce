import { el, fill } from "../../shell/dom.js";

export default {
  mount(root, ctx) {
    fill(root, el("h1", {}, "queue"));
  },
};
