// Small helpers to find and make elements. Texts are always set as text, never as HTML.

export const find = (selector, root = document) => root.querySelector(selector);
export const findAll = (selector, root = document) => [...root.querySelectorAll(selector)];
export const slot = (name, root = document) => find(`[data-slot=${name}]`, root);

/** Make an element. Properties that the element has are set as such, others as attributes; children may be null. */
export function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

/** A button that hears: `label` says what. */
export const hearButton = (label, onclick) =>
  el(
    "button",
    { type: "button", className: "hear", ariaLabel: `Hear ${label}`, title: `Hear ${label}`, onclick },
    el("span", { className: "icon" }),
  );

/** A square in the colour of a stem, and its name. */
export const stemName = (stem) => el("span", { className: "stem" }, tint(el("i"), stem.color), stem.name);

/** Give an element the colour of a stem. */
export function tint(node, color) {
  node.style.setProperty("--stem", color);
  return node;
}

/** A table in a frame that scrolls. A cell is a text, an element, or `[text]`, which stands at the right. */
export function table(head, rows, foot = []) {
  const cell = (value, tag) => (Array.isArray(value) ? el(tag, { className: "n" }, ...value) : el(tag, {}, value));
  const line = (tag) => (values) => el("tr", {}, ...values.map((value) => cell(value, tag)));
  const part = (tag, lines, of) => el(tag, {}, ...lines.map(line(of)));
  const parts = [part("thead", head.length ? [head] : [], "th"), part("tbody", rows, "td"), part("tfoot", foot, "td")];
  return el("div", { className: "scroll" }, el("table", { className: "plain" }, ...parts));
}

/** A bar of parts `[share of the width, colour, class]`. */
export function bar(...parts) {
  const pieces = parts.map(([share, color, className = ""]) => {
    const piece = tint(el("i", { className }), color);
    piece.style.width = `${100 * share}%`;
    return piece;
  });
  return el("div", { className: "contributions" }, ...pieces);
}

/** Names and their values. */
export const facts = (entries) =>
  el("dl", {}, ...entries.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]));

/** Set a slider, and draw its rail from zero to its value. */
export function setSlider(range, value) {
  range.value = value;
  const place = (at) => `${(100 * (at - range.min)) / (range.max - range.min)}%`;
  range.style.setProperty("--from", place(Math.min(0, range.value)));
  range.style.setProperty("--to", place(Math.max(0, range.value)));
}

export const fixed = (value, digits) => (value === null || value === undefined ? "" : value.toFixed(digits));

/** Tell the user about an error, or about what was done; without a message, what was told disappears. */
export function tell(message = "", { error = true } = {}) {
  const output = find("#message");
  output.textContent = message;
  output.hidden = !message;
  output.classList.toggle("error", error);
}

/** Run an action; if it fails, tell why. */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    tell(error.message);
    return undefined;
  }
}

/** Save a blob as a file of the user's. */
export function download(blob, name) {
  const link = el("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
