"""What the parts of the realtime protocol share: the session, its conversation, and the effects that were brought about."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from omni.streaming.problems import Problem
from omni.streaming.realtime.effects import Effect, Send
from omni.streaming.realtime.items import Conversation, Item
from omni.streaming.realtime.session_config import Bounds

Json: TypeAlias = dict[str, Any]


def random_id(kind: str) -> str:
    """A new id, such as "item_..."."""
    return f"{kind}_{secrets.token_hex(12)}"


@dataclass(frozen=True)
class Setup:
    """Attributes:
    names: of the model, as clients may call it; its own first.
    expires_at: when the session ends, in seconds since 1970.
    kind: "transcription" where nothing is answered, only written down.
    """

    names: tuple[str, ...]
    bounds: Bounds
    expires_at: int
    kind: Literal["realtime", "transcription"] = "realtime"


class State:
    """Attributes:
    session: as it is set up now.
    conversation: the default one, of which every session has one.
    """

    def __init__(self, setup: Setup, new_id: Callable[[str], str]) -> None:
        self.setup, self.new_id = setup, new_id
        self.limits = setup.bounds.limits
        self.session = setup.bounds.first(setup.kind)
        self.conversation = Conversation(new_id("conv"))
        self._out: list[Effect] = []

    def do(self, effect: Effect) -> None:
        self._out.append(effect)

    def emit(self, type: str, /, **fields: Any) -> None:
        """Send an event."""
        self.do(Send({"type": type, "event_id": self.new_id("event"), **fields}))

    def tell(self, problem: Problem, event: object = None) -> None:
        """Send an error event. event: of the client's, that is at fault."""
        id = event.get("event_id") if isinstance(event, dict) else None
        self.emit("error", error=error_of(problem) | {"event_id": id if isinstance(id, str) else None})

    def taken(self) -> list[Effect]:
        """What was brought about since the last time."""
        taken, self._out = self._out, []
        return taken

    def check_room(self, size: int = 0) -> None:
        """Problem where the conversation can take no more items, or not so many bytes, even without its old sounds."""
        if len(self.conversation) >= self.limits.items:
            raise Problem(
                f"the conversation has {len(self.conversation)} items, which is the most; delete some",
                code="conversation_full",
            )
        if not self.conversation.shed(self.limits.body_bytes - size):
            raise Problem(
                f"the conversation would have more than {self.limits.body_bytes} bytes; delete some items",
                code="conversation_full",
            )

    def add(self, item: Item, after: str | None) -> None:
        """Put a whole item into the conversation, and tell."""
        before = self.conversation.add(item, after)
        self.emit("conversation.item.added", previous_item_id=before, item=item.json())
        self.emit("conversation.item.done", previous_item_id=before, item=item.json())


def error_of(problem: Problem) -> Json:
    return {"type": problem.kind, "code": problem.code, "message": problem.message, "param": problem.param}
