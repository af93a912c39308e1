/** How long each answer took, as the person at the page meets it. */

import { decibels } from "./pcm.js";

const at = (id) => document.querySelector(id);
const ms = (value) => (value === null ? "–" : `${Math.max(0, Math.round(value))} ms`);
const rate = (value) => (value === null ? "–" : `${value.toFixed(2)} s`);

/** What the wait for the first sound was made of. */
const parts = ({ pause, text, sound }) => ({
  pause,
  reading: text === null ? null : text - pause,
  voice: sound === null || text === null ? null : sound - text,
});

export class Timing {
  constructor() {
    this.clear();
  }

  clear() {
    this.turns = [];
    this.turn = null;
    this.gaps = 0;
    at("#t-history").replaceChildren();
    for (const id of ["#t-sound", "#t-text", "#t-rate", "#t-pause", "#t-reading", "#t-voice"]) at(id).textContent = "–";
  }

  /** The person's turn ended at `time`, on the clock of performance.now(). */
  begin(time) {
    this.turn = { ended: time, pause: 0, text: null, sound: null, first: null, last: null, head: 0, seconds: 0, gaps: this.gaps };
  }

  /** The server has noticed by now that the turn is over; where the person said so, there was no pause. */
  over() {
    this.turn.pause = performance.now() - this.turn.ended;
    this.#show();
  }

  text() {
    if (this.turn && this.turn.text === null) this.turn.text = performance.now() - this.turn.ended;
    this.#show();
  }

  /** The first sound leaves the loudspeaker at `time`. */
  sound(time) {
    if (this.turn && this.turn.sound === null) this.turn.sound = time - this.turn.ended;
    this.#show();
  }

  received(seconds) {
    if (!this.turn) return;
    const now = performance.now();
    this.turn.first ??= now;
    this.turn.last = now;
    this.turn.head ||= seconds;
    this.turn.seconds += seconds;
  }

  /** Sound per second of receiving; the first piece was made before receiving began. */
  #rate({ first, last, head, seconds }) {
    return last > first ? ((seconds - head) * 1000) / (last - first) : null;
  }

  end() {
    const { turn } = this;
    if (!turn || (turn.text === null && turn.sound === null)) return;
    const row = { ...parts(turn), text: turn.text, sound: turn.sound, rate: this.#rate(turn), gaps: this.gaps - turn.gaps };
    this.turns.push(row);
    this.#show();
    this.turn = null;
    const cells = [this.turns.length, ms(row.pause), ms(row.reading), ms(row.text), ms(row.sound), row.gaps];
    const line = document.createElement("tr");
    for (const text of cells) line.appendChild(document.createElement("td")).textContent = text;
    at("#t-history").prepend(line);
    while (at("#t-history").childElementCount > 12) at("#t-history").lastChild.remove();
  }

  #show() {
    if (!this.turn) return;
    at("#t-sound").textContent = ms(this.turn.sound);
    at("#t-text").textContent = ms(this.turn.text);
    const { pause, reading, voice } = parts(this.turn);
    at("#t-pause").textContent = ms(pause);
    at("#t-reading").textContent = ms(reading);
    at("#t-voice").textContent = ms(voice);
    at("#t-rate").textContent = rate(this.#rate(this.turn));
  }

  report({ waiting, target, gaps }) {
    this.gaps = gaps;
    at("#t-buffer").textContent = ms(waiting / 24);
    at("#t-target").textContent = ms(target / 24);
    at("#t-gaps").textContent = gaps;
  }

  levels(you, omni) {
    const text = (level) => (level < 1e-4 ? "silent" : `${Math.round(decibels(level))} dB`);
    at("#t-you").textContent = text(you);
    at("#t-omni").textContent = text(omni);
  }
}
