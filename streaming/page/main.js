/** Puts the page together: parts, buttons and what they are called in each state. */

import { Camera } from "./camera.js";
import { Captions } from "./captions.js";
import { sendable } from "./connection.js";
import { Conversation } from "./conversation.js";
import { Devices } from "./devices.js";
import { Dialogue } from "./dialogue.js";
import { look } from "./health.js";
import { keys } from "./keys.js";
import { Tape } from "./levels.js";
import { Log } from "./log.js";
import { Microphone } from "./microphone.js";
import { Panels } from "./panels.js";
import { Pictures } from "./pictures.js";
import { Samples } from "./samples.js";
import { Settings, fill } from "./settings.js";
import { Speaker } from "./speaker.js";
import { Timing } from "./timing.js";

const $ = (id) => document.getElementById(id);
const PHASES = {
  checking: "Looking for the server",
  down: "Server not reached",
  busy: "Server is busy",
  key: "Key needed",
  off: "Ready",
  connecting: "Connecting",
  reconnecting: "Reconnecting",
  listening: "Listening",
  thinking: "Thinking",
  speaking: "Speaking",
  interrupted: "Interrupted",
  muted: "Muted",
  typing: "No microphone",
  ready: "Your turn",
};
const WELCOMES = {
  off: ["Talk, show,\nor type.", "Press the button and speak. It answers aloud, and you may cut in whenever you like."],
  listening: ["I am listening.", "Just speak, and stop when you are done."],
  manual: ["Your turn.", "Hold the button or the space bar while you speak, and let go when you are done."],
  typing: ["Write to me.", "I cannot hear you, but I can read and answer aloud."],
};

/** What the page says before the first line: what the model can do, and whose turn it is. */
function welcome(at, { hears, sees, speaks }) {
  if (hears && sees && speaks) return WELCOMES[at];
  const ways = [hears && "talk", sees && "show", "type"].filter(Boolean).join(", ").replace(/, (\w+)$/, " or $1");
  const lacks = [!hears && "hear", !sees && "see", !speaks && "speak"].filter(Boolean).join(", ").replace(/, (\w+)$/, " or $1");
  const title = at === "off" ? `${ways[0].toUpperCase()}${ways.slice(1)}.` : WELCOMES[at][0];
  return [title, `This model does not ${lacks}. It answers ${speaks ? "aloud" : "in writing"}.`];
}
const AGAIN = 2000; // ms until a server that was down or busy is asked again; twice as long each time
const LONGEST = 30000;

const message = $("message");
let server = { state: "checking", text: "" };
let level = 0;
let tries = 0;

const panels = new Panels();
const log = new Log();
const settings = new Settings($("panel-settings"), choose);
const captions = new Captions(settings);
const conversation = new Conversation();
const timing = new Timing();
const tape = new Tape($("tape"), { you: $("tape-you"), omni: $("tape-omni") }, $("talk"));
const devices = new Devices(settings);
const pictures = new Pictures((text) => notice(text, "passing"));
const speaker = new Speaker({
  played: (span) => dialogue.played(span),
  finished: (id) => dialogue.finished(id),
  report: (state) => timing.report(state),
});
const microphone = new Microphone({
  piece(samples, loud, at) {
    level = loud;
    dialogue.piece(samples, loud, at);
  },
  lost() {
    notice("The microphone was unplugged.", "lasting");
    render();
  },
});
const camera = new Camera({
  frame: (picture) => dialogue.frame(picture),
  changed: () => render(),
  trouble: (text) => notice(text, "passing"),
});
const dialogue = new Dialogue(
  { settings, captions, conversation, timing, tape, pictures, speaker, microphone, camera, log },
  { changed: () => render(), notice, refused, listening: () => devices.list(), unsent: (text) => (message.value ||= text) },
);

const samples = new Samples({
  ask: (text) => server.state === "ready" && dialogue.say(text),
  async show(file, name) {
    const response = await fetch(file);
    await pictures.add([new File([await response.blob()], name, { type: "image/png" })]);
  },
});

// The server

async function check() {
  clearTimeout(check.timer);
  server = await look(settings.key);
  if (server.state === "ready") {
    dialogue.model = server.model;
    settings.can = server.can;
    pictures.seen = server.can.sees;
    samples.fill(server.can, server.bundled);
    tries = 0;
    settings.show();
    const voices = server.voices.map((voice) => ({ value: voice, text: voice }));
    if (settings.get("voice") && !server.voices.includes(settings.get("voice"))) settings.set("voice", "");
    if (server.usual) $("s-voice").options[0].textContent = `Default voice (${server.usual})`;
    fill($("s-voice"), voices, settings.get("voice"));
  } else if (server.state !== "key") {
    const wait = Math.min(LONGEST, AGAIN * 2 ** tries++);
    check.timer = setTimeout(check, wait);
    $("server-again").textContent = `The page asks again in ${wait / 1000} s.`;
  }
  render();
  if (server.state === "key") $("key").focus();
  else if (server.state === "ready" && document.activeElement === document.body) $("talk").focus();
}

