/** One question to every PC: their answers fill in side by side, and one answer is made of them. */

import { el, icon } from "../../shell/dom.js";
import { Announcer } from "../../words/announcer.js";
import { Composer } from "../chat/composer.js";
import { AnswerCards } from "./answer_cards.js";
import { Together } from "./together.js";
import { AskOptions } from "./options.js";

const CLOCK_MS = 100;

export default {
  mount(root, ctx) {
    const announcer = new Announcer();
    const options = new AskOptions();
    const cards = new AnswerCards();
    const together = new Together();
    const results = el("div", { class: "ask-results", hidden: true }, together.element, cards.element);
    const nobody = el(
      "p",
      { class: "notice warn", hidden: true },
      icon("info"),
      "No PC is ready to answer yet. As soon as one has loaded a model, it appears here.",
    );
    let running = null;

    const ask = async (prompt) => {
      const asking = new AbortController();
      running = asking;
      const signal = AbortSignal.any([asking.signal, ctx.signal]);
      composer.busy(true);
      results.hidden = false;
      cards.begin(options.chosen());
      together.begin(prompt);
      announcer.begin("Every PC");
      const clock = setInterval(() => cards.tick(), CLOCK_MS);
      try {
        for await (const { event, data } of ctx.stream("/query", { body: options.body(prompt), signal })) {
          cards.apply(event, data);
          together.apply(event, data, cards.counted());
          if (event === "finished") announcer.end(data.answer);
        }
      } catch (error) {
        const stopped = error.name === "AbortError";
        cards.end(stopped ? "Stopped." : error.message);
        if (!ctx.signal.aborted) together.fail(stopped ? "Stopped before the answer was there." : error.message);
      } finally {
        clearInterval(clock);
        composer.busy(false);
        running = null;
      }
    };
    const composer = new Composer({
      label: "Ask every PC",
      send: ask,
      stop: () => running?.abort(),
      beside: [options.element],
    });

    ctx.live.cluster.watch((state) => {
      options.offer(state.clients);
      nobody.hidden = options.some;
    });
    root.append(
      el(
        "header",
        { class: "page-head" },
        el(
          "div",
          {},
          el("h1", {}, "Ask all"),
          el("p", {}, "One question to every PC; you see what each one says, how fast, and what they say together."),
        ),
      ),
      composer.element,
      nobody,
      results,
      announcer.element,
    );
    if (matchMedia("(pointer: fine)").matches) composer.focus();
  },
};
