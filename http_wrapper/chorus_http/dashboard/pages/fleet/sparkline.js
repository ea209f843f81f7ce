/** A small line without axes: how a value went lately. */

import { svg } from "../../shell/dom.js";

const WIDTH = 72;
const HEIGHT = 20;
const POINTS = 60;

/** Returns `{ root, show(values) }`; null values count as nothing. */
export function sparkline() {
  const line = svg("polyline", { class: "spark-line" });
  const root = svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT,
    "aria-hidden": "true" }, line);
  let before = "";
  return {
    root,
    show(values) {
      const shown = values.slice(-POINTS);
      const most = Math.max(1, ...shown);
      const step = WIDTH / (POINTS - 1);
      const from = POINTS - shown.length;
      const points = shown
        .map((value, index) => `${((from + index) * step).toFixed(1)},${(HEIGHT - 2 - ((value ?? 0) / most) * (HEIGHT - 4)).toFixed(1)}`)
        .join(" ");
      if (points !== before) line.setAttribute("points", points);
      before = points;
    },
  };
}
