// A waveform drawn from the peaks that the server made, with a span that the pointer moves.

import { get } from "./api.js";

const NEAR = 8; // pixels from an edge within which the pointer moves it

export class Wave {
  /** `onspan(from, to)` is called while the pointer changes the span; without it, there is none. */
  constructor(canvas, onspan = null) {
    this.canvas = canvas;
    this.peaks = [];
    this.seconds = 1;
    this.span = null;
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    if (onspan) this.#listen(onspan);
  }

  /** Load the peaks at `path` of a sound of `seconds` and draw them, with the span `[from, to]` in seconds. */
  async load(path, seconds, span = null) {
    this.path = path;
    const { peaks } = await get(`${path}columns=800`);
    if (this.path !== path) return; // another sound was chosen meanwhile
    Object.assign(this, { peaks, seconds, span });
    this.draw();
  }

  /** Show no sound. */
  clear() {
    Object.assign(this, { path: null, peaks: [], span: null });
    this.draw();
  }

  draw() {
    const { canvas, peaks, span } = this;
    const scale = devicePixelRatio;
    const [width, height] = [canvas.clientWidth * scale, canvas.clientHeight * scale];
    if (!width) return;
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const [ink, soft] = [style.color, style.getPropertyValue("--wave-soft")];
    const [left, right] = span ? span.map((time) => (time / this.seconds) * width) : [0, width];
    if (span) {
      context.fillStyle = style.getPropertyValue("--wave-span");
      context.fillRect(left, 0, right - left, height);
    }
    const columns = Math.floor(width / (2 * scale)); // bars of one pixel, one apart
    for (let column = 0; peaks.length && column < columns; column++) {
      const from = Math.floor((column * peaks.length) / columns);
      const part = peaks.slice(from, Math.max(from + 1, Math.floor(((column + 1) * peaks.length) / columns)));
      const [low, high] = [Math.min(...part.map((peak) => peak[0])), Math.max(...part.map((peak) => peak[1]))];
      const x = column * 2 * scale;
      context.fillStyle = x >= left && x < right ? ink : soft;
      context.fillRect(x, ((1 - high) / 2) * height, scale, Math.max(scale, ((high - low) / 2) * height));
    }
    if (span) {
      context.fillStyle = ink;
      for (const edge of [left, right - 2 * scale]) context.fillRect(Math.max(0, edge), 0, 2 * scale, height);
    }
  }

  #listen(onspan) {
    const { canvas } = this;
    const time = (event) => Math.min(1, Math.max(0, event.offsetX / canvas.clientWidth)) * this.seconds;
    let fixedEnd = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (!this.span) return;
      canvas.setPointerCapture(event.pointerId);
      const distance = this.span.map((edge) => Math.abs(edge - time(event)) * (canvas.clientWidth / this.seconds));
      if (Math.min(...distance) > NEAR) fixedEnd = time(event);
      else fixedEnd = this.span[distance[0] < distance[1] ? 1 : 0];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      this.span = [fixedEnd, time(event)].sort((one, other) => one - other);
      this.draw();
      onspan(...this.span);
    });
  }
}
