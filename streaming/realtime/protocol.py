"""OpenAI's realtime protocol as a state machine: what comes in gives what is to be done, in order.

It neither waits nor reads a clock, and knows no socket and no model. Whoever runs it gives it the client's events, the turns
that were heard, and what the model answers, with the time in seconds of any clock that never goes back; and does what it
asks for (`effects`) in the order in which it asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from omni.events import TextDelta, Transcript
from omni.streaming.audio.turn_detection import SpeechEvent
from omni.streaming.fields import parse
from omni.streaming.problems import Problem
from omni.streaming.realtime import client_events as client
from omni.streaming.realtime.answers import Answers, Told, frozen_voice
from omni.streaming.realtime.effects import Close, Cut, Effect, Media, Transcribe
from omni.streaming.realtime.input_items import item_of
from omni.streaming.realtime.items import Item, num_bytes
from omni.streaming.realtime.microphone import Microphone
from omni.streaming.realtime.session_config import Session
from omni.streaming.realtime.state import Setup, State, error_of, random_id
from omni.streaming.usage import transcription_usage

Json: TypeAlias = dict[str, Any]

TOLERANCE_MS = 500
"""How far beyond its end a client may say that it has played a sound: its clock is not ours."""


class Protocol:
    """One session. Every method gives the effects that it has."""

    def __init__(self, setup: Setup, now: float, new_id: Callable[[str], str] = random_id) -> None:
        self._state = State(setup, new_id)
        self._answers = Answers(self._state)
        self._microphone = Microphone(self._state, self._answers)
        self._id = new_id("sess")
        self._ends_at = now + setup.bounds.limits.session_seconds
        self._heard_at = now
        self._closed = False
        self._handlers: dict[str, Callable[[Json, float, Media], None]] = {
            "session.update": self._update,
            "input_audio_buffer.append": lambda event, now, _: self._microphone.append(event, now),
            "input_audio_buffer.commit": lambda event, *_: self._microphone.commit(),
            "input_audio_buffer.clear": lambda event, *_: self._microphone.clear(),
            "conversation.item.create": self._create_item,
            "conversation.item.retrieve": self._retrieve,
            "conversation.item.delete": self._delete,
            "conversation.item.truncate": self._truncate,
            "response.create": lambda event, _, media: self._answers.create(event, media, self._microphone.format),
            "response.cancel": lambda event, now, _: self._answers.cancel(event, now),
        }

    # ---- what comes in

    def open(self, session: Json | None = None) -> list[Effect]:
        """The client is there. session: what it shall start from, in part, as `session.update` takes it."""
        problem = None
        try:
            if session:
                self._state.session = self._updated(session)
        except Problem as e:
            problem = e
        self._state.emit("session.created", session=self._session_json())
        if problem:
            self._state.tell(problem)
        self._microphone.set_up()
        return self._state.taken()

    def receive(self, event: object, now: float, media: Media | None = None) -> list[Effect]:
        """An event of the client's.

        media: the files of `client_events.pictures`, by their URLs.
        """
        self._heard_at = now
        try:
            self._handle(event, now, media or {})
        except Problem as problem:
            self._state.tell(problem, event)
        return self._state.taken()

    def refuse(self, problem: Problem, event: object = None) -> list[Effect]:
        """The client sent something that is at fault; the session goes on."""
        self._state.tell(problem, event)
        return self._state.taken()

    def speech(self, event: SpeechEvent, now: float) -> list[Effect]:
        """What was heard in the sound of a `Hear`."""
        try:
            self._microphone.speech(event, now)
        except Problem as problem:
            self._state.tell(problem)
        return self._state.taken()

    def answered(self, response_id: str, told: Told, now: float) -> list[Effect]:
        """More of an answer; what comes after its end is passed over."""
        self._answers.answered(response_id, told, now)
        return self._state.taken()

    def transcribed(self, asked: Transcribe, told: TextDelta | Transcript | Problem) -> list[Effect]:
        """More of what was written down of an item."""
        item, part = self._state.conversation.find(asked.item_id), asked.part
        if item is None or part not in item.parts:
            return []
        place = {"item_id": item.id, "content_index": item.parts.index(part)}
        kind = "conversation.item.input_audio_transcription"
        match told:
            case TextDelta(text):
                part.text = (part.text or "") + text
                self._state.emit(f"{kind}.delta", **place, delta=text)
            case Transcript():
                part.text = part.text or ""
                self._state.emit(f"{kind}.completed", **place, transcript=part.text, usage=transcription_usage(told.usage))
            case Problem():
                self._state.emit(f"{kind}.failed", **place, error=error_of(told))
        return self._state.taken()

    def heard(self, cut: Cut, text: str | None) -> list[Effect]:
        """The words that had been heard at a cut; None where they cannot be told."""
        item = self._state.conversation.find(cut.item_id)
        if item is None or item.response_id != cut.response_id:
            return []
        if text is None and cut.announced:
            text = ""  # nothing may be remembered that was not heard
        if text is not None:
            item.parts[0].text = text
        if cut.announced:
            place = {"item_id": item.id, "content_index": 0, "audio_end_ms": cut.ms}
            self._state.emit("conversation.item.truncated", **place)
            self._microphone.listen()
        return self._state.taken()

    def tick(self, now: float) -> list[Effect]:
        """Time has passed: at `deadline` or later."""
        limits = self._state.limits
        if now < self.deadline:
            return []
        if now >= self._ends_at:
            self._close("session_expired", f"a session lasts {limits.session_seconds:g} seconds; open another one")
        else:
            self._close("session_idle", f"nothing came for {limits.idle_seconds:g} seconds; open another session")
        return self._state.taken()

    def let_go(self) -> None:
        """The session is over: its sounds and pictures are not kept."""
        for item in self._state.conversation:
            for part in item.parts:
                part.let_go()
        self._microphone.let_go()
        self._answers.guess = None

    @property
    def deadline(self) -> float:
        """When to `tick` next."""
        return float("inf") if self._closed else min(self._ends_at, self._heard_at + self._state.limits.idle_seconds)

    def is_heard(self, now: float) -> bool:
        """Whether the model is being heard, as far as can be told from here."""
        return self._answers.playing.until > now

    def _handle(self, event: object, now: float, media: Media) -> None:
        if not isinstance(event, dict):
            raise Problem("an event is a JSON object with a type", code="invalid_event")
        kind, known = event.get("type"), f"known types are {', '.join(self._handlers)}"
        if not isinstance(kind, str):
            raise Problem(f"the event has no type; {known}", param="type", code="invalid_event")
        if kind not in self._handlers:
            raise Problem(f"there is no event of type {kind[:100]!r}; {known}", param="type", code="invalid_value")
        self._handlers[kind](event, now, media)

    # ---- the session

    def _update(self, event: Json, now: float, media: Media) -> None:
        state, old = self._state, self._state.session
        new = self._updated(parse(client.UpdateEvent, event, "").session)
        if new.type != old.type and len(state.conversation):
            raise Problem(
                "the type of a session that has items cannot be changed", param="session.type", code="invalid_value"
            )
        if new.audio.output.voice != old.audio.output.voice and self._answers.last_spoken:
            raise frozen_voice("session.audio.output.voice")
        self._microphone.check_format(new.audio.input.format.type)
        self._answers.drop_guess()
        state.session = new
        state.emit("session.updated", session=self._session_json())
        if (new.detection, new.audio.input.format) != (old.detection, old.audio.input.format):
            self._microphone.set_up()
        self._microphone.listen()

    def _updated(self, update: Json) -> Session:
        setup = self._state.setup
        if update.get("model") not in (None, *setup.names):
            raise Problem(
                f"the model of a session cannot be changed; it is {setup.names[0]!r}",
                param="session.model",
                code="invalid_value",
            )
        return setup.bounds.parse(self._state.session.merged(update), "session")

    def _session_json(self) -> Json:
        setup = self._state.setup
        return self._state.session.told(self._id, setup.names[0], setup.expires_at)

    def _close(self, code: str, message: str) -> None:
        self._state.tell(Problem(message, code=code))
        self._state.do(Close(1008, code))
        self._closed = True

    # ---- items

    def _create_item(self, event: Json, now: float, media: Media) -> None:
        state, asked = self._state, parse(client.CreateItemEvent, event, "")
        item = item_of(asked.item, "item", media, self._microphone.format, state)
        state.check_room(item.size)
        state.add(item, asked.previous_item_id)
        self._answers.drop_guess()
        self._microphone.listen()

    def _retrieve(self, event: Json, now: float, media: Media) -> None:
        item = self._state.conversation.get(parse(client.ItemEvent, event, "").item_id, "item_retrieve_invalid_item_id")
        self._state.emit("conversation.item.retrieved", item=item.json(whole=True))

    def _delete(self, event: Json, now: float, media: Media) -> None:
        item = self._state.conversation.get(parse(client.ItemEvent, event, "").item_id, "item_delete_invalid_item_id")
        self._finish_saying(item, now)
        self._state.conversation.remove(item)
        self._state.emit("conversation.item.deleted", item_id=item.id)
        self._answers.drop_guess()
        self._microphone.listen()

    def _truncate(self, event: Json, now: float, media: Media) -> None:
        asked, code = parse(client.TruncateEvent, event, ""), "item_truncate_invalid_item_id"
        item = self._state.conversation.get(asked.item_id, code)
        part, ms = item.spoken, int(asked.audio_end_ms)
        if part is None or not item.response_id:
            raise Problem(f"item {item.id!r} is no answer with sound; only those are truncated", param="item_id", code=code)
        if asked.content_index != 0:
            raise Problem("the sound of an answer is its content 0", param="content_index", code="invalid_value")
        if ms > part.ms + TOLERANCE_MS:
            raise Problem(
                f"Audio content of {part.ms}ms is already shorter than {ms}ms", param="audio_end_ms", code="invalid_value"
            )
        self._finish_saying(item, now)
        self._answers.drop_guess()
        ms = min(ms, part.ms)
        del part.sound[num_bytes(part.format, ms) :]
        item.heard_ms = None
        self._state.do(Cut(item.id, item.response_id, ms, announced=True))

    def _finish_saying(self, item: Item, now: float) -> None:
        """Of an item that is still being made, no more is made."""
        if self._answers.current and self._answers.current.item is item:
            self._answers.break_off("client_cancelled", now)
