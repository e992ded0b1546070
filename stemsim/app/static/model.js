// The model page: the weights in use and what is known about them.

import { get } from "./api.js";
import { bar, el, facts, fixed, find, stemName, table } from "./dom.js";

const soft = (text) => el("p", { className: "soft" }, text);

export async function showModel(library) {
  find("#model").replaceChildren(...(library.model ? card(await get("/api/model"), library) : noModel(library)));
}

const noModel = ({ separator, encoder }) => [
  el("h2", {}, "No fitted model"),
  el("p", {}, "This library was made without weights that were fitted to listeners: every stem counts once."),
  facts([
    ["Separator", separator],
    ["Encoder", encoder],
  ]),
];

function card(model, { stems }) {
  const origin = {
    Fitted: model.fitted,
    "Measured on": model.measured_on,
    Encoder: model.encoder,
    Separator: model.separator,
    Fusion: model.fusion,
    License: model.license,
    "Please cite": model.citation,
  };
  return [
    el("h2", {}, model.name),
    el("p", {}, model.summary),
    el("h3", {}, "Weights"),
    ...(model.weights.length ? weights(model.weights, stems) : [soft("A nonlinear fusion: it has no weights.")]),
    el("h3", {}, "Agreement with listeners"),
    soft("Share of triplets on which the pick is what most listeners chose, as the model's card states it."),
    table([], model.agreement.map(agreementRow)),
    el("h3", {}, "Origin and licenses"),
    facts(Object.entries(origin).filter(([, value]) => value)),
  ];
}

function weights(fitted, stems) {
  const most = Math.max(...fitted.map(({ weight }) => Math.abs(weight)));
  const rows = fitted.map(({ stem, weight, low, high }) => {
    const of = stems.find(({ name }) => name === stem);
    const picture = bar([Math.abs(weight) / most, of.color, weight < 0 ? "negative" : ""]);
    return [stemName(of), picture, [fixed(weight, 2)], [low === null ? "" : `${fixed(low, 2)} to ${fixed(high, 2)}`]];
  });
  const stated = fitted.some(({ low }) => low !== null);
  return [table([], rows), ...(stated ? [] : [soft("The card states no spread of these weights.")])];
}

function agreementRow({ of, percent, spread }) {
  const figure = percent === null ? "not available" : `${fixed(percent, 1)} %`;
  return [of, bar([(percent ?? 0) / 100, "var(--soft)"]), [figure], [spread ? `± ${fixed(spread, 1)}` : ""]];
}
