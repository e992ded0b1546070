// Start of the page: reads the library, sets up the pages behind the tabs, and switches between them.

import { get } from "./api.js";
import { setupCompare } from "./compare.js";
import { attempt, find, findAll, slot, tell } from "./dom.js";
import { bind, showKeys } from "./keys.js";
import { setupLibrary } from "./library.js";
import { showModel } from "./model.js";
import { player, restorePlayer } from "./player.js";
import { setupSearch, showReference } from "./search.js";
import { restore } from "./state.js";

function showTab() {
  const wanted = location.hash.slice(1) || "search";
  for (const section of findAll("main > section")) section.hidden = section.id !== wanted;
  for (const link of findAll("nav a")) link.ariaCurrent = link.hash === `#${wanted}` ? "page" : null;
  find("#similar").hidden = wanted !== "search";
  find("#marks").hidden = wanted !== "search" || slot("listen").hidden;
  player.forget();
  if (wanted === "search") showReference();
}

function escape() {
  if (document.activeElement.matches("input, select")) document.activeElement.blur();
  else player.stop();
  tell();
}

bind(" ", "play or stop", () => (player.playing ? player.stop() : player.hear(player.heard)), {
  tab: "",
  shown: "space",
});
bind("x", "switch between the reference and the result", () => player.toggle(), { tab: "", shown: "X" });
bind("Escape", "stop; leave a field", escape, { tab: "", shown: "Esc" });
bind("?", "these keys", showKeys, { tab: "" });
find("#help").addEventListener("click", showKeys);

// Else a file that is dropped beside the places for it replaces the page.
for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());

await attempt(async () => {
  const library = await get("/api/library");
  restore(library.root);
  document.title = `${library.root.split("/").pop()} · stemsim`;
  slot("listen").hidden = !library.listens;
  restorePlayer();
  setupSearch(library);
  setupCompare(library);
  setupLibrary(library);
  await showModel(library);
  addEventListener("hashchange", showTab);
  showTab();
});
