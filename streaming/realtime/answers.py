"""The model's answers in a realtime session: which are being made, and which was only begun on trial."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from pydantic import Field

from omni.events import Done, TextDelta
from omni.streaming.fields import Each, Fields, parse
from omni.streaming.problems import Problem, server_fault
from omni.streaming.realtime import client_events as client
from omni.streaming.realtime.effects import Answer, Cut, Media, Release, Stop
from omni.streaming.realtime.input_items import item_of
from omni.streaming.realtime.items import Item
from omni.streaming.realtime.playing import Playing
from omni.streaming.realtime.responses import Plan, Reason, Response
from omni.streaming.realtime.session_config import Session, must_call
from omni.streaming.realtime.state import State
from omni.streaming.tools import CallError

Json: TypeAlias = dict[str, Any]
Told: TypeAlias = TextDelta | bytes | Done | Problem
"""What the model answers, in order; bytes are sound in the answer's format."""

FIELDS = (
    "output_modalities", "modalities", "instructions", "tools", "tool_choice", "max_output_tokens",
    "max_response_output_tokens", "audio", "voice", "output_audio_format", "speed",
)  # fmt: skip
"""What an answer may have otherwise than its session."""

MOST_INPUT = 512
"""Items that one answer may be given besides the conversation."""


class Apart(Fields):
    """What an answer has and a session has not."""

    undone = Session.undone
    conversation: str | None = None
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    input: Each[Json] | None = Field(default=None, max_length=MOST_INPUT)


@dataclass(frozen=True)
class Guess:
    """An answer that was begun before the turn was over, to what had been said by then."""

    response: Response
    item: Item


