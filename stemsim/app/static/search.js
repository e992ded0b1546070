// The search page: a reference, sliders and filters on the left, the ranking on the right.

import { post } from "./api.js";
import { attempt, find } from "./dom.js";
import { focusFilters, setupFilters } from "./filters.js";
import { Intake } from "./intake.js";
import { bind } from "./keys.js";
import { player } from "./player.js";
import {
  judge,
  move,
  openExport,
  rank,
  searchSimilar,
  setQuery,
  setupResults,
  showSelected,
  toggleFavourite,
} from "./results.js";
import { save, state } from "./state.js";
import { focusStem, setupWeights, showStems, soloStem } from "./weights.js";

let query = null;

export function setupSearch(library) {
  const intake = new Intake(find("#reference"), find("#search"), "Drop a song", ready, remember);
  const similar = ({ item }) => intake.take(() => post("/api/query", { item }));
  setupWeights(library, rank, hearStem);
  setupFilters(library, rank);
  setupResults(library, similar);
  const words = find("#words");
  words.hidden = !library.encodes_text;
  words.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = words.elements.text.value.trim();
    if (text) intake.take(() => post("/api/query", { text }));
  });
  bindKeys(library, similar);
  if (state.query) attempt(() => intake.resume(state.query));
  state.query = null; // until it is shown: the server may not hold it any more
}

/** Show the reference in the player again, after another page used it. */
export function showReference() {
  if (query && query.kind !== "text") player.choose("x", stemSound("mix"), { heard: false });
  else player.choose("x", null, { heard: false });
  showSelected();
}

const stemSound = (stem) => ({
  path: `/audio/query/${query.id}/${stem}`,
  seconds: query.span[1] - query.span[0],
  label: stem,
  gain: 0,
});
const hearStem = (stem) => player.choose("x", stemSound(stem));

/** Keep the query, ready or being taken in, for the next time the page is loaded. */
function remember(id) {
  state.query = id;
  save();
}

function ready(held) {
  player.stop();
  query = held;
  remember(held.id);
  showStems(held);
  showReference();
  setQuery(held);
}

function bindKeys(library, similar) {
  bind("ArrowDown", "select and play the next result", () => move(1), { shown: "↓" });
  bind("ArrowUp", "select and play the one before", () => move(-1), { shown: "↑" });
  bind("f", "mark the result as a favourite", () => toggleFavourite(), { shown: "F" });
  bind("m", "more like this: search with the result", () => searchSimilar(similar), { shown: "M" });
  bind("e", "export", openExport, { shown: "E" });
  bind("/", "filters", focusFilters);
  if (library.listens) {
    bind("+", "a vote: the result is alike", () => attempt(() => judge(true)));
    bind("-", "a vote: the result is not alike", () => attempt(() => judge(false)));
  }
  library.stems.forEach((stem, index) => {
    const first = index === 0;
    bind(String(index + 1), first && "give the keyboard to a slider", () => focusStem(index), {
      shown: `1 to ${library.stems.length}`,
    });
    bind(`Shift+${index + 1}`, first && "listen for one stem only", () => soloStem(index), {
      shown: `Shift + 1 to ${library.stems.length}`,
    });
  });
}
