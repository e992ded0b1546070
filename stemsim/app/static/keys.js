// Keys of the page: one list, which also fills the overlay that "?" opens.

import { el, find, slot } from "./dom.js";

const bindings = [];
const USED_BY_FIELDS = {
  range: ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"],
  checkbox: [" "],
  radio: [" ", "ArrowUp", "ArrowDown"],
};

/** Bind a key, named as `event.key` names it; digits are keys of the top row, whatever the keyboard's layout. */
export function bind(key, label, action, { tab = "search", shown = key } = {}) {
  bindings.push({ key, label, action, tab, shown });
}

function pressed(event) {
  const digit = event.code.match(/^Digit(\d)$/);
  if (digit) return (event.shiftKey ? "Shift+" : "") + digit[1];
  return event.key.length === 1 ? event.key.toLowerCase() : event.key;
}

function taken(target, key) {
  if (key === "Escape") return false;
  if (target.matches("input")) return (USED_BY_FIELDS[target.type] ?? [key]).includes(key);
  if (target.matches("button, a, summary")) return key === " " || key === "Enter";
  return target.matches("select, textarea");
}

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || find("dialog[open]")) return;
  const key = pressed(event);
  const binding = bindings.find((one) => one.key === key && (one.tab === "" || !find(`#${one.tab}`).hidden));
  if (!binding || taken(event.target, key)) return;
  event.preventDefault();
  binding.action(event);
});

/** Show the overlay of all keys. */
export function showKeys() {
  const rows = bindings
    .filter((one) => one.label)
    .map((one) => [el("dt", {}, el("kbd", {}, one.shown)), el("dd", {}, one.label)]);
  slot("keys").replaceChildren(el("dl", {}, ...rows.flat()));
  find("#keys").showModal();
}
