/**
 * Plays items one after the other and knows to the sample how much of each was played.
 *
 * Playing starts once `target` samples wait, or an item is complete. When sound runs out in the middle of an item the target
 * grows, and it shrinks again with every item that played without a gap. Edges that are not the item's own are faded.
 */

const FADE = 120; // 5 ms
const FIRST = 1920; // 80 ms
const MOST = 24000; // 1 s

class Playback extends AudioWorkletProcessor {
  constructor() {
    super();
    this.items = []; // {id, pieces, left, offset, played, ended, gaps}
    this.target = FIRST;
    this.playing = false;
    this.rise = 0; // samples of a fade in that are still to come
    this.flushing = false;
    this.gaps = 0;
    this.spans = []; // what was played since the last report: {id, from, length, frame}
    this.finished = [];
    this.quiet = 0;
    this.port.onmessage = ({ data }) => this[data.do](data);
  }

  item(id) {
    let item = this.items.find((other) => other.id === id);
    if (!item) this.items.push((item = { id, pieces: [], left: 0, offset: 0, played: 0, ended: false, gaps: 0 }));
    return item;
  }

  push({ id, samples }) {
    const item = this.item(id);
    item.pieces.push(samples);
    item.left += samples.length;
  }

  end({ id }) {
    const item = this.items.find((other) => other.id === id);
    if (item) item.ended = true;
  }

  /** Stops; while sound is running its last block is faded out first, so that no click is heard. */
  flush() {
    if (this.playing) this.flushing = true;
    else this.flushed();
  }

  flushed() {
    this.report();
    const items = this.items.map(({ id, played }) => ({ id, played }));
    this.items = [];
    this.flushing = this.playing = false;
    this.port.postMessage({ flushed: items });
    this.report();
  }

  get waiting() {
    return this.items.reduce((sum, item) => sum + item.left, 0);
  }

  get complete() {
    return this.items.at(-1).ended;
  }

  report() {
    this.quiet = 0;
    this.port.postMessage({
      spans: this.spans,
      finished: this.finished,
      waiting: this.waiting,
      target: this.target,
      gaps: this.gaps,
      playing: this.playing,
    });
    this.spans = [];
    this.finished = [];
  }

  process(_inputs, [[out]]) {
    if (!this.playing && this.items.length && (this.complete || this.waiting >= this.target)) {
      this.playing = true;
      this.rise = FADE;
    }
    if (this.playing) this.fill(out);
    this.quiet += out.length;
    if (this.items.length && this.quiet >= 512) this.report();
    return true;
  }

  fill(out) {
    const starving = !this.complete && this.waiting < out.length;
    const end = starving ? this.waiting : out.length;
    let at = 0;
    while (at < end && this.items.length) at += this.take(out, at, end);
    for (let i = 0; i < at && this.rise > 0; i++, this.rise--) out[i] *= 1 - this.rise / FADE;
    if (this.flushing || starving) for (let i = 0; i < at; i++) out[i] *= 1 - i / at;
    if (this.flushing) return this.flushed();
    if (starving) {
      this.gaps++;
      this.items[0].gaps++;
      this.target = Math.min(MOST, Math.round(this.target * 1.6));
    }
    this.playing = !starving && this.items.length > 0;
    if (!this.playing) this.report();
  }

  /** Copies from the first item into out[at:end]; gives how many samples. */
  take(out, at, end) {
    const item = this.items[0];
    const piece = item.pieces[0];
    let count = 0;
    if (piece) {
      count = Math.min(end - at, piece.length - item.offset);
      for (let i = 0; i < count; i++) out[at + i] = piece[item.offset + i] / 32768;
      this.note(item, count, currentFrame + at);
      item.offset += count;
      item.played += count;
      item.left -= count;
      if (item.offset === piece.length) {
        item.pieces.shift();
        item.offset = 0;
      }
    }
    if (!item.pieces.length && (item.ended || this.items.length > 1)) {
      this.items.shift();
      this.finished.push(item.id);
      if (!item.gaps) this.target = Math.max(FIRST, Math.round(this.target * 0.8));
    }
    return count;
  }

  note(item, length, frame) {
    const last = this.spans.at(-1);
    if (last && last.id === item.id && last.frame + last.length === frame) last.length += length;
    else this.spans.push({ id: item.id, from: item.played, length, frame });
  }
}

registerProcessor("playback", Playback);
