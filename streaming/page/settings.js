/** What the person chose, kept in this browser, and the form that shows it. */

const PLACE = "omni.settings";
const DEFAULTS = {
  voice: "",
  answer: "audio",
  volume: 80,
  turns: "server_vad",
  pause: 500,
  eagerness: "auto",
  instructions: "",
  input: "",
  output: "",
  frames: "0.5",
  theme: "auto",
  captions: true,
  announce: true,
  shortcuts: true,
};

/** A browser that blocks storage forgets; nothing else changes. */
function quietly(act) {
  try {
    return act();
  } catch {
    return null;
  }
}

function stored() {
  const kept = quietly(() => JSON.parse(localStorage.getItem(PLACE))) ?? {};
  const sound = Object.entries(kept).filter(([name, value]) => typeof value === typeof DEFAULTS[name]);
  return Object.fromEntries(sound);
}

export class Settings {
  /** @param changed called with (name, value) after every change. */
  constructor(form, changed) {
    this.form = form;
    this.values = { ...DEFAULTS, ...stored() };
    this.changed = changed;
    this.can = { hears: true, sees: true, speaks: true }; // until the server has told what its model can do
    document.addEventListener("input", ({ target }) => target.form === form && this.set(target.name, this.#read(target))); // some stand beside the talk
    form.addEventListener("submit", (event) => event.preventDefault());
    this.show();
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    if (!(name in DEFAULTS) || this.values[name] === value) return;
    this.values[name] = value;
    quietly(() => localStorage.setItem(PLACE, JSON.stringify(this.values)));
    this.show();
    this.changed(name, value);
  }

  /** The key lives as long as the tab. */
  get key() {
    return this.unkept ?? quietly(() => sessionStorage.getItem("omni.key")) ?? "";
  }

  set key(key) {
    this.unkept = key;
    quietly(() => sessionStorage.setItem("omni.key", key));
  }

  forget() {
    this.key = "";
    for (const [name, value] of Object.entries(DEFAULTS)) this.set(name, value);
  }

  /** The part of session.update that follows from the choices. */
  session() {
    const { turns, pause, eagerness, answer, instructions, voice } = this.values;
    const follow = { create_response: true, interrupt_response: true };
    const detection = {
      server_vad: { type: "server_vad", threshold: 0.5, prefix_padding_ms: 300, silence_duration_ms: pause, ...follow },
      semantic_vad: { type: "semantic_vad", eagerness, ...follow },
      manual: null,
    };
    const format = { type: "audio/pcm", rate: 24000 };
    const { hears, speaks } = this.can;
    return {
      type: "realtime",
      output_modalities: [speaks ? answer : "text"],
      instructions,
      audio: {
        input: { format, ...(hears ? { transcription: { model: "whisper-1" }, turn_detection: detection[turns] } : {}) },
        output: { format, ...(speaks && voice ? { voice } : {}) },
      },
    };
  }

  #read({ type, checked, value }) {
    if (type === "checkbox") return checked;
    return type === "range" ? Number(value) : value;
  }

  show() {
    for (const field of this.form.elements) {
      const value = this.values[field.name];
      if (value === undefined) continue;
      if (field.type === "checkbox") field.checked = value;
      else if (field.type === "radio") field.checked = field.value === value;
      else if (field.value !== String(value)) field.value = value;
    }
    this.form.querySelector("#s-pause-text").textContent = `${this.values.pause} ms`;
    for (const part of document.querySelectorAll("[data-needs]")) part.hidden = !this.can[part.dataset.needs];
    for (const part of this.form.querySelectorAll("[data-turns]")) part.hidden = part.dataset.turns !== this.values.turns;
    document.documentElement.dataset.theme = this.values.theme;
  }
}

/** Fills a picker; what was chosen stays chosen, even while it is absent, so that it returns when it does. */
export function fill(select, choices, chosen) {
  const first = select.options[0];
  const options = choices.map(({ value, text }) => new Option(text, value));
  if (chosen && !choices.some(({ value }) => value === chosen)) options.push(new Option("Not here now", chosen));
  select.replaceChildren(first, ...options);
  select.value = chosen;
}
