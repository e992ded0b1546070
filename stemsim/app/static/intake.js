// Taking in a piece of audio: drop, choose or record a file, pick its span, follow its separation and embedding.

import { cancel, follow, get, post, put, stageText } from "./api.js";
import { attempt, find, slot, tell } from "./dom.js";
import { Wave } from "./wave.js";

export class Intake {
  /**
   * Fill `root` with the controls. `zone` is where files may be dropped, `prompt` what stands there while it is empty;
   * `onready(query)` is called when a query can be searched with, `onstart(id)` when another is begun with, and with
   * that of the one shown if nothing comes of it.
   */
  constructor(root, zone, prompt, onready, onstart = () => {}) {
    root.append(find("#intake").content.cloneNode(true));
    Object.assign(this, { root, onready, onstart, query: null, job: null });
    this.wave = new Wave(slot("wave", root), (from, to) => this.#setSpan(from, to));
    this.form = find("form", root);
    this.form.addEventListener("submit", (event) => this.#useSpan(event));
    this.form.addEventListener("input", () => this.#typeSpan());
    const chooser = find("input[type=file]", root);
    chooser.addEventListener("change", () => chooser.files.length && this.upload(chooser.files[0]));
    find("[data-act=choose]", root).addEventListener("click", () => {
      chooser.value = ""; // so that the same file can be chosen again
      chooser.click();
    });
    find("[data-act=record]", root).addEventListener("click", () => attempt(() => this.#record()));
    find("[data-act=cancel]", root).addEventListener("click", () => attempt(() => cancel(this.job)));
    this.#listenDrop(zone);
    slot("name", root).textContent = prompt;
  }

  upload(file, name = file.name) {
    return this.take(() => {
      this.#progress({ stage: "uploading", progress: 0 });
      return put(`/api/query?name=${encodeURIComponent(name)}`, file);
    });
  }

  /** Make a query by `start`, which returns `{query, job}`, and wait until it is ready; it replaces one under way. */
  async take(start) {
    tell();
    if (this.job) attempt(() => cancel(this.job));
    const taking = {};
    const isLatest = () => this.taking === taking;
    this.taking = taking;
    try {
      const { query, job } = await start();
      this.job = job;
      if (isLatest()) this.onstart(query);
      const state = await follow(job, (now) => isLatest() && this.#progress(now));
      const taken = await get(`/api/query/${query}`);
      if (isLatest()) this.#show(taken, state.message);
    } catch (error) {
      if (isLatest()) {
        this.onstart(this.query?.id ?? null);
        tell(error.message);
      }
    }
    if (!isLatest()) return;
    this.job = null;
    slot("stage", this.root).parentElement.hidden = true;
  }

  /** Show a query that the server already holds. */
  async resume(id) {
    const query = await get(`/api/query/${id}`);
    await this.take(() => ({ query: id, job: query.job }));
  }

  #progress(job) {
    const bar = find("progress", this.root);
    bar.parentElement.hidden = false;
    bar.value = job.progress;
    slot("stage", this.root).textContent = stageText(job);
  }

  #show(query, message) {
    this.query = query;
    this.onready(query);
    const { name, kind, span, id, duration_s: seconds } = query;
    const title = slot("name", this.root);
    title.textContent = title.title = kind === "text" ? `“${name}”` : name;
    const notice = slot("notice", this.root);
    notice.textContent = message ?? "";
    notice.hidden = !message;
    this.form.hidden = kind !== "upload";
    const canvas = slot("wave", this.root);
    canvas.hidden = kind === "text";
    if (kind === "text") return;
    canvas.ariaLabel = `Waveform of ${name}`;
    const whole = kind === "upload";
    attempt(() =>
      this.wave.load(`/api/query/${id}/peaks?stem=mix&whole=${Number(whole)}&`, seconds, whole ? span : null),
    );
    if (whole) this.#setSpan(...span);
  }

  #setSpan(from, to) {
    this.form.elements.from.value = from.toFixed(1);
    this.form.elements.to.value = to.toFixed(1);
    this.#changed();
  }

  #typeSpan() {
    const { from, to } = this.form.elements;
    if (from.valueAsNumber < to.valueAsNumber) {
      this.wave.span = [from.valueAsNumber, to.valueAsNumber];
      this.wave.draw();
    }
    this.#changed();
  }

  #changed() {
    const { from, to } = this.form.elements;
    const moved = [from, to].some((field, index) => Math.abs(field.valueAsNumber - this.query.span[index]) > 0.06);
    find("button", this.form).disabled = !moved || !(from.valueAsNumber < to.valueAsNumber);
  }

  #useSpan(event) {
    event.preventDefault();
    const { from, to } = this.form.elements;
    this.take(() => post("/api/query", { query: this.query.id, from: from.valueAsNumber, to: to.valueAsNumber }));
  }

  #listenDrop(zone) {
    const over = (event, inside) => {
      event.preventDefault();
      this.root.classList.toggle("over", inside);
    };
    zone.addEventListener("dragover", (event) => over(event, true));
    zone.addEventListener("dragleave", (event) => over(event, false));
    zone.addEventListener("drop", (event) => {
      over(event, false);
      const [file] = event.dataTransfer.files;
      if (file) this.upload(file);
      else tell("Drop a sound file: what was dropped is none.");
    });
  }

  async #record() {
    const button = find("[data-act=record]", this.root);
    if (this.recorder) return this.recorder.stop();
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    const parts = [];
    this.recorder = new MediaRecorder(stream);
    this.recorder.ondataavailable = (event) => parts.push(event.data);
    this.recorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      this.recorder = null;
      button.textContent = "Record";
      button.ariaPressed = "false";
      this.upload(new Blob(parts), "recording.webm");
    };
    this.recorder.start();
    button.textContent = "Stop recording";
    button.ariaPressed = "true";
    return undefined;
  }
}
