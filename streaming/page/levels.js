/**
 * The tape: loudness over time, omni above the line and the person below it. Now is the button in the middle: from its left edge
 * goes what was heard, to its right edge comes what the server has sent and the loudspeaker has not played yet. An interruption
 * clears that. Around the button, the loudness of this moment.
 */

import { RATE, loudness } from "./pcm.js";

const BIN = 1200; // samples of a bar, 50 ms
const BIN_MS = (BIN / RATE) * 1000;
const FADE = 320; // ms in which bars that were cut fall

const height = (level) => Math.max(0, Math.min(1, (20 * Math.log10(level + 1e-6) + 52) / 44)) ** 1.3;

/** The loudest of the last bars, 0 once they are old. */
function latest(bars, now) {
  const recent = bars.slice(-6).filter(({ at }) => at <= now && now - at < 200);
  return recent.reduce((most, { level }) => Math.max(most, level), 0);
}

export class Tape {
  constructor(canvas, labels, button) {
    this.canvas = canvas;
    this.labels = labels; // {you, omni}: elements that have the colors
    this.button = button;
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.clear();
    new ResizeObserver(() => this.fit()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  clear() {
    this.you = []; // {at, level}
    this.omni = [];
    this.coming = []; // {id, bins, rest, played}
    this.fallen = [];
    this.glow = [0, 0];
    this.reported = 0; // when playing was last reported, 0 while nothing plays
  }

  fit() {
    const { width, height: tall } = this.canvas.getBoundingClientRect();
    const dots = devicePixelRatio || 1;
    this.canvas.width = Math.round(width * dots);
    this.canvas.height = Math.round(tall * dots);
    this.draw();
  }

  run(on) {
    if (on === this.running) return;
    this.running = on;
    const next = () => {
      if (!this.running) return;
      this.draw();
      if (this.calm.matches) setTimeout(next, 150);
      else requestAnimationFrame(next);
    };
    next();
    this.draw();
  }

  /** A piece from the microphone. */
  spoke(level, at) {
    this.you.push({ at, level });
    if (this.you.length > 1000) this.you.splice(0, 500);
  }

  /** Sound that came from the server. */
  push(id, samples) {
    let item = this.coming.find((other) => other.id === id);
    if (!item) this.coming.push((item = { id, bins: [], rest: new Int16Array(0), played: 0 }));
    const wave = new Int16Array(item.rest.length + samples.length);
    wave.set(item.rest);
    wave.set(samples, item.rest.length);
    let at = 0;
    for (; at + BIN <= wave.length; at += BIN) item.bins.push(loudness(wave.subarray(at, at + BIN)));
    item.rest = wave.slice(at);
  }

  played({ id, from, length, at }) {
    const item = this.coming.find((other) => other.id === id);
    if (!item) return;
    for (let bin = Math.ceil(from / BIN); bin * BIN < from + length; bin++)
      if (bin < item.bins.length) this.omni.push({ at: at + ((bin * BIN - from) / RATE) * 1000, level: item.bins[bin] });
    item.played = from + length;
    this.reported = performance.now();
    if (this.omni.length > 1000) this.omni.splice(0, 500);
  }

  finish(id) {
    this.coming = this.coming.filter((item) => item.id !== id);
    if (!this.coming.length) this.reported = 0;
  }

  cut() {
    const now = performance.now();
    this.fallen = this.#ahead(now).map((bar) => ({ ...bar, cut: now }));
    this.coming = [];
    this.reported = 0;
  }

  /** Bars of what is still to be played, by the ms until then. */
  #ahead(now) {
    const bars = [];
    const drift = this.reported ? Math.min(120, now - this.reported) : 0;
    let start = 0;
    for (const { bins, played } of this.coming) {
      for (let bin = Math.ceil(played / BIN); bin < bins.length; bin++) {
        const wait = start + ((bin * BIN - played) / RATE) * 1000 - drift;
        if (wait >= 0) bars.push({ wait, level: bins[bin] });
      }
      start += ((bins.length * BIN - played) / RATE) * 1000;
    }
    return bars;
  }

  draw() {
    const { canvas } = this;
    const pen = canvas.getContext("2d");
    const dots = devicePixelRatio || 1;
    const wide = canvas.width / dots;
    const tall = canvas.height / dots;
    const colors = { you: getComputedStyle(this.labels.you).color, omni: getComputedStyle(this.labels.omni).color };
    pen.setTransform(dots, 0, 0, dots, 0, 0);
    pen.clearRect(0, 0, wide, tall);
    const now = performance.now();
    if (this.calm.matches) this.#meters(pen, wide, tall, colors, now);
    else this.#bars(pen, wide, tall, colors, now);
  }

  #bars(pen, wide, tall, colors, now) {
    const radius = this.button.offsetWidth / 2;
    const left = wide / 2 - radius - 18;
    const right = wide / 2 + radius + 18;
    const line = tall / 2;
    const speed = wide > 700 ? 0.09 : 0.07; // pixels per ms
    const thick = Math.max(2, BIN_MS * speed - 2);
    const most = line - 6;
    const bar = (x, level, up) => {
      const size = Math.max(1.5, height(level) * most);
      pen.beginPath();
      pen.roundRect(x - thick / 2, up ? line - 3 - size : line + 3, thick, size, thick / 2);
      pen.fill();
    };
    pen.fillStyle = getComputedStyle(this.canvas).color;
    pen.globalAlpha = 0.55;
    pen.fillRect(0, line - 0.5, left, 1);
    pen.fillRect(right, line - 0.5, wide - right, 1);
    const second = 1000 * speed;
    for (let x = left - (this.running ? (now % 1000) * speed : 0); x > 0; x -= second) pen.fillRect(x, line - 4, 1, 8);
    if (!this.running && !this.you.length && !this.omni.length) this.#sketch(pen, left, right, thick + 2, colors, bar);
    const history = (bars, color, up) => {
      pen.fillStyle = color;
      for (let i = bars.length - 1; i >= 0; i--) {
        const x = left - (now - bars[i].at) * speed;
        if (x < -thick) break;
        if (x > left) continue;
        pen.globalAlpha = 0.25 + 0.75 * (x / left);
        bar(x, bars[i].level, up);
      }
    };
    history(this.omni, colors.omni, true);
    history(this.you, colors.you, false);
    pen.fillStyle = colors.omni;
    pen.globalAlpha = 0.38;
    for (const { wait, level } of this.#ahead(now)) bar(right + wait * speed, level, true);
    this.fallen = this.fallen.filter(({ cut }) => now - cut < FADE);
    for (const { wait, level, cut } of this.fallen) {
      const gone = (now - cut) / FADE;
      pen.globalAlpha = 0.38 * (1 - gone);
      bar(right + wait * speed, level * (1 - gone) ** 2, true);
    }
    pen.globalAlpha = 1;
    if (this.running) this.#halo(pen, wide / 2, line, radius, colors, now);
  }

  /** Two half rings around the button, as thick as each side is loud now. */
  #halo(pen, x, y, radius, colors, now) {
    const sides = [
      [this.omni, colors.omni, Math.PI],
      [this.you, colors.you, 0],
    ];
    sides.forEach(([bars, color, start], side) => {
      this.glow[side] += 0.25 * (height(latest(bars, now)) - this.glow[side]);
      const thick = this.glow[side] * 9;
      if (thick < 0.3) return;
      pen.beginPath();
      pen.arc(x, y, radius + 4 + thick / 2, start + 0.12, start + Math.PI - 0.12);
      pen.lineWidth = thick;
      pen.lineCap = "round";
      pen.strokeStyle = color;
      pen.stroke();
    });
  }

