"""One answer of the model, as the events that tell of it."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from omni.events import Done, Usage
from omni.streaming.problems import Problem
from omni.streaming.realtime.items import Conversation, Item, Part, seconds
from omni.streaming.realtime.playing import Playing
from omni.streaming.tools import Call, CallError, CallParser
from omni.streaming.usage import response_usage

Json: TypeAlias = dict[str, Any]
Status: TypeAlias = Literal["in_progress", "completed", "cancelled", "failed", "incomplete"]
Reason: TypeAlias = Literal["turn_detected", "client_cancelled"]


class Emit(Protocol):
    """Tells the client of something; the event gets its id on the way."""

    def __call__(self, type: str, /, **fields: Any) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How an answer is to be.

    Attributes:
        voice: None for text alone; named: that of the session, for the client.
        format, speed: of its sound.
        tools: functions, in the session's form; must_call: one of them, or the one of this name, must be called.
        max_tokens: None for as many as it needs.
    """

    instructions: str
    voice: str | None
    named: str | None
    format: Json
    speed: float
    tools: tuple[Json, ...]
    must_call: bool | str
    max_tokens: int | None
    metadata: dict[str, str] | None

    @property
    def for_model(self) -> tuple[Json, ...]:
        """The tools as chat templates know them."""
        keys = ("name", "description", "parameters")
        functions = ({key: tool[key] for key in keys if tool[key]} for tool in self.tools)
        return tuple({"type": "function", "function": function} for function in functions)


@dataclass(eq=False)
class Response:
    """Attributes:
    conversation: that it goes into, where it does.
    item: the message that is being made or was made.
    playing: shared by all answers that are played one after the other.
    """

    id: str
    plan: Plan
    emit: Emit
    new_id: Callable[[str], str]
    playing: Playing
    conversation: Conversation | None
    status: Status = "in_progress"
    item: Item | None = None
    _output: list[Item] = field(default_factory=list)
    _calls: list[Call] = field(default_factory=list)
    _parser: CallParser | None = None

    def __post_init__(self) -> None:
        if self.plan.tools:
            self._parser = CallParser({tool["name"] for tool in self.plan.tools})

    @property
    def spoken(self) -> bool:
        return self.plan.voice is not None

    def begin(self) -> None:
        self.emit("response.created", response=self.json())

    def text(self, delta: str) -> None:
        """More of what the model wrote. CallError where it is no call that should be one."""
        if self._parser:
            delta, calls = self._parser.push(delta)
            self._calls += calls
        self._tell(delta)

    def sound(self, data: bytes, now: float) -> None:
        """More of what it says, in the plan's format."""
        if self._parser and self.item is None:
            return  # of a call, which is not for the listener
        part = self._message().parts[0]
        if self.conversation is not None:
            part.sound += data
        self.playing.sent(seconds(part.format, len(data)), now)
        self.emit("response.output_audio.delta", **self._place(), delta=b64encode(data).decode())

    def finish(self, done: Done) -> None:
        """The model has ended, and all its sound has been told."""
        cut = done.finish_reason == "length"
        if self._parser:
            try:
                rest, calls = self._parser.finish()
            except CallError:
                if not cut:
                    raise
                rest, calls = "", []
            self._tell(rest)
            self._calls += calls
        self._close("incomplete" if cut else "completed")
        for call in self._calls:
            self._call(call)
        if cut:
            self._end("incomplete", {"type": "incomplete", "reason": "max_output_tokens"}, done.usage)
        else:
            self._end("completed", None, done.usage)

    def cancel(self, reason: Reason) -> None:
        self._close("incomplete")
        self._end("cancelled", {"type": "cancelled", "reason": reason}, None)

    def fail(self, problem: Problem) -> None:
        self._close("incomplete")
        error = {"type": problem.kind, "code": problem.code, "message": problem.message}
        self._end("failed", {"type": "failed", "error": error}, None)

    def json(self, usage: Json | None = None, details: Json | None = None) -> Json:
        plan = self.plan
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": self.status,
            "status_details": details,
            "output": [item.json() for item in self._output],
            "conversation_id": self.conversation.id if self.conversation is not None else None,
            "output_modalities": ["audio" if self.spoken else "text"],
            "max_output_tokens": plan.max_tokens or "inf",
            "audio": {"output": {"format": plan.format, "voice": plan.named}},
            "metadata": plan.metadata,
            "usage": usage,
        }

    def _tell(self, delta: str) -> None:
        if not delta:
            return
        part = self._message().parts[0]
        part.text = (part.text or "") + delta
        kind = "output_audio_transcript" if self.spoken else "output_text"
        self.emit(f"response.{kind}.delta", **self._place(), delta=delta)

    def _place(self) -> Json:
        assert self.item
        index = self._output.index(self.item)
        return {"response_id": self.id, "item_id": self.item.id, "output_index": index, "content_index": 0}

    def _message(self) -> Item:
        """The message, which begins with its first word or sound."""
        if self.item is None:
            kind = "output_audio" if self.spoken else "output_text"
            self.item = Item(self.new_id("item"), "message", "assistant", "in_progress", response_id=self.id)
            self._add(self.item)
            self.item.parts.append(Part(kind, "", self.plan.format["type"]))
            self.emit("response.content_part.added", **self._place(), part=self._part())
        return self.item

    def _part(self) -> Json:
        """The message's content by its other name."""
        assert self.item
        text = self.item.parts[0].text
        return {"type": "audio", "transcript": text} if self.spoken else {"type": "text", "text": text}

    def _close(self, status: Literal["completed", "incomplete"]) -> None:
        if self.item is None:
            return
        part = self._part()
        if self.spoken:
            self.emit("response.output_audio.done", **self._place())
            self.emit("response.output_audio_transcript.done", **self._place(), transcript=part["transcript"])
        else:
            self.emit("response.output_text.done", **self._place(), text=part["text"])
        self.emit("response.content_part.done", **self._place(), part=part)
        self._done(self.item, status)

    def _call(self, call: Call) -> None:
        item = Item(
            self.new_id("item"),
            "function_call",
            status="in_progress",
            call_id=self.new_id("call"),
            name=call.name,
            response_id=self.id,
        )
        self._add(item)
        index = self._output.index(item)
        place = {"response_id": self.id, "item_id": item.id, "output_index": index, "call_id": item.call_id}
        item.arguments = call.arguments
        self.emit("response.function_call_arguments.delta", **place, delta=call.arguments)
        self.emit("response.function_call_arguments.done", **place, name=call.name, arguments=call.arguments)
        self._done(item, "completed")

    def _add(self, item: Item) -> None:
        self._output.append(item)
        index = len(self._output) - 1
        self.emit("response.output_item.added", response_id=self.id, output_index=index, item=item.json())
        if self.conversation is not None:
            before = self.conversation.add(item)
            self.emit("conversation.item.added", previous_item_id=before, item=item.json())

    def _done(self, item: Item, status: Literal["completed", "incomplete"]) -> None:
        item.status = status
        if self.conversation is not None and self.conversation.find(item.id) is item:
            before = self.conversation.before(item)
            self.emit("conversation.item.done", previous_item_id=before, item=item.json())
        index = self._output.index(item)
        self.emit("response.output_item.done", response_id=self.id, output_index=index, item=item.json())

    def _end(self, status: Status, details: Json | None, usage: Usage | None) -> None:
        self.status = status
        self.emit("response.done", response=self.json(response_usage(usage), details))
