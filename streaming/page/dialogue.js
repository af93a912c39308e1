/**
 * One conversation over the realtime protocol: whose turn it is, what is being said, and what an interruption takes back.
 *
 * The server hears and speaks; this side alone knows how much of an answer was played, and tells it after every interruption.
 */

import { WORDLESS } from "./captions.js";
import { Connection } from "./connection.js";
import { microphoneTrouble } from "./microphone.js";
import { RATE, fromBase64, toBase64 } from "./pcm.js";

const BEFORE = 6; // pieces of 40 ms kept from before the button was pressed, so that no first syllable is lost
const LEAST = 250; // ms; a shorter press is a mistake
const TAIL = 90; // ms in which the last piece still arrives after the button was let go

export class Dialogue {
  /**
   * @param parts the page's other parts by name.
   * @param on callbacks: changed(); notice(text, kind, action) with kind "passing", "lasting" or "" to take it back, action {label, act}; refused(text) when
   *   the server let nobody in; unsent(text) with what was typed and could not be sent; listening() once there is a microphone.
   */
  constructor(parts, on) {
    Object.assign(this, parts);
    this.on = on;
    this.model = "";
    this.state = "off"; // off, connecting, live, waiting
    this.connection = new Connection({
      event: (event) => this.#receive(event),
      sent: (event) => this.log.add("sent", event),
      lost: (loss) => this.#lost(loss),
      closed: (end) => this.#closed(end),
    });
    this.serial = 0;
    this.outbox = ""; // typed before there was a session
    this.#reset();
  }

