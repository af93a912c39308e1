/** The loudspeaker: queues the sound of items and tells when, and how much of, each was played. */

import { RATE } from "./pcm.js";

export class Speaker {
  /**
   * @param on callbacks: played({id, from, length, at}) for every stretch that left for the loudspeaker, in samples, `at` on the
   *   clock of performance.now(); finished(id); report({waiting, target, gaps, playing}) some forty times a second.
   */
  constructor(on) {
    this.on = on;
    this.context = null;
    this.queued = new Map(); // samples played of each item that is not finished
  }

  /** Must be called in a gesture of the user, or the browser keeps it silent. */
  async start(volume) {
    if (!this.node) {
      this.context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
      await this.context.audioWorklet.addModule(new URL("playback-worklet.js", import.meta.url));
      this.node = new AudioWorkletNode(this.context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
      this.node.port.onmessage = ({ data }) => this.#hear(data);
      this.gain = new GainNode(this.context);
      this.meter = new AnalyserNode(this.context, { fftSize: 1024 });
      this.node.connect(this.gain).connect(this.meter).connect(this.context.destination);
      document.addEventListener("visibilitychange", () => this.context.resume()); // phones stop it in the background
    }
    this.volume = volume;
    await this.context.resume();
  }

  set volume(percent) {
    this.gain?.gain.setTargetAtTime((percent / 100) ** 2, this.context.currentTime, 0.02);
  }

  static get choosable() {
    return "setSinkId" in AudioContext.prototype;
  }

  async use(output) {
    if (this.context && Speaker.choosable && this.context.sinkId !== output) await this.context.setSinkId(output);
  }

  push(id, samples) {
    if (!this.queued.has(id)) this.queued.set(id, 0);
    this.node.port.postMessage({ do: "push", id, samples }, [samples.buffer]);
  }

  get ready() {
    return Boolean(this.node);
  }

  end(id) {
    this.node?.port.postMessage({ do: "end", id });
  }

  get idle() {
    return this.queued.size === 0;
  }

  /** An item has begun and is not finished; gaps count too. */
  get speaking() {
    return [...this.queued.values()].some((played) => played > 0);
  }

  /** Stops at once. Gives [{id, played}] of all items that were not finished: the samples that were really played. */
  async flush() {
    if (this.idle) return [];
    const known = [...this.queued].map(([id, played]) => ({ id, played }));
    this.queued.clear();
    this.node.port.postMessage({ do: "flush" });
    const answer = new Promise((resolve) => (this.answer = resolve));
    const late = new Promise((resolve) => setTimeout(resolve, 300, known)); // a context that the system stopped does not answer
    return Promise.race([answer, late]);
  }

  /** Level of what is being played, 0 to 1. */
  get level() {
    if (!this.meter) return 0;
    const wave = new Float32Array(this.meter.fftSize);
    this.meter.getFloatTimeDomainData(wave);
    return Math.sqrt(wave.reduce((sum, x) => sum + x * x, 0) / wave.length);
  }

  /** Milliseconds from a sample's leaving the page until it is heard. */
  get latency() {
    return (this.context?.outputLatency || this.context?.baseLatency || 0) * 1000;
  }

  #hear(data) {
    if (data.flushed) return this.answer?.(data.flushed);
    const origin = performance.now() - this.context.currentTime * 1000;
    for (const { id, from, length, frame } of data.spans) {
      if (this.queued.has(id)) this.queued.set(id, from + length);
      this.on.played({ id, from, length, at: origin + (frame / RATE) * 1000 });
    }
    for (const id of data.finished) {
      this.queued.delete(id);
      this.on.finished(id);
    }
    this.on.report(data);
  }
}
