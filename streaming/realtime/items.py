"""What was said in a conversation: its items, their sound, and their order."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from omni.streaming.audio.wire import FORMATS, Samples
from omni.streaming.problems import Problem

Json: TypeAlias = dict[str, Any]
Kind: TypeAlias = Literal["message", "function_call", "function_call_output"]
Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]

ROOT = "root"
"""The place before the first item, as clients name it."""
WIDTHS = {"audio/pcm": 2, "audio/pcmu": 1, "audio/pcma": 1}
"""Bytes of a sample."""


def seconds(format: str, num_bytes: int) -> float:
    """How long so much sound lasts."""
    return num_bytes / (WIDTHS[format] * FORMATS[format].rate)


def num_bytes(format: str, ms: float) -> int:
    """How much sound lasts so long: whole samples."""
    return int(ms * FORMATS[format].rate / 1000) * WIDTHS[format]


def check_samples(format: str, data: bytes, param: str) -> None:
    """Problem where the bytes are not whole samples."""
    if len(data) % WIDTHS[format]:
        raise Problem(
            f"{param} has {len(data)} bytes, and a sample of {format} has {WIDTHS[format]}; send whole samples",
            param=param,
            code="invalid_audio",
        )


@dataclass(eq=False)
class Part:
    """A piece of a message.

    Attributes:
        type: "input_text", "input_audio", "input_image", "output_text", "output_audio".
        text: or a sound's transcript, None while there is none.
        format: of the sound.
        sound: as it came from or went to the client; samples: the same for the model, float32 `[S]`, once it was asked.
        url: of a picture, as the client gave it; image: its file.
    """

    type: str
    text: str | None = None
    format: str = "audio/pcm"
    sound: bytearray = field(default_factory=bytearray, repr=False)
    samples: Samples | None = field(default=None, repr=False)
    url: str = field(default="", repr=False)
    image: bytes = field(default=b"", repr=False)

    @property
    def ms(self) -> int:
        """How long its sound lasts."""
        return int(1000 * seconds(self.format, len(self.sound)))

    @property
    def size(self) -> int:
        """Bytes that it holds, of what a client may fill it with."""
        return len(self.text or "") + len(self.sound) + len(self.url) + len(self.image)

    def let_go(self) -> int:
        """Drop its sound or picture; gives the bytes that are free now."""
        freed = len(self.sound) + len(self.url) + len(self.image)
        self.sound, self.samples, self.url, self.image = bytearray(), None, "", b""
        return freed

    def json(self, *, whole: bool) -> Json:
        """As clients see it; sounds and pictures, which are large, only in the whole."""
        match self.type:
            case "input_audio" | "output_audio":
                sound = {"audio": b64encode(self.sound).decode()} if whole and self.sound else {}
                return {"type": self.type, **sound, "transcript": self.text}
            case "input_image":
                return {"type": self.type, "detail": "auto", **({"image_url": self.url} if whole and self.url else {})}
            case _:
                return {"type": self.type, "text": self.text}


@dataclass(eq=False)
class Item:
    """Attributes:
    parts: of a message.
    call_id: of a function call and its output; name, arguments: of the call.
    output: of the function.
    response_id: of the answer that it is part of; None for what the client said.
    heard_ms: of its sound, where its playing was broken off, as far as can be told from here; None once its client has
        told, and where all of it was or may be heard.
    forgotten: the model has no room for it any more, nor for what was before it.
    """

    id: str
    kind: Kind
    role: str = ""
    status: Status = "completed"
    parts: list[Part] = field(default_factory=list)
    call_id: str = ""
    name: str = ""
    arguments: str = ""
    output: str = ""
    response_id: str | None = None
    heard_ms: int | None = None
    forgotten: bool = False

    @property
    def spoken(self) -> Part | None:
        """The sound of an answer."""
        return self.parts[0] if self.parts and self.parts[0].type == "output_audio" else None

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts) + len(self.name) + len(self.arguments) + len(self.output)

    def json(self, *, whole: bool = False) -> Json:
        """As clients see it; sounds and pictures, which are large, only in the whole."""
        base: Json = {"id": self.id, "object": "realtime.item", "type": self.kind, "status": self.status}
        match self.kind:
            case "message":
                return base | {"role": self.role, "content": [part.json(whole=whole) for part in self.parts]}
            case "function_call":
                return base | {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}
            case "function_call_output":
                return base | {"call_id": self.call_id, "output": self.output}


class Conversation:
    """Items in order, each with an id of its own.

    Attributes:
        size: bytes that its items hold.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self._items: list[Item] = []
        self._by_id: dict[str, Item] = {}

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size(self) -> int:
        return sum(item.size for item in self._items)

    @property
    def last_id(self) -> str | None:
        return self._items[-1].id if self._items else None

    def find(self, id: str) -> Item | None:
        return self._by_id.get(id)

    def get(self, id: str, code: str, param: str = "item_id") -> Item:
        """The item with this id; Problem with this code where there is none."""
        if id not in self._by_id:
            raise Problem(f"there is no item {id[:100]!r} in the conversation", param=param, code=code)
        return self._by_id[id]

    def before(self, item: Item) -> str | None:
        """The id of the item before this one."""
        index = self._items.index(item)
        return self._items[index - 1].id if index else None

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Put an item behind another, or at the end; gives the id of the one before it. Problem for an id that is taken."""
        if item.id in self._by_id:
            raise Problem(
                f"there is an item {item.id[:100]!r} already; choose another id",
                param="item.id",
                code="item_create_duplicate_item_id",
            )
        if after is None:
            at = len(self._items)
        elif after == ROOT:
            at = 0
        else:
            code = "item_create_invalid_previous_item_id"
            at = self._items.index(self.get(after, code, "previous_item_id")) + 1
        self._items.insert(at, item)
        self._by_id[item.id] = item
        return self._items[at - 1].id if at else None

    def remove(self, item: Item) -> None:
        self._items.remove(item)
        del self._by_id[item.id]

    def shed(self, most: int) -> bool:
        """Let go of sounds and pictures, the oldest first, until so many bytes are held at most; whether that was enough."""
        held = self.size
        for item in self._items:
            if held <= most:
                break
            held -= sum(part.let_go() for part in item.parts)
        return held <= most
