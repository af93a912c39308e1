/** One WebSocket to the server's realtime endpoint, and its return after a loss. */

const WAITS = [500, 1000, 2000, 4000, 8000, 15000]; // ms between attempts
const ATTEMPTS = 20;
const SUBPROTOCOL = /^[A-Za-z0-9!#$%&'*+.^_`|~-]+$/;

export const sendable = (key) => SUBPROTOCOL.test(key);

/** Why a socket was closed, in words. */
function reason({ code, reason: said }, welcomed) {
  if (!welcomed && code === 1006) return "The server took no new conversation. It may hold all that it can; try again in a moment.";
  if (code === 1012) return "The server is restarting.";
  if (code === 1001) return said ? `The server ended the connection: ${said}.` : "The server is going down.";
  if (code === 1006) return "The connection was lost.";
  return said ? `The server ended the connection: ${said.replaceAll("_", " ")}.` : `The server ended the connection (code ${code}).`;
}

export class Connection {
  /**
   * @param on callbacks: event(object) from the server; sent(object); lost({text, wait}) when it will try again in `wait` ms;
   *   closed({text, refused}) when it will not; `refused` when there never was a session.
   */
  constructor(on) {
    this.on = on;
    this.socket = null;
    this.serial = 0;
  }

  open({ model, key }) {
    this.address = new URL("v1/realtime", document.baseURI);
    this.address.protocol = this.address.protocol.replace("http", "ws");
    if (model) this.address.searchParams.set("model", model);
    this.protocols = ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])];
    this.attempt = 0;
    this.welcomed = false;
    this.#dial();
  }

  #dial() {
    this.timer = null;
    const socket = (this.socket = new WebSocket(this.address, this.protocols));
    socket.onmessage = ({ data }) => {
      if (socket !== this.socket) return;
      const event = JSON.parse(data);
      if (event.type === "session.created") {
        this.welcomed = true;
        this.attempt = 0;
      }
      if (event.type === "error") this.complaint = event.error;
      this.on.event(event);
    };
    socket.onclose = (event) => {
      if (socket !== this.socket) return;
      this.socket = null;
      const final = event.code === 1008 || event.code === 1009 || ++this.attempt > ATTEMPTS;
      if (!this.welcomed || final) {
        const explained = this.complaint && this.complaint.code === event.reason; // the error before the end says it in a sentence
        const text = explained ? this.complaint.message : reason(event, this.welcomed);
        return this.on.closed({ text, refused: !this.welcomed });
      }
      const wait = WAITS[Math.min(this.attempt, WAITS.length) - 1] * (0.8 + 0.4 * Math.random());
      this.timer = setTimeout(() => this.#dial(), wait);
      this.on.lost({ text: reason(event, true), wait });
    };
  }

  /** Tries now instead of when the time has come; nothing where it would not try again. */
  retry() {
    if (this.socket || !this.timer) return;
    clearTimeout(this.timer);
    this.#dial();
  }

  get ready() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  /** Sends an event; false where there is no connection. */
  send(event) {
    if (!this.ready) return false;
    const whole = { event_id: `page_${++this.serial}`, ...event };
    this.socket.send(JSON.stringify(whole));
    this.on.sent(whole);
    return true;
  }

  close() {
    clearTimeout(this.timer);
    this.timer = null;
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
  }
}
