/** Every event of the connection, without its sound and pictures, to be read and filtered. */

const MOST = 600;

/** The event with long base64 replaced by its size. */
export function elided(event) {
  return JSON.parse(
    JSON.stringify(event, (name, value) => {
      if (typeof value !== "string" || value.length < 200) return value;
      if (["audio", "delta"].includes(name) && !/\s/.test(value)) return `(${Math.round((value.length * 3) / 4)} bytes of sound)`;
      if (value.startsWith("data:")) return `(${Math.round((value.length * 3) / 4)} bytes of ${value.slice(5, value.indexOf(";"))})`;
      return value;
    }),
  );
}

export class Log {
  constructor() {
    this.list = document.querySelector("#log");
    this.filter = document.querySelector("#log-filter");
    this.sides = { sent: document.querySelector("#log-client"), received: document.querySelector("#log-server") };
    this.panel = document.querySelector("#panel");
    this.rows = [];
    this.flowing = new Map(); // rows of pieces since the last event that is none, by type
    this.start = performance.now();
    for (const field of [this.filter, this.sides.sent, this.sides.received]) field.addEventListener("input", () => this.#show());
    document.querySelector("#log-clear").addEventListener("click", () => this.clear());
  }

  clear() {
    this.rows = [];
    this.flowing.clear();
    this.list.replaceChildren();
    document.querySelector("#log-empty").hidden = false;
  }

  add(side, event) {
    const brief = elided(event);
    const piece = /\.(append|delta)$/.test(event.type);
    const same = piece && this.flowing.get(event.type);
    if (same) {
      same.events.push(brief);
      if (same.events.length > 200) same.events.shift();
      same.count.textContent = `×${++same.times}`;
      return;
    }
    document.querySelector("#log-empty").hidden = true;
    const row = this.#row(side, event.type, brief);
    if (piece) this.flowing.set(event.type, row);
    else this.flowing.clear();
    this.rows.push(row);
    this.#place(row);
    const { panel } = this;
    const near = panel.scrollHeight - panel.scrollTop - panel.clientHeight < 60;
    this.list.append(row.node);
    if (near && this.list.checkVisibility()) panel.scrollTop = panel.scrollHeight;
    if (this.rows.length > MOST) this.rows.shift().node.remove();
  }

  #row(side, type, event) {
    const node = document.createElement("li");
    const details = node.appendChild(document.createElement("details"));
    const summary = details.appendChild(document.createElement("summary"));
    const part = (name, text) => {
      const span = summary.appendChild(document.createElement("span"));
      span.className = name;
      span.textContent = text;
      return span;
    };
    node.className = type === "error" ? "error" : side === "sent" ? "you" : "omni";
    part("when", ((performance.now() - this.start) / 1000).toFixed(2));
    part("way", side === "sent" ? "↑" : "↓").title = side;
    const name = part("type", "");
    for (const word of type.split(/(?<=[._])/)) name.append(word, document.createElement("wbr"));
    const row = { side, type, node, events: [event], times: 1, count: part("count", "") };
    details.addEventListener("toggle", () => {
      details.querySelector("pre")?.remove();
      if (!details.open) return;
      const shown = row.events.length > 1 ? row.events : row.events[0];
      details.appendChild(document.createElement("pre")).textContent = JSON.stringify(shown, null, 2);
    });
    return row;
  }

  #place(row) {
    const wanted = this.filter.value.trim().toLowerCase();
    const found = !wanted || row.type.includes(wanted) || JSON.stringify(row.events).toLowerCase().includes(wanted);
    row.node.hidden = !found || !this.sides[row.side].checked;
  }

  #show() {
    for (const row of this.rows) this.#place(row);
  }
}
