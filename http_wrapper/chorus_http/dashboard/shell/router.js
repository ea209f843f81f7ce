/** Which page is open: the part of the address behind `#`, as `#/models?name=qwen3`. */

/** `{ id, params }` of the present address; `id` is empty when none is named. */
export function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { id: decodeURIComponent(path), params: new URLSearchParams(query) };
}

/** The address of a page, for an `href`. `params`: a plain object. */
export function href(id, params = {}) {
  const query = new URLSearchParams(Object.entries(params).filter(([, value]) => value !== null && value !== undefined));
  return `#/${encodeURIComponent(id)}${query.size ? `?${query}` : ""}`;
}

/** Go there. With `replace` the way back leads past the present address. */
export function go(id, params = {}, { replace = false } = {}) {
  const address = href(id, params);
  if (replace) location.replace(address);
  else location.hash = address;
}
