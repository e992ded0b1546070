// The compare page: two files, stem by stem.

import { post } from "./api.js";
import { attempt, bar, el, find, fixed, hearButton, stemName, table } from "./dom.js";
import { Intake } from "./intake.js";
import { player } from "./player.js";

const HEAD = ["Stem", "Hear", "Contribution, of its weight", ["Cosine"], ["Weight"], ["Product"]];
const SILENT = { x: "silent in the first", a: "silent in the second", both: "silent in both" };

const pair = {}; // x and a: queries

export function setupCompare(library) {
  const colors = new Map(library.stems.map((stem) => [stem.name, stem]));
  const slots = { x: ["#left", "First sound"], a: ["#right", "Second sound"] };
  for (const [role, [place, prompt]] of Object.entries(slots)) {
    const zone = find(place);
    new Intake(zone, zone, prompt, (query) => {
      pair[role] = query;
      if (pair.x && pair.a) attempt(() => compare(colors));
    });
  }
}

async function compare(colors) {
  const { similarity, stems } = await post("/api/compare", { x: pair.x.id, a: pair.a.id });
  const weights = stems.map(({ weight }) => Math.abs(weight));
  const full = weights.reduce((sum, weight) => sum + weight, 0);
  find("#verdict").textContent = `Similarity ${fixed(similarity, 3)} of at most ${fixed(full, 2)}`;
  const rows = stems.map((stem) => row(stem, colors.get(stem.stem), Math.max(...weights)));
  const sum = ["Sum", "", "", "", "", [fixed(similarity, 3)]];
  find("#comparison").replaceChildren(table(HEAD, rows, [sum]));
}

function row({ stem, cosine, weight, contribution, silent }, color, most) {
  const sounds = { x: soundOf(pair.x, stem), a: soundOf(pair.a, stem) };
  const hear = Object.entries(sounds).map(([role, sound]) => {
    const button = hearButton(`the ${sound.label}`, () => {
      player.choose("x", { ...sounds.x, label: stem }, { heard: role === "x" });
      player.choose("result", sounds.a, { heard: role === "a" });
    });
    button.disabled = silent === role || silent === "both";
    return button;
  });
  const [counted, whole] = [Math.abs(contribution), Math.abs(weight)];
  const picture = silent
    ? el("span", { className: "soft" }, SILENT[silent])
    : bar(
        [counted / most, color.color, contribution < 0 ? "negative" : ""],
        [(whole - counted) / most, color.color, "rest"],
      );
  const numbers = [fixed(cosine, 3) || "–", fixed(weight, 2), fixed(contribution, 3)].map((text) => [text]);
  return [stemName(color), el("span", { className: "hears" }, ...hear), picture, ...numbers];
}

const soundOf = (query, stem) => ({
  path: `/audio/query/${query.id}/${stem}`,
  seconds: query.span[1] - query.span[0],
  label: `${stem} of ${query.name}`,
  gain: 0,
  peaks: `/api/query/${query.id}/peaks?stem=${stem}&`,
});