/** There was no session: the health of the server says more than the socket does. */
async function refused(text) {
  server = { state: "checking", text: "Looking for the server" };
  render();
  await check();
  if (server.state === "ready") notice(text, "lasting");
}

$("retry").addEventListener("click", () => {
  tries = 0;
  check();
});

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = $("key").value.trim();
  if (!sendable(key)) {
    server.text = "This key has characters that a browser cannot send. Keys are letters, digits, - and _.";
    return render();
  }
  settings.key = key;
  check();
});

// Choices

function choose(name, value) {
  if (["voice", "instructions"].includes(name)) tellEffect(name);
  if (name === "volume") speaker.volume = value;
  else if (name === "voice") dialogue.changeVoice();
  else if (name === "input" && microphone.running) dialogue.listen();
  else if (name === "output") speaker.use(value).catch(({ message }) => notice(`This loudspeaker cannot be used (${message}).`, "passing"));
  else if (["answer", "turns", "pause", "eagerness", "instructions"].includes(name)) {
    clearTimeout(choose.timer);
    choose.timer = setTimeout(() => dialogue.configure(), 400); // a text that is being typed is sent once
  }
  if (name === "theme") requestAnimationFrame(() => tape.draw());
  render();
}

/** When what was chosen beside the talk is heard. */
function tellEffect(name) {
  const now = dialogue.live && name === "voice" && dialogue.sounded;
  $("effect").textContent = now
    ? "Takes effect now: the server keeps a voice, so a new session begins, and is told what was said."
    : `Takes effect ${dialogue.live ? "with the next answer" : "when you start"}.`;
}

$("forget").addEventListener("click", () => {
  settings.forget();
  $("key").value = "";
  notice("Key and settings are forgotten.", "passing");
});

// Notices

/** @param kind "lasting" until it is closed, "passing" for some seconds, "" to take the last one back; action {label, act}. */
function notice(text, kind, action) {
  clearTimeout(notice.timer);
  $("notice-text").textContent = text;
  $("notice").classList.toggle("shown", Boolean(text));
  $("notice-close").hidden = !text;
  $("notice-action").hidden = !action;
  $("notice-action").textContent = action?.label ?? "";
  $("notice-action").onclick = action?.act ?? null;
  if (kind === "passing") notice.timer = setTimeout(() => notice("", ""), 6000);
}
$("notice-close").addEventListener("click", () => notice("", ""));

// The button

/** What the big button is for now. */
function role() {
  const { state, phase, manual } = dialogue;
  const { hears } = settings.can;
  const start = hears ? { label: "Start", icon: "mic" } : { label: "Write", icon: "keys" };
  if (state === "off") return { ...start, act: () => begin(hears), off: server.state !== "ready" };
  if (state !== "live") return { label: "Connecting", hint: "stop", icon: "end", act: () => dialogue.end() };
  if (manual && microphone.running) return { label: dialogue.held ? "Listening" : "Hold to talk", icon: "mic", hold: true };
  if (phase === "speaking" || phase === "thinking") return { label: phase === "speaking" ? "Speaking" : "Thinking", hint: "interrupt", icon: "stop", act: () => dialogue.interrupt("button") };
  if (!hears) return { ...start, act: () => message.focus() };
  if (!microphone.running) return { label: "Use microphone", icon: "mic", act: () => dialogue.listen() };
  if (microphone.muted) return { label: "Muted", hint: "unmute", icon: "mic-off", act: mute };
  return { label: "Listening", hint: "mute", icon: "mic", act: mute };
}

async function begin(hears) {
  if (!hears) message.focus();
  await dialogue.start(hears);
}

function mute() {
  if (!microphone.running) return;
  microphone.muted = !microphone.muted;
  render();
}

const talk = $("talk");
talk.addEventListener("click", ({ detail }) => {
  const { act, hold, off } = role();
  if (off) return;
  if (!hold) return void act();
  if (detail !== 0) return; // a real press came through the pointer; assistive technology only clicks: once to begin, once to end
  if (dialogue.held) dialogue.release();
  else dialogue.press();
});
talk.addEventListener("pointerdown", (event) => {
  if (!role().hold || event.button !== 0) return;
  talk.setPointerCapture(event.pointerId);
  dialogue.press();
});
for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) talk.addEventListener(end, () => dialogue.release());
talk.addEventListener("contextmenu", (event) => role().hold && event.preventDefault());

$("mute").addEventListener("click", mute);
$("end").addEventListener("click", () => {
  dialogue.end();
  talk.focus();
});
for (const source of ["camera", "screen"])
  $(source).addEventListener("click", () => (camera.source === source ? camera.stop() : camera.start(source)));

