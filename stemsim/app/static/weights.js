// One slider for each stem, and what they mean together: the routing of a search.

import { download, el, fixed, find, findAll, hearButton, setSlider, slot, stemName, tell, tint } from "./dom.js";
import { save, state } from "./state.js";

const FULL = 2; // the largest fitted weights are just below
const MODES = {
  song: "Drums are compared with drums, bass with bass, and the mix with the mix.",
  loops: "Each stem of the reference is compared with whole sounds: “drums” finds loops that sound like its drums.",
};

const root = find("#weights");
let stems = []; // {name, color}
let learned = null;
let rows = new Map(); // stem -> {range, number, mute, silent}
let changed;

const equal = () => Object.fromEntries(stems.map(({ name }) => [name, 1]));

/** Draw the sliders of a library; `onchange()` is called when any moves, `onhear(stem)` to hear a stem. */
export function setupWeights(library, onchange, onhear) {
  ({ stems, learned } = library);
  changed = onchange;
  const known = state.weights && stems.every(({ name }) => name in state.weights);
  if (!known) state.weights = learned ?? equal();
  rows = new Map(stems.map((stem, index) => [stem.name, makeRow(stem, index, onhear)]));
  slot("sliders", root).replaceChildren(...[...rows.values()].map(({ row }) => row));
  const button = find("[data-act=learned]", root);
  button.disabled = !learned;
  if (!learned) button.title = "This library was made without fitted weights";
  const chooser = find("input[type=file]", root);
  const actions = {
    learned: () => set(learned),
    equal: () => set(equal()),
    save: () => download(new Blob([`${routingText()}\n`], { type: "text/plain" }), "weights.txt"),
    load: () => chooser.click(),
  };
  for (const [name, action] of Object.entries(actions))
    find(`[data-act=${name}]`, root).addEventListener("click", action);
  chooser.addEventListener("change", async () => {
    const [file] = chooser.files;
    if (file) loadPreset(await file.text(), file.name);
    chooser.value = "";
  });
  for (const radio of findAll("[name=mode]", root))
    radio.addEventListener("change", () => set({}, radio.value === "loops"));
  show();
}

/** The weights of a search: `{stem: weight}` or `{"stem:mix": weight}`, without zeros and silent stems. */
export function routing() {
  const sounding = stems.map(({ name }) => name).filter((name) => state.weights[name] !== 0 && !rows.get(name).silent);
  const target = (name) => (state.loops && name !== "mix" ? `${name}:mix` : name);
  return Object.fromEntries(sounding.map((name) => [target(name), state.weights[name]]));
}

/** Switch off the sliders of silent stems; hide what cannot be heard. `query` is as the server describes it. */
export function showStems(query) {
  for (const [name, row] of rows) {
    row.silent = query.stems.find((stem) => stem.name === name)?.silent ?? false;
    row.hear.disabled = row.silent || query.kind === "text";
  }
  show();
}

/** Give the keyboard to the slider of the stem at `index`. */
export const focusStem = (index) => [...rows.values()][index]?.range.focus();

/** Listen for the stem at `index` only. */
export const soloStem = (index) => stems[index] && only(stems[index].name);

const only = (wanted) => set(Object.fromEntries(stems.map(({ name }) => [name, Number(name === wanted)])));

function set(weights, loops = state.loops) {
  Object.assign(state, { weights: { ...state.weights, ...weights }, loops });
  show();
  save();
  changed();
}

function makeRow(stem, index, onhear) {
  const { name } = stem;
  const move = (event) => Number.isFinite(event.target.valueAsNumber) && set({ [name]: event.target.valueAsNumber });
  const range = el("input", {
    type: "range",
    max: FULL,
    step: 0.01,
    id: `weight-${name}`,
    oninput: move,
    title: `${name} (${index + 1})`,
  });
  const number = el("input", { type: "number", step: "any", ariaLabel: `Weight of ${name}, exact`, onchange: move });
  const solo = el(
    "button",
    {
      type: "button",
      onclick: () => only(name),
      ariaLabel: `Only ${name}`,
      title: `Only ${name}: solo (Shift+${index + 1})`,
    },
    "S",
  );
  let before = 1;
  const mute = el(
    "button",
    {
      type: "button",
      ariaLabel: `Mute ${name}`,
      title: `Mute ${name}`,
      onclick: () => {
        if (state.weights[name]) before = state.weights[name];
        set({ [name]: state.weights[name] ? 0 : before });
      },
    },
    "M",
  );
  const hear = hearButton(`the ${name} of the reference`, () => onhear(name));
  hear.disabled = true;
  const label = el("label", { htmlFor: range.id }, stemName(stem));
  const row = tint(el("div", { className: "slider" }, hear, label, range, number, solo, mute), stem.color);
  return { row, range, number, solo, mute, hear, silent: false };
}

function show() {
  for (const [name, { row, range, number, solo, mute, silent }] of rows) {
    const weight = state.weights[name];
    range.min = weight < 0 ? -FULL : 0; // below 0: the less alike, the better
    setSlider(range, weight);
    if (document.activeElement !== number) number.value = fixed(weight, 2);
    mute.ariaPressed = String(weight === 0);
    for (const control of [range, number, solo, mute]) control.disabled = silent;
    row.classList.toggle("silent", silent);
    row.ariaLabel = silent ? `${name} is silent` : null;
  }
  const mode = state.loops ? "loops" : "song";
  find(`[value=${mode}]`, root).checked = true;
  slot("mode", root).textContent = MODES[mode];
}

const routingText = () =>
  Object.entries(routing())
    .map(([pair, weight]) => `${pair}=${weight}`)
    .join(",");

function loadPreset(text, file) {
  const weights = Object.fromEntries(stems.map(({ name }) => [name, 0]));
  const targets = new Set();
  for (const part of text.trim().split(",")) {
    const [, stem, target, value] = part.match(/^\s*(\w+)(?::(\w+))?(?:=(\S+))?\s*$/) ?? [];
    const weight = Number(value ?? 1);
    if (stem === "learned" && learned) Object.assign(weights, learned);
    else if (stem === "equal") Object.assign(weights, equal());
    else if (stem in weights && Number.isFinite(weight)) {
      weights[stem] = weight;
      if (stem !== "mix") targets.add(target === "mix" ? "mix" : (target ?? stem) === stem ? "same" : "other");
    } else {
      tell(
        `${file}: expected weights such as drums=1,bass=0.5 of the stems ${Object.keys(weights).join(", ")}; ` +
          `saw “${part.slice(0, 60)}”.`,
      );
      return;
    }
  }
  if (targets.size > 1 || targets.has("other"))
    tell(
      `${file}: the sliders compare every stem with itself, or every stem with whole sounds (drums:mix). ` +
        "For other weights use stemsim search --weights.",
    );
  else set(weights, targets.has("mix"));
}
