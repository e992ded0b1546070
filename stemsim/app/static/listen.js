// The listening test: X, A and B run together and one of them is heard, so that switching has no gap.

import { audio, get, post } from "./api.js";
import { el, find, findAll, slot } from "./dom.js";

const FADE = 0.012; // s; linear: equal power would raise the level where two sounds are alike
const SHOWN = { "A+": "A, surely", "A-": "A, a little", "B-": "B, a little", "B+": "B, surely", NA: "cannot say" };
const SECTIONS = ["start", "trial", "pause", "end"];

let settings, listener, trial, voices, plays, answers, heard, context, sending;

function show(name) {
  for (const section of SECTIONS) find(`#${section}`).hidden = section !== name;
}

function tell(text = "") {
  const message = find("#message");
  message.textContent = text;
  message.hidden = !text;
}

async function attempt(action) {
  try {
    tell();
    return await action();
  } catch (error) {
    tell(error.message);
    return undefined;
  }
}

// Playing

async function load(sounds) {
  stop();
  for (const button of findAll("[data-hear]")) button.disabled = true;
  context ??= new AudioContext({ latencyHint: "interactive" });
  voices = {};
  const wanted = trial;
  await Promise.all(
    Object.entries(sounds).map(async ([role, path]) => {
      const buffer = await context.decodeAudioData(await audio(path));
      if (trial === wanted) voices[role] = { buffer };
    }),
  );
  for (const button of findAll("[data-hear]")) button.disabled = !voices[button.dataset.hear];
}

function hear(role) {
  if (!voices?.[role]) return;
  context.resume();
  if (heard === undefined) {
    for (const voice of Object.values(voices)) {
      voice.source = new AudioBufferSourceNode(context, { buffer: voice.buffer, loop: true });
      voice.gain = new GainNode(context, { gain: 0 });
      voice.source.connect(voice.gain).connect(context.destination);
      voice.source.start();
    }
  }
  if (heard !== role) plays[role] += 1;
  heard = role;
  for (const [name, voice] of Object.entries(voices)) fade(voice.gain, name === role ? 1 : 0);
  update();
}

function fade(gain, value) {
  gain.gain.cancelAndHoldAtTime?.(context.currentTime);
  gain.gain.setValueAtTime(gain.gain.value, context.currentTime);
  gain.gain.linearRampToValueAtTime(value, context.currentTime + FADE);
}

function stop() {
  for (const voice of Object.values(voices ?? {})) {
    if (!voice.source) continue;
    fade(voice.gain, 0);
    voice.source.stop(context.currentTime + FADE);
    voice.source = undefined;
  }
  heard = undefined;
  update();
}

// Answering

function update() {
  if (!trial) return;
  const all = Object.values(plays).every((times) => times > 0);
  for (const button of findAll("[data-hear]")) {
    button.ariaPressed = String(button.dataset.hear === heard);
    button.dataset.heard = String(plays[button.dataset.hear] > 0);
  }
  for (const input of findAll("#trial form input")) input.disabled = !all;
  slot("hint").textContent = all ? "Now answer; you may go on listening." : "Hear all three before you answer.";
  find("[data-act=confirm]").disabled = sending || !all || settings.questions.some((name) => !answers[name]);
}

function ask() {
  const fields = settings.questions.map((name) =>
    el(
      "fieldset",
      {},
      el("legend", {}, name === "overall" ? "Overall, more like X is" : `In ${name}, more like X is`),
      el(
        "div",
        { className: "switch" },
        ...settings.answers.map((value) => {
          const input = el("input", { type: "radio", name, value });
          input.addEventListener("change", () => choose(name, value));
          return el("label", {}, input, el("span", {}, SHOWN[value]));
        }),
      ),
    ),
  );
  slot("questions").replaceChildren(...fields);
}

function choose(name, value) {
  if (!Object.values(plays).every((times) => times > 0)) return;
  answers[name] = value;
  for (const input of findAll(`#trial input[name=${name}]`)) input.checked = input.value === value;
  update();
}

async function present(next) {
  trial = next.trial;
  if (!trial) {
    show("end");
    return;
  }
  plays = { x: 0, a: 0, b: 0 };
  answers = {};
  find("#trial progress").value = next.done / next.total;
  slot("place").textContent = `${trial.training ? "Training" : "Trial"} ${next.done + 1} of ${next.total}`;
  ask();
  update();
  show(trial.pause ? "pause" : "trial");
  find(trial.pause ? "[data-act=continue]" : "[data-hear=x]").focus();
  await load(trial.sounds);
  update();
}

async function confirm() {
  if (find("[data-act=confirm]").disabled) return;
  sending = true;
  update();
  const vote = { listener, vote_id: trial.vote_id, answers, plays };
  const next = await attempt(() => post("/api/listen/vote", vote)); // kept on the disk before the next one shows
  sending = false;
  if (next) {
    stop();
    await attempt(() => present(next));
  } else update();
}

const GRADES = { ArrowLeft: ["A-", "A+"], ArrowRight: ["B-", "B+"] }; // alone, and with Shift

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || find("#trial").hidden) return;
  const sounds = { 0: "x", 1: "a", 2: "b" };
  const digit = event.code.match(/^(?:Digit|Numpad)([012])$/);
  const open = settings.questions.find((name) => !answers[name]) ?? settings.questions.at(-1);
  if (digit) hear(sounds[digit[1]]);
  else if (event.key === " ") stop();
  else if (GRADES[event.key]) choose(open, GRADES[event.key][Number(event.shiftKey)]);
  else if (event.key.toLowerCase() === "n") choose(open, "NA");
  else if (event.key === "Backspace") {
    const last = settings.questions.filter((name) => answers[name]).at(-1);
    delete answers[last];
    for (const input of findAll(`#trial input[name=${last}]`)) input.checked = false;
    update();
  } else if (event.key === "Enter") confirm();
  else return;
  event.preventDefault();
});

for (const button of findAll("[data-hear]")) button.addEventListener("click", () => hear(button.dataset.hear));
find("[data-act=stop]").addEventListener("click", stop);
find("[data-act=confirm]").addEventListener("click", confirm);
find("[data-act=continue]").addEventListener("click", () => {
  show("trial");
  find("[data-hear=x]").focus();
});
find("#start form").addEventListener("submit", (event) => {
  event.preventDefault();
  listener = new FormData(event.target).get("listener").trim();
  if (!listener) return;
  localStorage.setItem("stemsim-listener", listener);
  attempt(async () => present(await post("/api/listen/next", { listener })));
});

attempt(async () => {
  settings = await get("/api/listen");
  const list = (block) => (block.kind === "li" ? el("li", {}, block.text) : el(block.kind, {}, block.text));
  slot("instructions").replaceChildren(...settings.instructions.map(list));
  const name = find("#start input");
  find("#start button").disabled = false;
  name.value ||= localStorage.getItem("stemsim-listener") ?? "";
  name.focus();
});
