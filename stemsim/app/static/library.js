// The library page: what is in it, what could not be added, adding a folder, recall of its index.

import { cancel, follow, get, post, stageText } from "./api.js";
import { attempt, el, facts, find, fixed, slot, table, tell } from "./dom.js";
import { fillFilters } from "./filters.js";
import { rank } from "./results.js";

const root = find("#library");

export function setupLibrary(library) {
  show(library);
  find("#add").addEventListener("submit", (event) => {
    event.preventDefault();
    const { folder, follow_links: links } = event.target.elements;
    const body = { folder: folder.value, follow_links: links.checked };
    attempt(() => work("adding", post("/api/library/add", body), grown));
  });
  find("#recall").addEventListener("click", () =>
    attempt(() => work("recall", post("/api/library/recall", {}), recallTable)),
  );
}

/** Follow a job that was started, then show in its place what `report` makes of its result. */
async function work(place, started, report) {
  tell();
  const { job } = await started;
  const progress = el("progress", { max: 1 });
  const stage = el("span", { role: "status" });
  const stop = el("button", { type: "button", onclick: () => attempt(() => cancel(job)) }, "Cancel");
  slot(place, root).replaceChildren(el("div", { className: "progress" }, progress, stage, stop));
  try {
    const { result } = await follow(job, (state) => {
      progress.value = state.progress;
      stage.textContent = stageText(state);
    });
    slot(place, root).replaceChildren(await report(result));
  } catch (error) {
    slot(place, root).replaceChildren();
    throw error;
  }
}

async function grown({ added, replaced, unchanged, failures }) {
  const library = await get("/api/library");
  show(library);
  fillFilters(library);
  rank();
  const done = `${added} files added, ${replaced} replaced, ${unchanged} unchanged`;
  return el("p", {}, `${done}; ${failures.length} could not be added.`);
}

function recallTable({ sentence, rows }) {
  const cell = (value) => (typeof value === "number" ? [fixed(value, Number.isInteger(value) ? 0 : 3)] : value);
  const names = Object.keys(rows[0]).map((name, column) => (column ? [name] : name));
  const cells = rows.map((row) => Object.values(row).map(cell));
  return el("div", {}, el("p", {}, sentence), table(names, cells));
}

function show(library) {
  const { root: folder, items, files, stats, failures } = library;
  find("#where").textContent = `${items} sounds in ${files} files`;
  find("#where").title = folder;
  const counted = (counts) =>
    Object.entries(counts)
      .map(([name, count]) => `${name || "unknown"} ${count}`)
      .join(", ") || "none";
  const entries = {
    Folder: folder,
    Sounds: `${items}, windows of ${library.window_s} s at most`,
    Files: `${files}, ${fixed(stats.hours, 1)} hours`,
    Model: library.model ?? "none: every stem counts once",
    Separator: library.separator,
    Encoder: library.encoder,
    Types: counted(stats.types),
    Categories: counted(stats.categories),
    "With tempo": stats.with_bpm,
    "With key": stats.with_key,
    "Sounding stems": counted(stats.stems),
    "Silent files": stats.silent,
    "Missing files": stats.missing,
  };
  slot("stats", root).replaceChildren(facts(Object.entries(entries)));
  const failed = failures.map(({ path, reason }) => [el("span", { className: "path" }, path), reason]);
  const none = el("p", { className: "soft" }, "Nothing: every file could be read.");
  slot("failures", root).replaceChildren(failed.length ? table(["File", "Reason"], failed) : none);
}
