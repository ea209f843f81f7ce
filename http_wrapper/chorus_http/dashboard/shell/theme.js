/** Light, dark, or as the system says (the beginning). The choice stays in this browser. */

const KEPT_AS = "chorus.theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const changes = new EventTarget();

export function theme() {
  const kept = localStorage.getItem(KEPT_AS);
  return kept in NEXT ? kept : "system";
}

export function isDark() {
  const chosen = theme();
  return chosen === "dark" || (chosen === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
}

/** Go on to the next choice and return it. */
export function nextTheme() {
  const chosen = NEXT[theme()];
  localStorage.setItem(KEPT_AS, chosen);
  applyTheme();
  return chosen;
}

/** Write the choice to the root element, where the style sheets look for it. */
export function applyTheme() {
  if (theme() === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme();
  changes.dispatchEvent(new Event("change"));
}

/** What draws with colours of its own (a canvas) draws again when they change. */
export function onThemeChange(listener, { signal } = {}) {
  changes.addEventListener("change", listener, { signal });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", listener, { signal });
}
