/** A chart over time, drawn by uPlot in the colours of the theme; a sentence says the same to who cannot see it. */

import uPlot from "../vendor/uplot/uPlot.esm.js";
import { el, say } from "../shell/dom.js";
import { number } from "../shell/format.js";
import { onThemeChange } from "../shell/theme.js";

const HEIGHT = 150;
const AXIS_PX = 44;
const LEAST_SPAN_S = 120;
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

/**
 * `series`: `{ label, color }` each, `color` the name of a token. Returns `{ root, show([at, ...values]) }`; ends with
 * `signal`.
 */
export function chart({ title, unit, series, signal }) {
  const place = el("div", { class: "chart-canvas", "aria-hidden": "true" });
  const words = el("p", { class: "hidden-visually" });
  const present = series.map(({ label, color }) => ({ label, color, value: el("strong", { class: "number" }, "–") }));
  const root = el(
    "figure",
    { class: "card chart" },
    el(
      "figcaption",
      { class: "row apart" },
      el("h2", {}, title),
      el("span", { class: "row legend" }, present.map(({ label, color, value }) =>
        el("span", { class: "row" }, el("span", { class: "swatch", vars: { "--swatch": `var(${color})` } }),
          el("span", { class: "muted small" }, label), value))),
    ),
    words,
    place,
  );
  let plot = null;
  let shown = null;

  const draw = () => {
    plot?.destroy();
    plot = new uPlot(options(place.clientWidth, series), shown, place);
  };
  const show = (columns) => {
    shown = columns;
    present.forEach(({ value }, index) => say(value, number(columns[index + 1].at(-1), unit === "tok/s" ? 1 : 0)));
    say(words, `${title} now: ${present.map(({ label, value }) => `${label} ${value.textContent} ${unit}`).join(", ")}.`);
    if (!place.clientWidth) return;
    if (plot) plot.setData(columns);
    else draw();
  };
  const sized = new ResizeObserver(() => {
    if (!shown || !place.clientWidth) return;
    if (plot) plot.setSize({ width: place.clientWidth, height: HEIGHT });
    else draw();
  });
  sized.observe(place);
  onThemeChange(() => shown && draw(), { signal });
  signal.addEventListener("abort", () => {
    sized.disconnect();
    plot?.destroy();
  });
  return { root, show };
}

function options(width, series) {
  const style = getComputedStyle(document.documentElement);
  // A canvas knows no light-dark(): the browser resolves the token on an element first.
  const resolved = (token) => {
    const probe = el("span", { vars: { color: `var(${token})` } });
    document.body.append(probe);
    const color = getComputedStyle(probe).color;
    probe.remove();
    return color;
  };
  const axis = {
    stroke: resolved("--muted"),
    grid: { stroke: resolved("--line"), width: 1 },
    ticks: { show: false },
    font: `12px ${style.getPropertyValue("--font")}`,
  };
  return {
    width,
    height: HEIGHT,
    cursor: { show: false },
    legend: { show: false },
    padding: [8, 4, 0, 0],
    scales: {
      x: { time: true, range: (plot) => span(plot.data[0]) },
      y: { range: (_plot, _least, most) => [0, Math.max(1, most * 1.15)] },
    },
    axes: [
      { ...axis, space: 90, size: 26, values: (_plot, ticks) => ticks.map(clockTime) },
      { ...axis, size: AXIS_PX, space: 36, incrs: WHOLE },
    ],
    series: [
      {},
      ...series.map(({ label, color }, index) => ({
        label,
        stroke: resolved(color),
        width: 2,
        fill: index === 0 ? `color-mix(in srgb, ${resolved(color)} 14%, transparent)` : undefined,
        points: { show: false },
        spanGaps: true,
      })),
    ],
  };
}

function span(at) {
  return [Math.min(at[0], at.at(-1) - LEAST_SPAN_S), at.at(-1)];
}

function clockTime(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}
