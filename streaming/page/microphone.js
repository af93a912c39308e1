/** The microphone: pieces of 40 ms at 24 kHz, and when something was last heard in them. */

import { loudness } from "./pcm.js";

/** What went wrong, in words for the person at the page. */
export function microphoneTrouble(error) {
  if (!navigator.mediaDevices)
    return `Browsers give the microphone only to pages on https or on localhost. From this computer, run
      "ssh -L ${location.port || 80}:localhost:${location.port || 80} ${location.hostname}" and open
      http://localhost:${location.port || 80} instead.`;
  switch (error.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "The microphone was refused. Allow it for this page in the browser's address bar, then try again.";
    case "NotFoundError":
      return "No microphone was found. Plug one in, or type instead.";
    case "OverconstrainedError":
      return "The microphone that was chosen is not here. Choose another in the settings.";
    case "NotReadableError":
    case "AbortError":
      return "The microphone could not be opened; another program may be using it.";
    default:
      return `The microphone could not be opened (${error.name}: ${error.message}).`;
  }
}

export class Microphone {
  #muted = false;

  /** @param on callbacks: piece(samples, level, at) with `at` on the clock of performance.now(); lost() when the device is gone. */
  constructor(on) {
    this.on = on;
    this.stream = null;
    this.noise = 0.01;
    this.heard = 0;
  }

  get running() {
    return this.stream !== null;
  }

  async start(device) {
    const sound = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    if (device) sound.deviceId = { exact: device };
    const stream = await navigator.mediaDevices.getUserMedia({ audio: sound });
    this.stop();
    // At the system's own rate: not every browser connects a microphone to a context of another one.
    const context = new AudioContext({ latencyHint: "interactive" });
    Object.assign(this, { stream, context });
    await context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
    if (this.stream !== stream) return; // it was stopped meanwhile
    const node = new AudioWorkletNode(context, "capture", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => this.#take(data);
    context.createMediaStreamSource(stream).connect(node).connect(context.destination); // its output stays silent
    await context.resume();
    stream.getAudioTracks()[0].onended = () => {
      this.stop();
      this.on.lost();
    };
    this.muted = this.#muted;
  }

  stop() {
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.stream = this.context = null;
  }

  get muted() {
    return this.#muted;
  }

  /** A muted microphone gives silence, so that the server notices the end of a turn that was begun. */
  set muted(muted) {
    this.#muted = muted;
    this.stream?.getAudioTracks().forEach((track) => (track.enabled = !muted));
  }

  #take(samples) {
    if (!this.stream) return;
    const level = loudness(samples);
    const at = performance.now();
    this.noise += (level < this.noise ? 0.2 : 0.002) * (level - this.noise);
    if (level > Math.max(0.004, this.noise * 3)) this.heard = at;
    this.on.piece(samples, level, at);
  }
}
