/** What both sides said, as it is said: spoken words dark, words still to come pale, words that were cut struck through. */

import { Alignment } from "./aloud.js";

export const WORDLESS = "(no words understood)";
const REMEMBERED = 60; // lines told again to a new session
const NAMES = { you: "You", omni: "Omni", note: "" };

function element(tag, name, text = "") {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.textContent = text;
  return node;
}

/** One turn of one side; `kept` letters of the text count as said. */
class Line {
  constructor(side, id) {
    Object.assign(this, { side, id, kept: 0, cut: false, open: true, pictures: [], at: new Date() });
    this.sound = new Alignment();
    this.node = element("li", `line ${side}`);
    this.node.append(element("span", "who", NAMES[side]));
    this.body = this.node.appendChild(element("div", "what"));
    this.words = this.body.appendChild(element("p"));
    this.said = this.words.appendChild(element("span", "said"));
    this.rest = this.words.appendChild(element("span", "ahead"));
  }

  get text() {
    return this.sound.text;
  }

  show() {
    this.said.textContent = this.text.slice(0, this.kept);
    this.rest.textContent = this.text.slice(this.kept);
    this.node.classList.toggle("waiting", this.open && !this.text && !this.pictures.length);
    this.words.hidden = !this.text && this.pictures.length > 0;
  }

  /** What was cut is deleted text to a screen reader too. */
  strike() {
    const struck = element("del", "cut");
    this.rest.replaceWith(struck);
    this.rest = struck;
    this.show();
  }
}

export class Captions {
  constructor(settings) {
    this.settings = settings;
    this.list = document.querySelector("#captions");
    this.scroll = document.querySelector("#scroll");
    this.announced = document.querySelector("#announce");
    this.following = true; // until the person scrolls up to read
    const { scroll } = this;
    scroll.addEventListener("scroll", () => (this.following = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60));
    const follow = new ResizeObserver(() => this.following && !this.empty && (scroll.scrollTop = scroll.scrollHeight));
    follow.observe(this.list);
    follow.observe(scroll);
    this.clear();
  }

  clear() {
    this.lines = [];
    this.byId = new Map();
    this.list.replaceChildren();
    this.announced.replaceChildren();
  }

  get empty() {
    return this.lines.length === 0;
  }

  line(side, id) {
    if (id && this.byId.has(id)) return this.byId.get(id);
    const line = new Line(side, id);
    this.lines.push(line);
    if (id) this.byId.set(id, line);
    this.list.append(line.node);
    line.show();
    return line;
  }

  /** More text; all of it counts as said when there will be no sound. */
  append(line, text, aloud) {
    line.sound.append(text);
    if (!aloud) line.kept = line.text.length;
    line.show();
  }

  /** The whole text, which replaces what was there. */
  replace(line, text) {
    line.sound = new Alignment();
    this.append(line, text, false);
  }

  picture(url, name) {
    const last = this.lines.at(-1);
    const line = last?.pictures.length && !last.text ? last : this.line("you");
    const image = element("img");
    image.src = url;
    image.alt = name;
    line.pictures.push({ url, name });
    line.open = false;
    line.node.classList.add("shown");
    line.body.append(image);
    line.show();
  }

  note(text) {
    const line = this.line("note");
    line.sound.append(text);
    this.close(line);
  }

  received(id, seconds) {
    this.byId.get(id)?.sound.receive(seconds);
  }

  heardAll(id) {
    this.byId.get(id)?.sound.end();
  }

  /** `seconds` of the line's sound have been heard. */
  played(id, seconds) {
    const line = this.byId.get(id);
    if (!line || line.cut) return;
    const kept = Math.max(line.kept, line.sound.begun(seconds));
    if (kept === line.kept) return;
    line.kept = kept;
    line.show();
  }

  /** The line was stopped after `seconds`: what comes after is struck through. */
  cut(id, seconds) {
    const line = this.byId.get(id);
    if (!line || line.cut) return;
    line.cut = true;
    line.kept = line.sound.finished(seconds);
    if (line.kept) line.kept += /^\s*/.exec(line.text.slice(line.kept))[0].length; // no space is struck through
    line.strike();
    this.#announce(line);
  }

  /** The server's own word on what it remembers of a line that was cut. */
  remembered(id, text) {
    const line = this.byId.get(id);
    if (!line?.cut || !text || !line.text.trimStart().startsWith(text.trim())) return;
    line.kept = line.text.indexOf(text.trim()) + text.trim().length;
    line.kept += /^\s*/.exec(line.text.slice(line.kept))[0].length;
    line.show();
  }

  /** Nothing more will come; a line that stayed empty goes. */
  close(line) {
    if (!line.open) return;
    line.open = false;
    if (!line.cut) line.kept = line.text.length;
    if (!line.text && !line.pictures.length) {
      line.node.remove();
      this.lines = this.lines.filter((other) => other !== line);
      this.byId.delete(line.id);
      return;
    }
    line.show();
    if (!line.cut) this.#announce(line);
  }

  /** Closes the line of that id, or without one every line. */
  closeAll(id) {
    for (const line of this.lines.filter((line) => line.id === (id ?? line.id))) this.close(line);
  }

  /** What was said, as far as it was heard, as items for a session that knows nothing of it. */
  items() {
    const items = [];
    for (const { side, text, kept, cut, pictures } of this.lines.slice(-REMEMBERED)) {
      const words = (cut ? text.slice(0, kept) : text).trim();
      const seen = pictures.map(({ url }) => ({ type: "input_image", image_url: url }));
      if (side === "note" || words === WORDLESS || (!words && !seen.length)) continue;
      const written = words ? [{ type: side === "you" ? "input_text" : "output_text", text: words }] : [];
      items.push({ type: "message", role: side === "you" ? "user" : "assistant", content: [...seen, ...written] });
    }
    return items;
  }

  #announce({ side, text, kept, cut }) {
    if (!this.settings.get("announce") || side === "note" || !text) return;
    const words = cut ? `${text.slice(0, kept)} (interrupted)` : text;
    this.announced.append(element("p", "", `${NAMES[side]}: ${words}`));
    while (this.announced.childElementCount > 20) this.announced.firstChild.remove();
  }
}
