"""What the user says in a realtime session: the buffer, turns, and silence that lasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from omni.streaming.audio.turn_detection import (
    ServerVad,
    SpeechEvent,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechStopped,
)
from omni.streaming.audio.wire import FORMATS
from omni.streaming.fields import check_hears
from omni.streaming.problems import Problem
from omni.streaming.realtime.answers import Answers
from omni.streaming.realtime.client_events import appended
from omni.streaming.realtime.effects import Deaf, Detect, Hear, Listen, Read, Transcribe
from omni.streaming.realtime.input_buffer import InputBuffer
from omni.streaming.realtime.items import WIDTHS, Item, Part, num_bytes, seconds
from omni.streaming.realtime.state import State

Json: TypeAlias = dict[str, Any]

LEAST_MS = 100
"""The shortest sound that may be committed."""
KEPT_MS = 1000
"""Sound before now that is held while nobody speaks, besides the padding: turns are noticed late."""


@dataclass(frozen=True)
class Utterance:
    """What the user is saying: the id of the item that it will be, and where its sound starts."""

    id: str
    start_ms: int


class Microphone:
    """Attributes:
    format: of the sound that comes.
    """

    def __init__(self, state: State, answers: Answers) -> None:
        self._state, self._answers = state, answers
        self._buffer = InputBuffer(state.session.audio.input.format.type)
        self._utterance: Utterance | None = None
        self._idle_from_ms: int | None = None
        self._split = b""
        """The first byte of a sample whose rest has not come."""

    @property
    def format(self) -> str:
        return self._buffer.format

    @property
    def _listening(self) -> bool:
        """Whether something is being said that will be answered to."""
        session = self._state.session
        begun = self._utterance is not None if session.detection else len(self._buffer) > 0
        return begun and session.type == "realtime"

    @property
    def _answers_turns(self) -> bool:
        session = self._state.session
        return session.type == "realtime" and session.detection is not None and session.detection.create_response

    # ---- what the client sends

    def append(self, event: Json, now: float) -> None:
        """`input_audio_buffer.append`."""
        check_hears(self._state.setup.bounds.can, "audio")
        data = self._split + appended(event)
        buffer, detection = self._buffer, self._state.session.detection
        whole = len(data) // WIDTHS[buffer.format] * WIDTHS[buffer.format]
        data, split = data[:whole], data[whole:]
        if not data:
            self._split = split
            return
        if detection and not self._utterance:
            self._wait_idly(now)
        most = num_bytes(buffer.format, 1000 * self._state.limits.buffered_seconds)
        if self._utterance and len(buffer) + len(data) > most:  # who goes on and on is answered at last
            self._stopped(self._utterance, buffer.end_ms)
            self.detect()
        if len(buffer) + len(data) > most:
            raise Problem(
                f"the buffer holds {buffer.seconds:.0f} seconds, and {self._state.limits.buffered_seconds:g} are allowed; "
                "commit or clear it",
                param="audio",
                code="input_audio_buffer_full",
            )
        begins = not detection and not len(buffer)
        buffer.append(data)
        self._split = split
        if begins:
            self.listen()
        elif self._listening:
            self._state.do(Read(buffer.format, data))
        if detection:
            self._state.do(Hear(buffer.format, data))
            if not self._utterance:
                self._check_idle()

    def commit(self) -> None:
        """`input_audio_buffer.commit`."""
        buffer = self._buffer
        sound = buffer.since(self._utterance.start_ms if self._utterance else 0)
        ms = 1000 * seconds(buffer.format, len(sound))
        if ms < LEAST_MS:
            raise Problem(
                f"the buffer is too small: it has {ms:.0f} ms of sound, and at least {LEAST_MS} ms are needed",
                code="input_audio_buffer_commit_empty",
            )
        self._state.check_room(len(sound))
        self._answers.drop_guess()
        item = self._said(self._utterance.id if self._utterance else self._state.new_id("item"), sound)
        self._forget_sound()
        self._end_utterance()
        self._commit(item)
        if self._state.session.detection:
            self.detect()

    def clear(self) -> None:
        """`input_audio_buffer.clear`."""
        self._answers.drop_guess()
        self._forget_sound()
        self._end_utterance()
        self._state.emit("input_audio_buffer.cleared")
        if self._state.session.detection:
            self.detect()

    def let_go(self) -> None:
        """Nobody will say anything any more."""
        self._forget_sound()

    def _forget_sound(self) -> None:
        """What comes next begins with a whole sample."""
        self._buffer.clear()
        self._split = b""

    # ---- what is heard

    def speech(self, event: SpeechEvent, now: float) -> None:
        """What was heard in the sound of a `Hear`."""
        match event:
            case SpeechStarted(at_ms):
                self._started(at_ms, now)
            case SpeechPaused() if self._utterance and self._answers_turns:
                self._answers.begin_guess(self._said(self._utterance.id, self._buffer.since(self._utterance.start_ms)))
            case SpeechResumed():
                self._answers.drop_guess()
            case SpeechStopped(at_ms) if self._utterance:
                self._stopped(self._utterance, at_ms)

    def _started(self, at_ms: int, now: float) -> None:
        self._answers.drop_guess()
        self._utterance = Utterance(self._state.new_id("item"), at_ms)
        self._state.emit("input_audio_buffer.speech_started", audio_start_ms=at_ms, item_id=self._utterance.id)
        detection = self._state.session.detection
        if detection and detection.interrupt_response:
            self._answers.break_off("turn_detected", now)
        self.listen()

    def _stopped(self, utterance: Utterance, at_ms: int) -> None:
        self._state.emit("input_audio_buffer.speech_stopped", audio_end_ms=at_ms, item_id=utterance.id)
        guess = self._answers.guess
        # what was answered to is what was said; the rest of the silence is nobody's
        item = guess.item if guess else self._said(utterance.id, self._buffer.since(utterance.start_ms, at_ms))
        self._buffer.drop_before(at_ms)
        self._end_utterance()
        try:
            self._state.check_room(item.size)
        except Problem:
            self._answers.drop_guess()
            raise
        self._commit(item)
        if guess:
            self._answers.confirm_guess()
        elif self._answers_turns:
            self._answers.respond()

    def _said(self, id: str, sound: bytearray) -> Item:
        return Item(id, "message", "user", parts=[Part("input_audio", format=self._buffer.format, sound=sound)])

    def _commit(self, item: Item) -> None:
        state = self._state
        state.emit("input_audio_buffer.committed", item_id=item.id, previous_item_id=state.conversation.last_id)
        state.add(item, None)
        if state.session.audio.input.transcription:
            state.do(Transcribe(item.id, item.parts[0]))

    def _end_utterance(self) -> None:
        self._utterance = None
        self._state.do(Deaf())

    # ---- silence

    def _wait_idly(self, now: float) -> None:
        """Hold no more sound than turns and a timeout need; and while an answer is being heard, nobody is idle."""
        detection, answers, end_ms = self._state.session.detection, self._answers, self._buffer.end_ms
        server = detection if isinstance(detection, ServerVad) else ServerVad()
        if not server.idle_timeout_ms or answers.current or not answers.last_spoken or answers.playing.until > now:
            self._idle_from_ms = None
        elif self._idle_from_ms is None:
            self._idle_from_ms = end_ms
        kept = end_ms - KEPT_MS - server.prefix_padding_ms
        self._buffer.drop_before(kept if self._idle_from_ms is None else min(kept, self._idle_from_ms))

    def _check_idle(self) -> None:
        """Answer to silence that lasted long enough."""
        state, since, now_ms = self._state, self._idle_from_ms, self._buffer.end_ms
        timeout = getattr(state.session.detection, "idle_timeout_ms", None)
        if timeout is None or since is None or now_ms - since < timeout or state.session.type != "realtime":
            return
        self._idle_from_ms = None
        item = self._said(state.new_id("item"), self._buffer.since(since))
        state.check_room(item.size)
        state.emit("input_audio_buffer.timeout_triggered", audio_start_ms=since, audio_end_ms=now_ms, item_id=item.id)
        self._buffer.drop_before(now_ms)
        self._commit(item)
        self._answers.respond()

    # ---- what the rest of the protocol asks for

    def check_format(self, format: str) -> None:
        """Problem where the format cannot become this one now."""
        if format != self.format and (self._utterance or (not self._state.session.detection and len(self._buffer))):
            raise Problem(
                "the format cannot be changed while something is being said; commit or clear the buffer first",
                param="session.audio.input.format",
                code="invalid_value",
            )

    def set_up(self) -> None:
        """The session's format or detection is another now; a turn that had begun is over."""
        session, buffer = self._state.session, self._buffer
        if session.audio.input.format.type != buffer.format:
            buffer.reset(session.audio.input.format.type)
            self._split = b""
        if not session.detection:  # what was held in case of a turn is no part of what will be said
            buffer.drop_before(self._utterance.start_ms if self._utterance else buffer.end_ms)
        self._utterance = None
        self.detect()

    def detect(self) -> None:
        self._state.do(Detect(self._state.session.detection, FORMATS[self.format].rate, self._buffer.end_ms))

    def listen(self) -> None:
        """Have what is being said, if anything is, read behind the conversation as it is now, while it is being said."""
        if self._listening:
            plan = self._answers.plan()
            items = tuple(self._state.conversation)
            self._state.do(Listen(items, plan.instructions, plan.voice, plan.for_model))
            self._state.do(Read(self.format, bytes(self._buffer.since(self._utterance.start_ms if self._utterance else 0))))
