/** The pickers of microphone and loudspeaker; names are known once the microphone was allowed. */

import { fill } from "./settings.js";
import { Speaker } from "./speaker.js";

export class Devices {
  constructor(settings) {
    this.settings = settings;
    this.input = document.querySelector("#s-input");
    this.output = document.querySelector("#s-output");
    this.output.disabled = !Speaker.choosable;
    document.querySelector("#s-output-note").hidden = Speaker.choosable;
    navigator.mediaDevices?.addEventListener("devicechange", () => this.list());
    this.list();
  }

  async list() {
    const all = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
    const of = (kind) =>
      all
        .filter((device) => device.kind === kind && device.deviceId && device.deviceId !== "default")
        .map((device, i) => ({ value: device.deviceId, text: device.label || `Device ${i + 1}` }));
    fill(this.input, of("audioinput"), this.settings.get("input"));
    fill(this.output, of("audiooutput"), this.settings.get("output"));
  }
}