  #reset() {
    this.active = null; // id of the response that is being made
    this.item = null; // {id, spoken} of its message
    this.indexes = new Map(); // content index of each message
    this.awaiting = false; // an answer was asked for and has not begun
    this.wanted = false; // ask for an answer as soon as the one before has ended
    this.hearing = false;
    this.held = false;
    this.stopped = new Set(); // responses of which nothing more is played
    this.cut = new Set(); // items that were stopped while they were played
    this.heard = new Set(); // items that were played to their end
    this.sounded = false; // the server froze the voice of this session
    this.before = [];
    clearTimeout(this.releasing);
    this.releasing = null;
  }

  get live() {
    return this.state === "live";
  }

  get manual() {
    return this.settings.can.hears && this.settings.get("turns") === "manual";
  }

  get busy() {
    return Boolean(this.active || this.awaiting) || !this.speaker.idle;
  }

  /** What the page shows: one word for the state of the conversation. */
  get phase() {
    if (this.state === "waiting") return "reconnecting";
    if (!this.live) return this.state;
    if (this.held) return "listening";
    if (performance.now() - (this.interruptedAt ?? -1e9) < 1600 && !this.speaker.speaking) return "interrupted";
    if (this.hearing) return "listening";
    if (this.speaker.speaking) return "speaking";
    if (this.busy) return "thinking";
    if (this.microphone.running && this.microphone.muted) return "muted";
    if (!this.microphone.running) return this.settings.can.hears ? "typing" : "ready";
    return this.manual ? "ready" : "listening";
  }

  // Beginning and end

  /** Must be called in a gesture of the user: browsers give sound and microphone to nothing else. */
  async start(withMicrophone) {
    this.state = "connecting";
    this.on.notice("", "");
    this.on.changed();
    const { settings } = this;
    try {
      await this.speaker.start(settings.get("volume"));
      await this.speaker.use(settings.get("output"));
    } catch ({ message }) {
      const instead = this.speaker.ready ? "The system's own plays instead." : "The captions still work.";
      this.on.notice(`The loudspeaker that was chosen cannot be used (${message}). ${instead}`, "lasting");
    }
    if (this.state !== "connecting") return;
    this.#dial();
    if (withMicrophone) await this.listen();
  }

  #dial() {
    this.connection.open({ model: this.model, key: this.settings.key });
  }

  async listen() {
    try {
      await this.microphone.start(this.settings.get("input"));
      if (this.state === "off") this.microphone.stop();
      else this.on.listening();
    } catch (error) {
      this.on.notice(microphoneTrouble(error), "lasting");
    }
    this.on.changed();
  }

  end() {
    this.connection.close();
    this.#silence(null, false);
    this.microphone.stop();
    this.camera.stop();
    if (this.state === "waiting") this.on.notice("", ""); // which says that it will try again
    this.state = "off";
    this.outbox = "";
    this.#reset();
    this.on.changed();
  }

  /** A new session of the server, which knows nothing of the one before unless it is told. */
  renew() {
    this.connection.close();
    this.#silence(null, false);
    this.#reset();
    this.state = "connecting";
    this.#dial();
    this.on.changed();
  }

  startOver() {
    const running = this.state !== "off";
    for (const part of [this.captions, this.conversation, this.timing, this.tape]) part.clear();
    if (running) this.renew();
    this.on.changed();
  }

  #lost({ text, wait }) {
    this.#silence(null, false);
    this.#reset();
    this.state = "waiting";
    const again = `${text} Trying again in ${Math.max(1, Math.round(wait / 1000))} s. If it was stopped, start it with: omni serve`;
    this.on.notice(again, "lasting", { label: "Try now", act: () => this.connection.retry() });
    this.on.changed();
  }

  #closed({ text, refused }) {
    this.on.unsent(this.outbox);
    this.end();
    if (refused) this.on.refused(text);
    else this.on.notice(text, "lasting");
  }

  #welcome() {
    const again = this.state === "waiting";
    this.state = "live";
    this.startedAt ??= performance.now();
    this.configure();
    const items = this.captions.items();
    for (const item of items) this.send({ type: "conversation.item.create", item });
    if (again) {
      this.on.notice("", "");
      this.captions.note(items.length ? "Connected again. omni was told what was said so far, in writing." : "Connected again.");
    }
    if (this.outbox) this.say(this.outbox);
    this.outbox = "";
    this.on.changed();
  }

  configure() {
    if (this.live) this.send({ type: "session.update", session: this.settings.session() });
  }

  /** The server keeps the voice of a session once it has spoken. */
  changeVoice() {
    if (this.sounded && this.live) this.renew();
    else this.configure();
  }

  send(event) {
    return this.connection.send(event);
  }

  // The person's turn

  /** A piece from the microphone. */
  piece(samples, level, at) {
    this.tape.spoke(this.microphone.muted ? 0 : level, at);
    if (!this.live) return;
    if (this.manual && !this.held) {
      this.before.push([samples, at]);
      if (this.before.length > BEFORE) this.before.shift();
    } else this.#append(samples, at);
  }

  #append(samples, at) {
    this.send({ type: "input_audio_buffer.append", audio: toBase64(samples) });
    if (!this.microphone.muted) this.conversation.said(samples, at);
  }

  press() {
    if (!this.live || !this.microphone.running || this.held) return;
    this.interrupt("button");
    this.held = true;
    this.pressedAt = performance.now();
    this.send({ type: "input_audio_buffer.clear" });
    this.#show();
    for (const [samples, at] of this.before.splice(0)) this.#append(samples, at);
    this.on.changed();
  }

  release() {
    if (!this.held || this.releasing) return;
    const now = performance.now();
    this.releasing = setTimeout(() => this.#released(now), TAIL);
  }

  #released(at) {
    this.releasing = null;
    if (!this.held) return; // the connection was lost meanwhile
    this.held = false;
    this.camera.rest();
    if (at - this.pressedAt < LEAST) {
      this.send({ type: "input_audio_buffer.clear" });
      this.on.notice("Hold it down while you speak.", "passing");
    } else {
      this.send({ type: "input_audio_buffer.commit" });
      this.timing.begin(at);
      this.#respond();
    }
    this.on.changed();
  }

  /** Puts the pictures before the words that follow them. */
  #show() {
    for (const picture of this.pictures.take()) this.frame(picture);
    this.camera.watch(Number(this.settings.get("frames")));
  }

  frame({ url, name }) {
    const content = [{ type: "input_image", image_url: url }];
    if (this.live && this.send({ type: "conversation.item.create", item: { type: "message", role: "user", content } }))
      this.captions.picture(url, name);
  }

  /** A typed message; the connection is made where there is none. */
  async say(text) {
    if (!this.live) {
      this.outbox = this.outbox ? `${this.outbox}\n${text}` : text;
      if (this.state === "off") await this.start(false);
      return;
    }
    this.interrupt("message");
    this.#show();
    this.camera.rest();
    const id = `page_${Date.now().toString(36)}_${++this.serial}`;
    const line = this.captions.line("you", id);
    this.captions.append(line, text, false);
    this.captions.close(line);
    const content = [{ type: "input_text", text }];
    this.send({ type: "conversation.item.create", item: { id, type: "message", role: "user", content } });
    this.timing.begin(performance.now());
    this.#respond();
    this.on.changed();
  }

  #respond() {
    this.awaiting = true;
    if (this.active) this.wanted = true;
    else this.send({ type: "response.create" });
  }

  // Interruptions

  /** Stops the answer. By "voice" the server has stopped already; otherwise it is told. */
  interrupt(by) {
    if (!this.busy) return;
    if (by !== "voice" && (this.active || this.awaiting)) this.send({ type: "response.cancel" });
    this.wanted = this.awaiting = false;
    this.interruptedAt = performance.now();
    setTimeout(() => this.on.changed(), 1650);
    this.#silence(this.active);
    this.on.changed();
  }

  /** Ends playing, and says in the captions, and to the session if it goes on, how far each item came. */
  async #silence(response, goesOn = true) {
    const { item, indexes, speaker } = this;
    const unheard = [];
    if (response) this.stopped.add(response);
    if (response && item?.spoken && !this.heard.has(item.id) && !speaker.queued.has(item.id)) unheard.push({ id: item.id, played: 0 });
    for (const id of [...speaker.queued.keys(), ...unheard.map(({ id }) => id)]) this.cut.add(id);
    this.timing.end();
    this.tape.cut();
    for (const { id, played } of [...(await speaker.flush()), ...unheard]) {
      this.captions.cut(id, played / RATE);
      const audio_end_ms = Math.floor((played * 1000) / RATE);
      const content_index = indexes.get(id) ?? 0;
      if (goesOn) this.send({ type: "conversation.item.truncate", item_id: id, content_index, audio_end_ms });
    }
    if (!goesOn) this.captions.closeAll();
  }

  // What the loudspeaker tells

  played(span) {
    this.tape.played(span);
    this.conversation.played(span);
    const { id, from, length, at } = span;
    if (from === 0) {
      this.timing.sound(at + this.speaker.latency);
      this.on.changed();
    }
    this.captions.played(id, (from + length) / RATE - this.speaker.latency / 1000);
  }

  finished(id) {
    this.tape.finish(id);
    if (this.cut.has(id)) return;
    this.heard.add(id);
    this.captions.closeAll(id);
    if (!this.active) this.timing.end();
    this.on.changed();
  }

  // What the server tells

  #receive(event) {
    this.log.add("received", event);
    if (event.type === "error" || event.type.includes(".")) this[event.type]?.(event); // no other method has such a name
  }

  "session.created"() {
    this.#welcome();
  }

  error({ error }) {
    const code = error.code ?? "";
    if (code === "response_cancel_not_active" || error.message.startsWith("Cancellation failed")) return;
    if (code === "conversation_already_has_active_response") return void (this.wanted = true);
    this.awaiting = false;
    this.on.notice(error.message, "passing");
    this.on.changed();
  }

  "input_audio_buffer.speech_started"({ item_id }) {
    this.interrupt("voice");
    this.hearing = true;
    this.#show();
    this.captions.line("you", item_id);
    this.on.changed();
  }

  "input_audio_buffer.speech_stopped"() {
    this.hearing = false;
    this.interruptedAt = null;
    this.camera.rest();
    this.timing.begin(this.microphone.heard || performance.now());
    this.timing.over();
    this.on.changed();
  }

  "input_audio_buffer.committed"({ item_id }) {
    this.hearing = false;
    this.awaiting ||= !this.manual;
    this.captions.line("you", item_id);
    this.on.changed();
  }

  "conversation.item.input_audio_transcription.delta"({ item_id, delta }) {
    this.captions.append(this.captions.line("you", item_id), delta ?? "", false);
  }

  "conversation.item.input_audio_transcription.completed"({ item_id, transcript }) {
    this.#understood(item_id, transcript.trim() || WORDLESS);
  }

  "conversation.item.input_audio_transcription.failed"({ item_id }) {
    this.#understood(item_id, WORDLESS);
  }

  #understood(id, words) {
    const line = this.captions.line("you", id);
    this.captions.replace(line, words);
    this.captions.close(line);
  }

  "conversation.item.truncated"({ item_id }) {
    this.send({ type: "conversation.item.retrieve", item_id });
  }

  "conversation.item.retrieved"({ item }) {
    const words = item.content?.map(({ transcript, text }) => transcript ?? text ?? "").join("");
    this.captions.remembered(item.id, words);
  }

  "response.created"({ response }) {
    this.active = response.id;
    this.interruptedAt = null;
    this.item = null;
    this.awaiting = false;
    this.on.changed();
  }

  "response.content_part.added"({ response_id, item_id, content_index, part }) {
    if (this.stopped.has(response_id)) return;
    this.item = { id: item_id, spoken: part.type === "audio" };
    this.indexes.set(item_id, content_index);
    this.captions.line("omni", item_id);
  }

  "response.output_audio_transcript.delta"({ response_id, item_id, delta }) {
    this.#text(response_id, item_id, delta, true);
  }

  "response.output_text.delta"({ response_id, item_id, delta }) {
    this.#text(response_id, item_id, delta, false);
  }

  #text(response, id, delta, aloud) {
    if (this.stopped.has(response)) return;
    this.timing.text();
    this.captions.append(this.captions.line("omni", id), delta, aloud && this.speaker.ready);
  }

  "response.output_audio.delta"({ response_id, item_id, delta }) {
    if (this.stopped.has(response_id) || this.cut.has(item_id) || !this.speaker.ready) return;
    const samples = fromBase64(delta);
    this.sounded = true;
    this.timing.received(samples.length / RATE);
    this.captions.received(item_id, samples.length / RATE);
    this.conversation.received(item_id, samples.slice());
    this.tape.push(item_id, samples);
    this.speaker.push(item_id, samples);
  }

  "response.output_audio.done"({ item_id }) {
    this.captions.heardAll(item_id);
    this.speaker.end(item_id);
  }

  "response.done"({ response }) {
    if (this.active === response.id) this.active = null;
    const { status, status_details: details } = response;
    if (status === "cancelled" && details?.reason === "turn_detected" && !this.stopped.has(response.id)) this.#silence(response.id);
    for (const { id, type } of response.output ?? []) {
      if (type !== "message" || this.cut.has(id)) continue;
      this.speaker.end(id);
      if (!this.speaker.queued.has(id)) this.captions.closeAll(id);
    }
    if (status === "failed") this.on.notice(details?.error?.message ?? "The answer failed.", "passing");
    if (status === "incomplete") this.captions.note(`The answer met a limit (${(details?.reason ?? "unknown").replaceAll("_", " ")}).`);
    if (this.speaker.idle) this.timing.end();
    if (this.wanted) this.send({ type: "response.create" });
    else this.awaiting = false;
    this.wanted = false;
    this.on.changed();
  }
}
