// The form that says which sounds may be found.

import { el, find, findAll, slot } from "./dom.js";
import { save, state } from "./state.js";

const root = find("#filters");
const form = find("form", root);
const RANGES = ["bpm", "duration", "loudness"];

/** Fill the form with what the library holds; `onchange()` is called when a filter changes. */
export function setupFilters(library, onchange) {
  fillFilters(library);
  const changed = () => {
    read();
    save();
    onchange();
  };
  form.addEventListener("change", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(changed)); // the fields are empty only afterwards
}

/** Fill the form again, after the library has grown. */
export function fillFilters({ stats, stems, keys }) {
  const choices = { type: known(stats.types), category: known(stats.categories), stems: stems.map(({ name }) => name) };
  for (const [name, values] of Object.entries(choices)) {
    const group = find(`[data-chips=${name}]`, root);
    group.replaceChildren(el("span", { className: "soft" }, group.ariaLabel));
    const chip = (value) => el("label", {}, el("input", { type: "checkbox", name, value }), el("span", {}, value));
    group.append(...values.map(chip));
  }
  const names = keys.map((key) => el("option", { value: key }, key));
  form.elements.musical_key.replaceChildren(el("option", { value: "" }, "any"), ...names);
  for (const [name, values] of Object.entries(state.filters)) {
    for (const field of findAll(`[name=${name}]`, form)) {
      if (field.type === "checkbox") field.checked = values.includes(field.value);
      else field.value = values[0];
    }
  }
  read();
}

/** The filters, as the server takes them. */
export function where() {
  const filters = { ...state.filters };
  delete filters.octaves;
  for (const name of RANGES) {
    const ends = ["low", "high"].map((end) => filters[`${name}_${end}`]?.[0]);
    delete filters[`${name}_low`];
    delete filters[`${name}_high`];
    if (ends.some((end) => end !== undefined))
      filters[name] = ends.map((end) => (end === undefined ? null : Number(end)));
  }
  if (filters.bpm && state.filters.octaves) filters.octaves = true;
  return filters;
}

export function focusFilters() {
  root.open = true;
  find("input", root).focus();
}

const known = (counts) => Object.keys(counts).filter((name) => name !== "");

function read() {
  const filters = {};
  for (const [name, value] of new FormData(form)) if (value !== "") (filters[name] ??= []).push(value);
  state.filters = filters;
  const count = Object.keys(filters).length;
  slot("count", root).textContent = count ? `${count} set` : "";
}
