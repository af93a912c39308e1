"""A conversation's items as the messages that a model is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from omni.session import SHOWN, Forgotten
from omni.streaming.audio.wire import FORMATS
from omni.streaming.realtime.items import Item, Part

Message: TypeAlias = dict[str, Any]


@dataclass
class Context:
    """Messages, and of each the items that it was made of (none for the instructions)."""

    messages: list[Message]
    sources: list[list[Item]]

    def forget(self, forgotten: Forgotten) -> None:
        """Let the items forget what a session that began with this context says it forgot: no other shall begin with it."""
        first = int(bool(self.messages) and self.messages[0]["role"] == "system")
        gone, blind = first + forgotten.messages, first + forgotten.pictures
        for item in (item for source in self.sources[first:gone] for item in source):
            item.forgotten = True
            for part in item.parts:
                part.samples = None
        for part in (part for source in self.sources[gone:blind] for item in source for part in item.parts):
            part.image = b""


def context_of(items: Sequence[Item], instructions: str) -> Context:
    """What a model is told: the instructions, then what was said, as far as it is not forgotten."""
    found = Context([], [])

    def add(message: Message, *source: Item) -> None:
        found.messages.append(message)
        found.sources.append([*source])

    if instructions:
        add({"role": "system", "content": instructions})
    for item in items:
        if item.forgotten or item.status == "in_progress":
            continue
        last: Message = found.messages[-1] if found.messages else {"role": ""}
        match item.kind, item.role:
            case "message", "user":
                parts = [part for part in map(_part, item.parts) if part]
                if last["role"] == "user":
                    last["content"] += parts
                    found.sources[-1].append(item)
                else:
                    add({"role": "user", "content": parts}, item)
            case "message", role:
                add({"role": role, "content": "".join(part.text or "" for part in item.parts)}, item)
            case "function_call", _:
                if last["role"] != "assistant":
                    add({"role": "assistant", "content": ""})
                    last = found.messages[-1]
                found.sources[-1].append(item)
                function = {"name": item.name, "arguments": item.arguments}
                last.setdefault("tool_calls", []).append({"type": "function", "id": item.call_id, "function": function})
            case "function_call_output", _:
                add({"role": "tool", "content": item.output, "tool_call_id": item.call_id}, item)
    return found


def _part(part: Part) -> dict[str, Any] | None:
    sound, image = part.sound, part.image  # may be let go of meanwhile
    match part.type:
        case "input_audio" if sound:
            form = FORMATS[part.format]
            samples = part.samples if part.samples is not None else form.decode(bytes(sound))
            part.samples = samples
            return {"type": "audio", "audio": (samples, form.rate)}
        case "input_image" if image:
            return {"type": "image", "image": image}
        case "input_image":
            return {"type": "text", "text": SHOWN}
        case _:  # a sound that was let go: what it said, where that is known
            return {"type": "text", "text": part.text} if part.text else None
