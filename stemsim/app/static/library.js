// The library page: what is in it, what could not be added, adding a folder, recall of its index.

import { cancel, follow, get, post } from "./api.js";
import { attempt, el, facts, find, fixed, slot, tell } from "./dom.js";
import { fillFilters } from "./filters.js";
import { rank } from "./results.js";

const root = find("#library");

export function setupLibrary(library) {
  show(library);
  find("#add").addEventListener("submit", (event) => {
    event.preventDefault();
    const { folder, follow_links: links } = event.target.elements;
    attempt(() => work("adding", post("/api/library/add", { folder: folder.value, follow_links: links.checked }), grown));
  });
  find("#recall").addEventListener("click", () => attempt(() => work("recall", post("/api/library/recall", {}), recallTable)));
}

/** Say how large the library is, at the head of the page. */
export function showWhere({ root: folder, items, files }) {
  find("#where").textContent = `${items} sounds in ${files} files`;
  find("#where").title = folder;
}

async function work(place, started, report) {
  tell();
  const { job } = await started;
  const bar = el("progress", { max: 1 });
  const stage = el("span", { role: "status" });
  slot(place, root).replaceChildren(el("div", { className: "progress" }, bar, stage, el("button", { type: "button", onclick: () => attempt(() => cancel(job)) }, "Cancel")));
  try {
    const { result } = await follow(job, (state) => {
      bar.value = state.progress;
      stage.textContent = state.seconds_left ? `${state.stage}, about ${Math.ceil(state.seconds_left)} s left` : state.stage;
    });
    slot(place, root).replaceChildren(await report(result));
  } catch (error) {
    slot(place, root).replaceChildren();
    throw error;
  }
}

async function grown(result) {
  const library = await get("/api/library");
  show(library);
  fillFilters(library);
  rank();
  const { added, replaced, unchanged, failures } = result;
  return el("p", {}, `${added} files added, ${replaced} replaced, ${unchanged} unchanged; ${failures.length} could not be added.`);
}

function recallTable({ sentence, rows }) {
  const names = Object.keys(rows[0]);
  const cell = (value) => el("td", {}, typeof value === "number" && !Number.isInteger(value) ? fixed(value, 3) : String(value));
  const body = rows.map((row) => el("tr", {}, ...names.map((name) => cell(row[name]))));
  return el("div", { className: "scroll" }, el("p", {}, sentence), el("table", { className: "plain" }, el("thead", {}, el("tr", {}, ...names.map((name) => el("th", {}, name.replaceAll("_", " "))))), el("tbody", {}, ...body)));
}

function show(library) {
  showWhere(library);
  const { stats } = library;
  const counted = (counts) => Object.entries(counts).map(([name, count]) => `${name || "unknown"} ${count}`).join(", ") || "none";
  slot("stats", root).replaceChildren(facts([
    ["Folder", library.root], ["Sounds", `${library.items}, windows of ${library.window_s} s at most`], ["Files", `${library.files}, ${fixed(stats.hours, 1)} hours`],
    ["Model", library.model ?? "none: every stem counts once"], ["Separator", library.separator], ["Encoder", library.encoder],
    ["Types", counted(stats.types)], ["Categories", counted(stats.categories)], ["With tempo", stats.with_bpm], ["With key", stats.with_key],
    ["Sounding stems", counted(stats.stems)], ["Silent files", stats.silent], ["Missing files", stats.missing],
  ]));
  const rows = library.failures.map(({ path, reason }) => el("tr", {}, el("td", { className: "path" }, path), el("td", {}, reason)));
  slot("failures", root).replaceChildren(rows.length
    ? el("table", { className: "plain" }, el("thead", {}, el("tr", {}, el("th", {}, "File"), el("th", {}, "Reason"))), el("tbody", {}, ...rows))
    : el("p", { className: "soft" }, "Nothing: every file could be read."));
}