// Typing

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = message.value.trim();
  if (!text || server.state !== "ready") return;
  message.value = "";
  dialogue.say(text);
});
message.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("composer").requestSubmit();
});

// Saving

$("save-sound").addEventListener("click", () => {
  if (conversation.silent) return notice("Nothing was said aloud yet.", "passing");
  conversation.save(conversation.sound(), "wav");
  if (conversation.full) notice("The first 30 minutes were kept; sound after that is not in the file.", "lasting");
});
$("save-markdown").addEventListener("click", () => conversation.save(conversation.markdown(captions.lines, dialogue.model), "md"));
$("save-json").addEventListener("click", () => conversation.save(conversation.json(captions.lines, dialogue.model, timing.turns), "json"));
$("start-over").addEventListener("click", () => {
  $("save").hidePopover();
  dialogue.startOver();
  dialogue.startedAt = dialogue.live ? performance.now() : null;
  talk.focus();
});

for (const by of ["pointer", "key"]) // no ring around a button that was clicked
  document.addEventListener(`${by}down`, () => (document.body.dataset.by = by), true);

keys({
  letters: () => settings.get("shortcuts"),
  space: () => role().hold,
  act: {
    press: () => dialogue.press(),
    release: () => dialogue.release(),
    escape: () => (dialogue.busy ? dialogue.interrupt("key") : panels.open && panels.toggle(panels.shown)),
    mute,
    captions: () => settings.set("captions", !settings.get("captions")),
    panel: (name) => panels.toggle(name),
    type: () => message.focus(),
    help: () => $("help").showModal(),
  },
});

// What is shown

function icon(id, name) {
  $(id).setAttribute("href", `#i-${name}`);
}

function render() {
  const { live, state } = dialogue;
  const idle = state === "off" && server.state !== "ready";
  const phase = idle ? server.state : dialogue.phase;
  const { label, hint = "", icon: sign, hold, off } = role();
  document.body.dataset.phase = phase;
  $("phase").textContent = PHASES[phase];
  $("talk-label").textContent = label;
  icon("talk-icon", sign);
  talk.disabled = Boolean(off);
  talk.toggleAttribute("data-held", dialogue.held);
  $("talk-hint").textContent = hint;
  if (hold) talk.setAttribute("aria-pressed", dialogue.held);
  else talk.removeAttribute("aria-pressed");
  $("mute").disabled = !microphone.running;
  $("mute").setAttribute("aria-pressed", microphone.running && microphone.muted);
  icon("mute-icon", microphone.muted ? "mic-off" : "mic");
  $("end").disabled = state === "off";
  $("send").disabled = server.state !== "ready";
  const { hears, sees } = settings.can;
  $("mute").hidden = !hears;
  for (const way of ["camera", "picture"]) $(way).hidden = !sees;
  $("screen").hidden = !sees || !navigator.mediaDevices?.getDisplayMedia; // phones have none
  for (const source of ["camera", "screen"]) $(source).setAttribute("aria-pressed", camera.source === source);
  $("server").hidden = server.state === "ready";
  $("server").dataset.state = server.state;
  $("server-text").textContent = server.text || PHASES[server.state];
  $("server-help").hidden = server.state !== "down";
  $("samples").hidden = server.state !== "ready" || state === "connecting";
  $("manner-now").textContent = now();
  $("key-form").hidden = server.state !== "key";
  $("model").textContent = dialogue.model;
  $("welcome").hidden = !captions.empty;
  const at = !live ? "off" : !microphone.running ? "typing" : dialogue.manual ? "manual" : "listening";
  const [title, lead] = welcome(at, settings.can);
  $("title").textContent = title;
  $("lead").textContent = lead;
  $("promise").hidden = state !== "off" || !hears;
  $("captions").hidden = !settings.get("captions");
  if (state === "off") dialogue.startedAt = null;
  $("timer").hidden = state === "off";
  tape.run(live);
  stayAwake(live);
}

/** What was chosen beside the talk, in a few words. */
function now() {
  const { voice, instructions } = settings.values;
  const speaker = settings.can.speaks && (voice || server.usual);
  return [speaker, instructions.trim()].filter(Boolean).map((text) => ` · ${text}`).join("");
}

async function stayAwake(on) {
  if (!on || document.hidden) {
    stayAwake.lock?.release();
    stayAwake.lock = null;
  } else stayAwake.lock ??= await navigator.wakeLock?.request("screen").catch(() => null);
}
document.addEventListener("visibilitychange", () => stayAwake(dialogue.live));

setInterval(() => {
  const seconds = dialogue.startedAt ? Math.floor((performance.now() - dialogue.startedAt) / 1000) : 0;
  $("timer").textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  if (panels.shown === "timing") timing.levels(microphone.running && !microphone.muted ? level : 0, speaker.level);
}, 250);

render();
check();
