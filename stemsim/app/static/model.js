// The model page: the weights in use and what is known about them.

import { get } from "./api.js";
import { el, facts, fixed, find, stemName, tint } from "./dom.js";

const root = find("#model");

export async function showModel(library) {
  if (!library.model) {
    root.replaceChildren(el("h2", {}, "No fitted model"), el("p", {}, "This library was made without weights that were fitted to listeners: every stem counts once until you move a slider."),
      facts([["Separator", library.separator], ["Encoder", library.encoder]]));
    return;
  }
  const card = await get("/api/model");
  const colors = new Map(library.stems.map((stem) => [stem.name, stem]));
  const origin = [["Fitted", card.fitted], ["Measured on", card.measured_on], ["Encoder", card.encoder], ["Separator", card.separator], ["Fusion", card.fusion], ["License", card.license], ["Please cite", card.citation]];
  root.replaceChildren(
    el("h2", {}, card.name), el("p", {}, card.summary),
    el("h3", {}, "Weights"), card.weights.length ? weightTable(card.weights, colors) : el("p", {}, "The model is not a weighted sum of the stems, but a nonlinear fusion of them."),
    el("h3", {}, "Agreement with listeners"),
    el("p", { className: "soft" }, "Share of triplets on which the pick is what most listeners chose, as the model's card states it."),
    agreementTable(card.agreement),
    el("h3", {}, "Origin and licenses"), facts(origin.filter(([, value]) => value)));
}

function weightTable(weights, colors) {
  const most = Math.max(...weights.map(({ weight, high }) => Math.abs(high ?? weight)));
  const rows = weights.map(({ stem, weight, low, high }) => {
    const bar = tint(el("i"), colors.get(stem).color);
    bar.style.width = `${(100 * Math.abs(weight)) / most}%`;
    bar.classList.toggle("negative", weight < 0);
    const spread = low === null ? "" : `${fixed(low, 2)} to ${fixed(high, 2)}`;
    return el("tr", {}, el("th", {}, stemName(colors.get(stem))), el("td", { className: "wide" }, el("div", { className: "contributions" }, bar)), el("td", { className: "n" }, fixed(weight, 2)), el("td", { className: "n soft" }, spread));
  });
  const without = weights.every(({ low }) => low === null);
  const note = without ? el("p", { className: "soft" }, "The card states no spread of these weights.") : null;
  return el("div", {}, el("table", { className: "plain" }, el("tbody", {}, ...rows)), ...(note ? [note] : []));
}

function agreementTable(agreement) {
  const rows = agreement.map(({ of, percent, spread }) => {
    const bar = tint(el("i"), "var(--soft)");
    bar.style.width = `${percent ?? 0}%`;
    return el("tr", {}, el("th", {}, of), el("td", { className: "wide" }, el("div", { className: "contributions" }, bar)), el("td", { className: "n" }, percent === null ? "not available" : `${fixed(percent, 1)} %`), el("td", { className: "n soft" }, spread ? `± ${fixed(spread, 1)}` : ""));
  });
  return el("table", { className: "plain" }, el("tbody", {}, ...rows));
}