  /** Before anything was said: a question on the left, its answer on the right. */
  #sketch(pen, left, right, pitch, colors, bar) {
    const words = (k, of) => Math.abs(Math.sin(k * 0.9) * Math.sin(k * 0.23 + 1)) * Math.sin((Math.PI * k) / of) ** 0.5;
    const count = Math.min(64, Math.floor((left * 0.85) / pitch));
    pen.globalAlpha = 0.32;
    for (let k = 1; k < count; k++) {
      const level = 0.3 * words(k, count) ** 1.6;
      pen.fillStyle = colors.you;
      bar(left - k * pitch, level, false);
      pen.fillStyle = colors.omni;
      bar(right + k * pitch, level, true);
    }
  }

  /** For people who asked for less motion: two levels that grow out of the middle. */
  #meters(pen, wide, tall, colors, now) {
    const middle = wide / 2;
    const line = tall / 2;
    pen.fillStyle = getComputedStyle(this.canvas).color;
    pen.fillRect(0, line - 0.5, wide, 1);
    pen.fillStyle = colors.omni;
    const omni = height(latest(this.omni, now)) * middle;
    pen.fillRect(middle - omni, line - 12, omni * 2, 6);
    pen.fillStyle = colors.you;
    const you = height(latest(this.you, now)) * middle;
    pen.fillRect(middle - you, line + 6, you * 2, 6);
  }
}
