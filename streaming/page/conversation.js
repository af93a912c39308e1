/** Keeps what was said and heard, each sound at its time, and saves it as files. */

import { RATE, wav } from "./pcm.js";

const MOST = 30 * 60 * RATE; // samples of each side; memory for more would be taken from the rest of the machine

export class Conversation {
  constructor() {
    this.clear();
  }

  clear() {
    this.started = new Date();
    this.origin = null; // performance.now() of sample 0
    this.spoken = []; // {at, samples} of the person, in order
    this.items = new Map(); // id -> pieces of the model's sound
    this.spans = []; // {at, id, from, length}: what was played when
    this.full = false;
  }

  #place(at) {
    this.origin ??= at;
    return Math.max(0, Math.round(((at - this.origin) * RATE) / 1000));
  }

  /** A piece that was sent; `at` is the time of its end. */
  said(samples, at) {
    const start = this.#place(at - (samples.length / RATE) * 1000);
    if (start + samples.length > MOST) return void (this.full = true);
    this.spoken.push({ at: start, samples });
  }

  received(id, samples) {
    if (!this.items.has(id)) this.items.set(id, []);
    if (!this.full) this.items.get(id).push(samples);
  }

  played({ id, from, length, at }) {
    if (!this.items.has(id)) return; // from before a new beginning
    const start = this.#place(at);
    const last = this.spans.at(-1);
    if (last && last.id === id && last.from + last.length === from && Math.abs(last.at + last.length - start) < RATE / 10)
      last.length += length; // reports jitter, sound does not
    else if (start + length <= MOST) this.spans.push({ at: start, id, from, length });
  }

  get silent() {
    return !this.spoken.length && !this.spans.length;
  }

  sound() {
    const ends = [...this.spoken.map(({ at, samples }) => at + samples.length), ...this.spans.map(({ at, length }) => at + length)];
    const length = ends.reduce((most, end) => Math.max(most, end), 0);
    const left = new Int16Array(length);
    const right = new Int16Array(length);
    let free = 0; // pieces follow each other without a seam while their clock says that they nearly do
    for (const { at, samples } of this.spoken) {
      const start = Math.abs(at - free) < RATE / 10 ? Math.min(free, length - samples.length) : at;
      left.set(samples, start);
      free = start + samples.length;
    }
    for (const { at, id, from, length: count } of this.spans) {
      let start = 0;
      for (const piece of this.items.get(id) ?? []) {
        const part = piece.subarray(Math.max(0, from - start), Math.max(0, Math.min(piece.length, from + count - start)));
        if (part.length) right.set(part, at + Math.max(0, start - from));
        start += piece.length;
      }
    }
    return wav(left, right);
  }

  markdown(lines, model) {
    const head = `# Conversation with ${model || "omni"}\n\n${this.started.toISOString()}`;
    const safe = (text) => text.trim().replace(/[\\`*_~[\]<>#]/g, "\\$&");
    const parts = lines.map(({ side, text, kept, cut, pictures }) => {
      const shown = pictures.map(({ name }) => `(${safe(name)}) `).join("");
      const rest = cut && text.slice(kept).trim() ? ` ~~${safe(text.slice(kept))}~~` : "";
      if (side === "note") return `*${safe(text)}*`;
      return `**${side === "you" ? "You" : "Omni"}** ${shown}${safe(cut ? text.slice(0, kept) : text)}${rest}`;
    });
    return new Blob([[head, ...parts].join("\n\n"), "\n"], { type: "text/markdown" });
  }

  json(lines, model, turns) {
    const said = lines.map(({ side, id, text, kept, cut, pictures, at }) => ({
      time: at.toISOString(),
      role: { you: "user", omni: "assistant", note: "note" }[side],
      item_id: id ?? null,
      text: cut ? text.slice(0, kept) : text,
      cut: cut ? text.slice(kept) : null,
      pictures: pictures.map(({ name }) => name),
    }));
    const milliseconds = turns.map(({ pause, reading, text, sound, rate, gaps }) => ({ pause_ms: pause, reading_ms: reading, first_text_ms: text, first_sound_ms: sound, sound_per_second: rate, gaps }));
    const whole = { model, started: this.started.toISOString(), lines: said, turns: milliseconds };
    return new Blob([JSON.stringify(whole, null, 2), "\n"], { type: "application/json" });
  }

  save(blob, ending) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `omni-${this.started.toISOString().slice(0, 19).replaceAll(":", "-")}.${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }
}
