/** What the camera or the screen shows, frame by frame while the person speaks. */

import { jpeg } from "./pictures.js";

const SIDE = 640;
const QUALITY = 0.72;
const MOST = 8; // frames of one turn
const NAMES = { camera: "Camera", screen: "Screen" };

export class Camera {
  /** @param on callbacks: frame({url, name}); changed(source or null); trouble(text). */
  constructor(on) {
    this.on = on;
    this.video = document.querySelector("#video");
    this.preview = document.querySelector("#preview");
    this.source = null;
  }

  async start(source) {
    this.stop();
    try {
      this.stream =
        source === "camera"
          ? await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: "environment" } })
          : await navigator.mediaDevices.getDisplayMedia({ video: { frameRate: { ideal: 5 } } });
    } catch (error) {
      if (source === "camera" || error.name !== "NotAllowedError") this.on.trouble(this.#trouble(source, error));
      return; // closing the picker of the screen is an answer, not trouble
    }
    this.source = source;
    const [track] = this.stream.getVideoTracks();
    track.onended = () => this.stop();
    this.video.srcObject = this.stream;
    await this.video.play();
    this.preview.hidden = false;
    document.querySelector("#preview-text").textContent = `${NAMES[source]}, shown while you speak`;
    this.on.changed(source);
  }

  #trouble(source, error) {
    if (!navigator.mediaDevices) return "Browsers give the camera only to pages on https or on localhost.";
    if (error.name === "NotAllowedError") return "The camera was refused. Allow it for this page in the browser's address bar.";
    if (error.name === "NotFoundError") return "No camera was found.";
    return `The ${source} could not be opened (${error.name}).`;
  }

  stop() {
    if (!this.source) return;
    this.source = null;
    this.rest();
    this.stream.getTracks().forEach((track) => track.stop());
    this.video.srcObject = null;
    this.preview.hidden = true;
    this.on.changed(null);
  }

  /** The person's turn begins: one frame now, and more at `rate` a second until rest(). */
  watch(rate) {
    this.rest();
    if (!this.source) return;
    this.frames = 0;
    this.timer = setInterval(() => this.#frame(), 1000 / rate);
    this.#frame();
  }

  rest() {
    clearInterval(this.timer);
  }

  #frame() {
    const { videoWidth, videoHeight, readyState } = this.video;
    if (readyState < HTMLMediaElement.HAVE_CURRENT_DATA || ++this.frames > MOST) return;
    this.on.frame({ url: jpeg(this.video, videoWidth, videoHeight, SIDE, QUALITY), name: `${NAMES[this.source]} picture` });
  }
}
