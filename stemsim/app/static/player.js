// The player at the foot of the page: a reference X and a result, both running, one of them heard.
// Switching only moves two gains, so there is no gap.

import { audio } from "./api.js";
import { attempt, find, findAll, setSlider, slot } from "./dom.js";
import { save, state } from "./state.js";
import { Wave } from "./wave.js";

const FADE = 0.012; // s; linear: equal power would raise the level where both are alike
const CACHED = 24; // decoded sounds
const LONGEST_DECODED = 60; // s; longer sounds are streamed, since decoding an hour takes gigabytes

class Player {
  constructor() {
    this.sounds = new Map(); // path -> promise of an AudioBuffer, the latest used last
    this.wanted = { x: null, result: null }; // as `choose` takes them
    this.voices = { x: null, result: null }; // {path, gain, stop}
    this.heard = "result";
    this.stops = 0;
    this.wave = new Wave(slot("wave", find("#player")));
  }

  /** Download and decode a sound ahead of its use, or return the one at hand. */
  load(path) {
    const sound = this.sounds.get(path) ?? audio(path).then((bytes) => this.context.decodeAudioData(bytes));
    this.sounds.delete(path);
    this.sounds.set(path, sound);
    sound.catch(() => this.sounds.delete(path)); // so that the next attempt asks again
    if (this.sounds.size > CACHED) this.sounds.delete(this.sounds.keys().next().value);
    return sound;
  }

  /**
   * Choose what `role` ("x" or "result") is, and hear it if `heard`. `sound` is {path, seconds, label, gain in dB}, for
   * a result {details, peaks} too, or null.
   */
  choose(role, sound, { heard = true } = {}) {
    const before = this.wanted[role]?.path;
    this.wanted[role] = sound;
    if (role === "result" && sound?.path !== before) {
      if (sound) attempt(() => this.wave.load(sound.peaks, 1));
      else this.wave.clear();
    }
    this.show();
    if (heard) this.hear(role);
  }

  /** Hear the reference or the result from its start, or switch to it while both are running. */
  async hear(role) {
    const other = role === "x" ? "result" : "x";
    if (!this.wanted[role]) return this.wanted[other] ? this.hear(other) : undefined;
    this.heard = role;
    const { stops } = this;
    await attempt(async () => {
      this.#wake();
      await this.#start(role, stops);
      this.show();
      if (this.wanted[other]) await this.#start(other, stops); // unheard, so that switching has no gap
    });
    return this.show();
  }

  toggle() {
    return this.hear(this.heard === "x" ? "result" : "x");
  }

  get playing() {
    return Boolean(this.voices.x || this.voices.result);
  }

  stop() {
    this.stops += 1;
    for (const role of Object.keys(this.voices)) this.#end(role);
    this.show();
  }

  /** Stop, and choose nothing. */
  forget() {
    this.choose("x", null, { heard: false });
    this.choose("result", null, { heard: false });
    this.stop();
  }

  /** Set the gains as volume, matched loudness and the switch say. */
  mixdown() {
    if (!this.context) return;
    this.master.gain.setTargetAtTime(state.volume ** 2, this.context.currentTime, FADE / 3);
    for (const [role, voice] of Object.entries(this.voices)) {
      if (!voice) continue;
      const decibels = state.matched ? (this.wanted[role]?.gain ?? 0) : 0;
      this.#fade(voice.gain, role === this.heard ? 10 ** (decibels / 20) : 0);
    }
  }

  get context() {
    if (!this.audio) {
      this.audio = new AudioContext({ latencyHint: "interactive" });
      this.master = this.audio.createGain();
      this.analyser = new AnalyserNode(this.audio, { fftSize: 2048 });
      this.master.connect(this.analyser).connect(this.audio.destination);
    }
    return this.audio;
  }

  #wake() {
    if (this.context.state === "suspended") this.context.resume(); // allowed by the key or the click that led here
  }

  #fade(gain, value) {
    const now = this.context.currentTime;
    gain.gain.cancelAndHoldAtTime?.(now);
    gain.gain.setValueAtTime(gain.gain.value, now);
    gain.gain.linearRampToValueAtTime(value, now + FADE);
  }

  /** Start a sound, unless the player was stopped while it was loaded: `stops` is the number of stops before. */
  async #start(role, stops) {
    const { path, seconds } = this.wanted[role];
    if (this.voices[role]?.path === path) return;
    const long = seconds > LONGEST_DECODED;
    const source = await (long ? this.#stream(path) : this.load(path)).catch((error) => {
      this.#end(role);
      throw error;
    });
    if (stops !== this.stops || this.wanted[role]?.path !== path || this.voices[role]?.path === path) return; // overtaken
    this.#end(role);
    const gain = new GainNode(this.context, { gain: 0 });
    const node = long
      ? new MediaElementAudioSourceNode(this.context, { mediaElement: source })
      : new AudioBufferSourceNode(this.context, { buffer: source, loop: true });
    node.connect(gain).connect(this.master);
    if (long) source.play();
    else node.start();
    this.voices[role] = { path, gain, stop: () => (long ? source.pause() : node.stop()) };
  }

  #stream(path) {
    const element = Object.assign(new Audio(path), { loop: true });
    return new Promise((resolve, reject) => {
      element.oncanplay = () => resolve(element);
      element.onerror = () => reject(new Error("This sound cannot be played: it may be gone. Search again."));
    });
  }

  #end(role) {
    const voice = this.voices[role];
    if (!voice) return;
    this.#fade(voice.gain, 0);
    setTimeout(voice.stop, 2000 * FADE);
    this.voices[role] = null;
  }

  show() {
    this.mixdown();
    const root = find("#player");
    root.dataset.playing = this.voices[this.heard] ? this.heard : "";
    find("#play").ariaLabel = this.playing ? "Stop" : "Play";
    for (const button of findAll("[data-hear]")) {
      button.ariaPressed = String(button.dataset.hear === this.heard);
      button.disabled = !this.wanted[button.dataset.hear];
    }
    slot("x", root).textContent = this.wanted.x ? ` ${this.wanted.x.label}` : "";
    slot("result", root).textContent = this.wanted.result?.label ?? "Nothing selected";
    slot("details", root).textContent = this.wanted.result?.details ?? "";
    if (this.playing && !this.metering) this.#meter();
  }

  #meter() {
    const samples = new Float32Array(this.analyser.fftSize);
    const step = () => {
      this.metering = this.playing;
      this.analyser.getFloatTimeDomainData(samples);
      const peak = samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
      find("#level").value = this.playing ? 1 + (20 * Math.log10(Math.max(peak, 1e-3))) / 60 : 0; // from -60 to 0 dBFS
      if (this.playing) requestAnimationFrame(step);
    };
    step();
  }
}

export const player = new Player();

find("#play").addEventListener("click", () => (player.playing ? player.stop() : player.hear(player.heard)));
for (const button of findAll("[data-hear]")) button.addEventListener("click", () => player.hear(button.dataset.hear));

/** Set the player's switches as they were left. */
export function restorePlayer() {
  setSlider(find("#volume"), state.volume);
  find("#matched").checked = state.matched;
  find("#volume").addEventListener("input", (event) => {
    change({ volume: event.target.valueAsNumber });
    setSlider(event.target, state.volume);
  });
  find("#matched").addEventListener("change", (event) => change({ matched: event.target.checked }));
  player.show();
}

function change(settings) {
  Object.assign(state, settings);
  player.mixdown();
  save();
}
