// The ranking: rows that are reused from one slider position to the next, a selection that follows its item.

import { exported, post } from "./api.js";
import { attempt, download, el, find, findAll, fixed, tell, tint } from "./dom.js";
import { where } from "./filters.js";
import { player } from "./player.js";
import { save, state } from "./state.js";
import { routing } from "./weights.js";

const PAGE = 50;

const body = find("#rows");
let library;
let query = null;
let asked = PAGE; // number of hits
let hits = []; // of the latest ranking
let total = 0;
let weights = {}; // of the latest ranking
let filtered = false; // whether it had filters
let busy = false;
let again = false;
let rows = new Map(); // item -> Row, of the rows that are shown

/** Prepare the table for a library; `onsimilar(hit)` starts a search with a hit. */
export function setupResults(opened, onsimilar) {
  library = opened;
  find("#more").addEventListener("click", () => {
    asked = Math.min(asked + PAGE, library.limits.hits);
    rank();
  });
  find("#favourites").addEventListener("change", draw);
  find("#export").addEventListener("click", openExport);
  find("#exporting").addEventListener("close", () => attempt(exportChosen));
  find("#similar").addEventListener("click", () => searchSimilar(onsimilar));
  for (const button of findAll("[data-mark]"))
    button.addEventListener("click", () => attempt(() => judge(button.dataset.mark === "alike")));
  draw();
}

/** Rank for another query, or show nothing. */
export function setQuery(held) {
  query = held;
  asked = PAGE;
  return rank();
}

/** Ask for the ranking of the sliders' position. One request is under way at a time; the newest position wins. */
export async function rank() {
  if (!query) return;
  again = true;
  if (busy) return;
  busy = true;
  while (again) {
    again = false;
    const wanted = routing();
    if (!Object.keys(wanted).length) {
      [hits, total, weights] = [[], 0, wanted];
      draw();
      continue;
    }
    const conditions = where();
    const body = { weights: wanted, where: conditions, k: asked };
    const answer = await attempt(() => post(`/api/query/${query.id}/rank`, body));
    if (!answer) continue;
    ({ hits, total } = answer);
    weights = wanted;
    filtered = Object.keys(conditions).length > 0;
    draw();
  }
  busy = false;
}

/** Select and play the row `step` below the selected one, or the first. */
export function move(step) {
  const shown = [...rows.keys()];
  const index = shown.indexOf(state.selected);
  const item = index < 0 ? shown[0] : shown[Math.min(shown.length - 1, Math.max(0, index + step))];
  if (item) select(item);
}

export function toggleFavourite(item = state.selected) {
  const at = state.favourites.findIndex((hit) => hit.item === item);
  if (at >= 0) state.favourites.splice(at, 1);
  else if (rows.has(item)) state.favourites.push(rows.get(item).hit);
  save();
  draw();
}

export async function searchSimilar(onsimilar) {
  if (rows.has(state.selected)) onsimilar(rows.get(state.selected).hit);
}

/** Mark the selected result as alike or not: votes follow from the marks on one reference. */
export async function judge(alike) {
  if (!query || !rows.has(state.selected)) return;
  const { name } = rows.get(state.selected).hit;
  const { votes } = await post(`/api/query/${query.id}/alike`, { item: state.selected, alike });
  tell(
    `${name} is marked as ${alike ? "alike" : "not alike"}: ${votes} ${votes === 1 ? "vote" : "votes"} on this reference.`,
    { error: false },
  );
}

export function openExport() {
  const form = find("#exporting form");
  for (const [which, list] of Object.entries({ favourites: state.favourites, shown: [...rows.keys()] })) {
    const radio = form.elements.which[which === "favourites" ? 0 : 1];
    radio.disabled = !list.length;
    find("b", radio.parentElement).textContent = list.length;
  }
  form.elements.which.value = rows.size ? "shown" : "favourites";
  find("#exporting").returnValue = "";
  find("#exporting").showModal();
}

async function exportChosen() {
  if (find("#exporting").returnValue !== "export") return;
  const { which, format } = Object.fromEntries(new FormData(find("#exporting form")));
  const items = which === "favourites" ? state.favourites.map((hit) => hit.item) : [...rows.keys()];
  if (!items.length) throw new Error("Nothing to export: search first, or mark favourites with F.");
  const ranked = query && Object.keys(weights).length ? { query: query.id, weights } : {};
  const { blob, name } = await exported({ items, format, ...ranked });
  download(blob, name);
  tell(`Exported ${items.length} ${items.length === 1 ? "sound" : "sounds"} to ${name}.`, { error: false });
}

function select(item) {
  state.selected = item;
  save();
  mark();
  const { row } = rows.get(item);
  if (document.activeElement === document.body || body.contains(document.activeElement))
    row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
  player.choose("result", sound(rows.get(item).hit));
  for (const near of [row.nextElementSibling, row.previousElementSibling])
    if (near) player.load(audioOf(near.dataset.item)).catch(() => {}); // told when it is selected
}

const audioOf = (item) => `/audio/item/${item}`;

/** Show the selected result in the player, without a sound. */
export function showSelected() {
  player.choose("result", rows.has(state.selected) ? sound(rows.get(state.selected).hit) : null, { heard: false });
}

function sound(hit) {
  const details = [...contributions(hit).map(([stem, value]) => `${stem} ${fixed(value, 2)}`), hit.path.split(/[/\\]/).slice(-3).join("/")];
  return {
    path: audioOf(hit.item),
    gain: hit.gain_db,
    label: hit.name,
    details: details.join(" · "),
    peaks: `/api/item/${hit.item}/peaks?`,
  };
}