class Answers:
    """Attributes:
    current: the answer of the conversation that is being made.
    last_spoken: the last message of the conversation that the model has said aloud.
    playing: what the client's loudspeaker does with the answers of the conversation.
    guess: was begun on trial.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._responses: dict[str, Response] = {}
        self.current: Response | None = None
        self.last_spoken: Item | None = None
        self.playing = Playing()
        self.guess: Guess | None = None

    # ---- what the client asks for

    def create(self, event: Json, media: Media, format: str) -> None:
        """`response.create`. format: of sounds among its input."""
        state = self._state
        asked = parse(client.CreateResponseEvent, event, "").response or {}
        if state.session.type == "transcription":
            raise Problem("a transcription session answers nothing; open one of type realtime", code="invalid_value")
        fields = parse(Apart, {key: value for key, value in asked.items() if key not in FIELDS}, "response")
        if fields.conversation not in (None, "auto", "none"):
            raise Problem('give "auto" or "none"', param="response.conversation", code="invalid_value")
        in_band = fields.conversation != "none"
        plan = self.plan(asked, fields.metadata)
        if in_band and plan.voice and self.last_spoken and plan.named != state.session.audio.output.voice:
            raise frozen_voice("response.audio.output.voice")
        items: Sequence[Item] | None = None
        if fields.input is not None:
            items = []
            for i, value in enumerate(fields.input):
                param = f"response.input[{i}]"
                if value.get("type") == "item_reference":
                    id = parse(client.Reference, value, param).id
                    items.append(state.conversation.get(id, "invalid_item_reference", f"{param}.id"))
                else:
                    items.append(item_of(value, param, media, format, state))
        self.drop_guess()
        self.respond(plan, items, in_band=in_band)

    def cancel(self, event: Json, now: float) -> None:
        """`response.cancel`."""
        id = parse(client.CancelEvent, event, "").response_id
        response = self.current if id is None else self._responses.get(id)
        if response is None:
            raise Problem(
                "Cancellation failed: no active response found", param="response_id", code="response_cancel_not_active"
            )
        if response is self.current:
            self.break_off("client_cancelled", now)
        else:
            self._cancel(response, "client_cancelled")

    # ---- what the model answers

    def answered(self, response_id: str, told: Told, now: float) -> None:
        """More of an answer; what comes after its end is passed over."""
        response = self._responses.get(response_id)
        if response is None:
            return
        try:
            match told:
                case TextDelta(text):
                    response.text(text)
                case bytes():
                    response.sound(told, now)
                    if response.conversation is not None and response.item:
                        self.last_spoken = response.item
                case Done():
                    response.finish(told)
                    self._ended(response)
                case Problem():
                    response.fail(told)
                    self._ended(response)
        except CallError as e:
            response.fail(server_fault(str(e), "invalid_tool_call"))
            self._ended(response)
            self._state.do(Stop(response.id))

    # ---- what the rest of the protocol asks for

    def plan(self, asked: Json | None = None, metadata: Mapping[str, str] | None = None) -> Plan:
        """The session, but for what was asked otherwise."""
        state = self._state
        changes = {key: asked[key] for key in FIELDS if asked.get(key) is not None} if asked else {}
        wanted = state.setup.bounds.parse(state.session.merged(changes), "response") if changes else state.session
        if any(len(key) > 64 or len(value) > 512 for key, value in (metadata or {}).items()):
            raise Problem(
                "a key of metadata has 64 characters at most, and a value 512",
                param="response.metadata",
                code="invalid_value",
            )
        voice = wanted.audio.output.voice
        return Plan(
            instructions=wanted.instructions,
            voice=voice if wanted.spoken else None,
            named=voice,
            format=wanted.audio.output.format.told(),
            speed=wanted.audio.output.speed,
            tools=() if wanted.tool_choice == "none" else tuple(tool.model_dump() for tool in wanted.tools),
            must_call=must_call(wanted.tool_choice),
            max_tokens=wanted.max_output_tokens if isinstance(wanted.max_output_tokens, int) else None,
            metadata=dict(metadata) if metadata is not None else None,
        )

    def respond(self, plan: Plan | None = None, items: Sequence[Item] | None = None, *, in_band: bool = True) -> None:
        """Begin an answer, to these items or to the conversation; Problem where there are others that must end first."""
        if in_band and self.current:
            raise Problem(
                f"the conversation has an active response already: {self.current.id}; wait for its end, or cancel it",
                code="conversation_already_has_active_response",
            )
        if self._full:
            raise Problem(
                f"{len(self._responses)} responses are being made, which is the most; wait until one has ended",
                code="too_many_responses",
            )
        if in_band:
            self._state.check_room()
        response = self._response(plan or self.plan(), in_band=in_band)
        self._begin(response)
        self._answer(response, self._state.conversation if items is None else items, remembers=items is None, held=False)

    def begin_guess(self, item: Item) -> None:
        """Begin to answer to an item as if it were in the conversation, where nothing stands against that."""
        conversation = self._state.conversation
        if self.current or self.guess or self._full or len(conversation) >= self._state.limits.items:
            return
        self.guess = Guess(self._response(self.plan(), in_band=True), item)
        self._answer(self.guess.response, [*conversation, item], remembers=True, held=True)

    def confirm_guess(self) -> None:
        """What was answered to has been said indeed."""
        assert self.guess
        response, self.guess = self.guess.response, None
        self._begin(response)
        self._state.do(Release(response.id))

    def drop_guess(self) -> None:
        """It has not, or not to this conversation."""
        if self.guess:
            self._state.do(Stop(self.guess.response.id))
            self.guess = None

    def break_off(self, reason: Reason, now: float) -> None:
        """End the answer that is being made, and take it that its listener hears no more of what was sent."""
        left, response, item = self.playing.left_ms(now), self.current, self.last_spoken
        if response:
            self._cancel(response, reason)
        if item and item.spoken and (left or (response and response.item is item)):
            item.heard_ms = max(0, item.spoken.ms - left)
        self.playing.until = min(self.playing.until, now)

    # ----

    @property
    def _full(self) -> bool:
        return len(self._responses) >= self._state.limits.choices

    def _response(self, plan: Plan, *, in_band: bool) -> Response:
        state = self._state
        where = (self.playing, state.conversation) if in_band else (Playing(), None)
        return Response(state.new_id("resp"), plan, state.emit, state.new_id, *where)

    def _begin(self, response: Response) -> None:
        self._responses[response.id] = response
        if response.conversation is not None:
            self.current = response
        response.begin()

    def _answer(self, response: Response, items: Iterable[Item], *, remembers: bool, held: bool) -> None:
        given, plan = tuple(items), response.plan
        for item in given:
            if item.heard_ms is not None and item.response_id:
                self._state.do(Cut(item.id, item.response_id, item.heard_ms, announced=False))
                item.heard_ms = None
        self._state.do(
            Answer(
                response_id=response.id,
                items=given,
                instructions=plan.instructions,
                voice=plan.voice,
                format=plan.format["type"],
                speed=plan.speed,
                tools=plan.for_model,
                must_call=bool(plan.tools) and plan.must_call,
                max_tokens=plan.max_tokens,
                remembers=remembers,
                held=held,
                playing=response.playing,
            )
        )

    def _cancel(self, response: Response, reason: Reason) -> None:
        response.cancel(reason)
        self._ended(response)
        self._state.do(Stop(response.id))

    def _ended(self, response: Response) -> None:
        del self._responses[response.id]
        if response is self.current:
            self.current = None


def frozen_voice(param: str) -> Problem:
    return Problem(
        "the voice cannot be changed once the conversation has spoken answers; open another session",
        param=param,
        code="cannot_update_voice",
    )
