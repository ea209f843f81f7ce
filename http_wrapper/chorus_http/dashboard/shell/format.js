/** Quantities as people read them. Unknown (null) is a dash, never a zero. */

const UNKNOWN = "–";
const POWERS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(count) {
  if (count === null || count === undefined) return UNKNOWN;
  let power = 0;
  let left = Math.abs(count);
  while (left >= 1024 && power < POWERS.length - 1) {
    left /= 1024;
    power += 1;
  }
  const digits = power === 0 || left >= 100 ? 0 : 1;
  return `${count < 0 ? "−" : ""}${left.toFixed(digits)} ${POWERS[power]}`;
}

export function number(value, digits = 0) {
  if (value === null || value === undefined || !Number.isFinite(value)) return UNKNOWN;
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

export function percent(share) {
  return share === null || share === undefined ? UNKNOWN : `${Math.round(share * 100)} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return UNKNOWN;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

/** `1 PC`, `2 PCs`. */
export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

/** A moment of the wall clock, given in seconds since 1970 or as ISO text. */
export function moment(at) {
  if (at === null || at === undefined || at === "") return UNKNOWN;
  const date = new Date(typeof at === "number" ? at * 1000 : at);
  const today = new Date().toDateString() === date.toDateString();
  return today
    ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })
    : date.toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
}

/** Seconds since 1970, or ISO text, as `3 min ago`. */
export function ago(at) {
  if (at === null || at === undefined || at === "") return UNKNOWN;
  const seconds = Date.now() / 1000 - (typeof at === "number" ? at : Date.parse(at) / 1000);
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return moment(at);
}