const contributions = (hit) => Object.entries(hit.contributions).map(([pair, value]) => [pair.split(":")[0], value]);

function draw() {
  const only = find("#favourites").checked;
  const ranked = new Map(hits.map((hit, index) => [hit.item, [hit, index + 1]]));
  const shown = only ? state.favourites.map((hit) => ranked.get(hit.item) ?? [hit, null]) : [...ranked.values()];
  const scale = barScale(shown.map(([hit]) => hit));
  rows = new Map(
    shown.map(([hit, place]) => {
      const row = rows.get(hit.item) ?? new Row(hit);
      row.update(hit, place, scale);
      return [hit.item, row];
    }),
  );
  body.replaceChildren(...[...rows.values()].map(({ row }) => row));
  mark();
  if (rows.has(state.selected) && !find("#search").hidden) showSelected(); // with its new contributions
  find("#favourites + span b").textContent = state.favourites.length;
  find("#found").textContent = heading(only);
  find("table", find("#search")).hidden = !rows.size;
  find("#empty").hidden = rows.size > 0 || query !== null || only;
  find("#more").hidden = only || hits.length < asked || asked === library.limits.hits;
}

function heading(only) {
  if (only) return rows.size ? "Favourites" : "No favourites yet: F marks the selected sound";
  if (!query) return "Results";
  if (!Object.keys(routing()).length) return "Every slider is at zero: raise one";
  if (filtered && hits.length) return `The ${hits.length} most similar that pass the filters`;
  return hits.length ? `The ${hits.length} most similar of ${total} sounds` : "No sound passes these filters";
}

/** How wide bars are: `full` is the sum of all weights, `below` the largest sum of negative contributions. */
function barScale(shown) {
  const full = Object.values(weights).reduce((sum, weight) => sum + Math.abs(weight), 0) || 1;
  const negative = shown.map((hit) => contributions(hit).reduce((sum, [, value]) => sum + Math.max(0, -value), 0));
  return { full, below: Math.max(0, ...negative) / full };
}

function mark() {
  for (const [item, { row }] of rows) {
    const selected = item === state.selected;
    row.ariaSelected = String(selected);
    row.tabIndex = selected ? 0 : -1;
  }
  if (!rows.has(state.selected) && body.firstChild) body.firstChild.tabIndex = 0;
  find("#similar").disabled = !rows.has(state.selected);
}

class Row {
  constructor(hit) {
    const cell = (name, ...children) => el("td", { role: "gridcell", className: name }, ...children);
    this.star = el("button", {
      type: "button",
      className: "star",
      tabIndex: -1,
      textContent: "★",
      onclick: (event) => {
        event.stopPropagation();
        toggleFavourite(hit.item);
      },
    });
    this.place = cell("n place soft");
    this.similarity = cell("n similarity");
    this.folded = el("span", { className: "soft" });
    this.spacer = el("i", { className: "spacer" });
    this.parts = library.stems.map((stem) => tint(el("i", { title: stem.name }), stem.color));
    this.bar = el("div", { className: "contributions", role: "img" }, this.spacer, ...this.parts);
    const tags = [...hit.categories, ...(hit.type ? [hit.type] : [])].join(", ");
    this.row = el(
      "tr",
      { role: "row", onclick: () => select(hit.item) },
      cell("mark", this.star),
      this.place,
      cell("name", el("span", { title: hit.path }, hit.name), at(hit), this.folded),
      this.similarity,
      cell("wide", this.bar),
      cell("n bpm", fixed(hit.bpm, 0)),
      cell("key", hit.musical_key ?? ""),
      cell("n length", fixed(hit.duration, 1)),
      cell("tags", tags),
      cell("folder soft", el("span", { title: hit.path }, hit.folder.split(/[/\\]/).at(-1))),
    );
    this.row.dataset.item = hit.item;
  }

  update(hit, place, { full, below }) {
    this.hit = hit;
    const favourite = state.favourites.some((one) => one.item === hit.item);
    this.star.ariaPressed = String(favourite);
    this.star.ariaLabel = favourite ? "Remove from favourites" : "Add to favourites";
    this.place.textContent = place ?? "";
    this.similarity.textContent = place ? fixed(hit.percent, 1) : "";
    this.folded.textContent = hit.folded ? ` +${hit.folded} alike` : "";
    const values = place ? contributions(hit) : [];
    const byStem = Object.fromEntries(values);
    const width = (value) => `${(100 * Math.abs(value)) / full / (1 + below)}%`;
    const negative = values.reduce((sum, [, value]) => sum + Math.max(0, -value), 0);
    this.spacer.style.width = width(below * full - negative);
    for (const [index, { name }] of library.stems.entries()) {
      const value = byStem[name] ?? 0;
      this.parts[index].style.width = width(value);
      this.parts[index].classList.toggle("negative", value < 0);
    }
    this.bar.ariaLabel = values.map(([stem, value]) => `${stem} ${fixed(value, 2)}`).join(", ");
  }
}

function at(hit) {
  const part = hit.file_duration - hit.duration > 0.1;
  return el(
    "span",
    { className: "soft" },
    part ? ` at ${Math.floor(hit.start / 60)}:${String(Math.floor(hit.start % 60)).padStart(2, "0")}` : "",
  );
}
