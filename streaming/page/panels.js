/** The panel at the side, of which one part is shown at a time, and the list of keys. */

const TITLES = { timing: "Timing", events: "Events", settings: "Settings" };

export class Panels {
  constructor() {
    this.panel = document.querySelector("#panel");
    this.help = document.querySelector("#help");
    this.shown = null;
    this.buttons = document.querySelectorAll("[data-panel]");
    for (const button of this.buttons) button.addEventListener("click", () => this.toggle(button.dataset.panel));
    document.querySelector("#panel-close").addEventListener("click", () => this.toggle(this.shown));
    document.querySelector("#open-help").addEventListener("click", () => this.help.showModal());
  }

  get open() {
    return this.shown !== null;
  }

  toggle(name) {
    const before = this.shown;
    this.shown = name === before ? null : name;
    this.panel.hidden = !this.shown;
    document.body.classList.toggle("with-panel", this.open);
    for (const part of Object.keys(TITLES)) document.querySelector(`#panel-${part}`).hidden = part !== this.shown;
    for (const button of this.buttons) button.setAttribute("aria-expanded", button.dataset.panel === this.shown);
    if (this.shown) {
      document.querySelector("#panel-title").textContent = TITLES[this.shown];
      this.panel.scrollTop = this.shown === "events" ? this.panel.scrollHeight : 0;
      this.panel.focus();
    } else document.querySelector(`[data-panel="${before}"]`).focus();
  }
}
