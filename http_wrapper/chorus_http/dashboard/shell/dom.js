/**
 * Building the page. Text always becomes a text node: nothing here, and nothing that uses it, parses HTML, so what a
 * model, a PC or a person wrote can never become markup. The policy of the page (Trusted Types) refuses it besides.
 */

const SVG = "http://www.w3.org/2000/svg";
const SPRITE = new URL("../vendor/lucide/icons.svg", import.meta.url).pathname;

/**
 * `el("button", {class: "primary", on: {click: save}, "aria-label": "Save"}, icon("check"), "Save")`.
 * Of the attributes: `on` maps events to listeners, `vars` sets CSS custom properties, `props` sets properties of the
 * element; true writes an empty attribute; null, undefined and false leave it out. Children: nodes, strings, numbers
 * and lists of them; null, undefined and false are left out.
 */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "vars") {
      for (const [variable, text] of Object.entries(value)) element.style.setProperty(variable, text);
    } else if (name === "props") {
      Object.assign(element, value);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((one) => one !== null && one !== undefined && one !== false)
    .map((one) => (typeof one === "number" ? String(one) : one));
}

/** One icon of the sprite, for decoration only: the words beside it, or the label around it, say the same. */
export function icon(name) {
  const use = svg("use", { href: `${SPRITE}#${name}` });
  return svg("svg", { class: "icon", "aria-hidden": "true", focusable: "false" }, use);
}

/** Put these children in place of what `parent` holds. */
export function fill(parent, ...children) {
  parent.replaceChildren(...nodes(children));
  return parent;
}

/** Set the text only where it differs, so that selections and screen readers are left in peace. */
export function say(element, text) {
  const wanted = text === null || text === undefined ? "" : String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
  return element;
}

/**
 * Bring the children of `parent` into line with `items` without touching those that stay: focus, open menus and
 * scrolling survive. `make(item)` builds an element, `update(element, item)` writes the item into it (also after make).
 */
export function reconcile(parent, items, { key, make, update }) {
  const before = new Map();
  for (const child of parent.children) before.set(child.dataset.key, child);
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = String(key(item));
    let element = before.get(name);
    before.delete(name);
    if (!element) {
      element = make(item);
      element.dataset.key = name;
    }
    if (element === at) at = at.nextElementSibling;
    else parent.insertBefore(element, at);
    update?.(element, item);
  }
  for (const gone of before.values()) gone.remove();
}
