// The compare page: two files, stem by stem.

import { post } from "./api.js";
import { attempt, el, find, fixed, hearButton, stemName, tint } from "./dom.js";
import { Intake } from "./intake.js";
import { player } from "./player.js";

const root = find("#compare");
const pair = { x: null, a: null };
let colors;

export function setupCompare(library) {
  colors = new Map(library.stems.map((stem) => [stem.name, stem]));
  const slots = { x: ["#left", "First sound"], a: ["#right", "Second sound"] };
  for (const [role, [place, prompt]] of Object.entries(slots)) {
    const zone = find(place);
    new Intake(zone, zone, prompt, (query) => {
      pair[role] = query;
      if (pair.x && pair.a) attempt(compare);
    });
  }
}

async function compare() {
  const { similarity, stems } = await post("/api/compare", { x: pair.x.id, a: pair.a.id });
  const sounds = { ...pair };
  find("#verdict").textContent = `Similarity ${fixed(similarity, 3)} of at most ${fixed(stems.reduce((sum, stem) => sum + Math.abs(stem.weight), 0), 2)}`;
  const most = Math.max(...stems.map((stem) => Math.abs(stem.weight)));
  find("tbody", root).replaceChildren(...stems.map((stem) => row(stem, most, sounds)));
  find("tfoot", root).replaceChildren(el("tr", {}, el("th", {}, "Sum"), ...[1, 2, 3, 4].map(() => el("td")), el("td", { className: "n" }, fixed(similarity, 3))));
  find("table", root).hidden = false;
  find(".empty", root).hidden = true;
}

function row({ stem, cosine, weight, contribution, silent }, most, sounds) {
  const hear = Object.entries(sounds).map(([role, query]) => {
    const button = hearButton(`the ${stem} of ${query.name}`, () => choose(stem, role, sounds));
    button.disabled = silent === role || silent === "both";
    return button;
  });
  const part = (value, name) => {
    const bar = tint(el("i", { className: name }), colors.get(stem).color);
    bar.style.width = `${(100 * Math.abs(value)) / most}%`;
    return bar;
  };
  const where = { x: "silent in the first", a: "silent in the second", both: "silent in both" }[silent];
  const picture = where ? el("span", { className: "soft" }, where) : el("div", { className: "contributions" }, part(contribution, contribution < 0 ? "negative" : ""), part(Math.abs(weight) - Math.abs(contribution), "rest"));
  return el("tr", {}, el("th", {}, stemName(colors.get(stem))), el("td", { className: "hears" }, ...hear), el("td", { className: "wide" }, picture),
    el("td", { className: "n" }, cosine === null ? "–" : fixed(cosine, 3)), el("td", { className: "n" }, fixed(weight, 2)), el("td", { className: "n" }, fixed(contribution, 3)));
}

function choose(stem, role, sounds) {
  const sound = (query) => ({ path: `/audio/query/${query.id}/${stem}`, seconds: query.span[1] - query.span[0], label: `${stem} of ${query.name}`, gain: 0, peaks: `/api/query/${query.id}/peaks?stem=${stem}&` });
  player.choose("x", { ...sound(sounds.x), label: stem }, { heard: role === "x" });
  player.choose("result", sound(sounds.a), { heard: role === "a" });
}
