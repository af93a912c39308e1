"""Function calls in what a model writes: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Qwen was taught."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import pydantic_core

OPEN, CLOSE = "<tool_call>", "</tool_call>"


@dataclass(frozen=True)
class Call:
    """Attributes:
    arguments: a JSON object, as text.
    """

    name: str
    arguments: str


class CallError(Exception):
    """The model wrote a call that is none."""


class CallParser:
    """Splits text that comes in pieces into what is for the listener and calls, which are not.

    names: of the functions that may be called.
    """

    def __init__(self, names: Container[str]) -> None:
        self._names = names
        self._kept = ""
        self._block: str | None = None
        self._called = False

    def push(self, piece: str) -> tuple[str, list[Call]]:
        """What the listener gets of the text so far, and calls that are complete now.

        Text is kept back while it may be the beginning of a call, and white space while a call may follow it.
        """
        told, calls = "", list[Call]()
        if self._block is None:
            self._kept += piece
        else:
            self._block += piece
        while True:
            if self._block is None:
                before, opened, after = self._kept.partition(OPEN)
                if not opened:
                    end = _end_of_plain(self._kept)
                    told, self._kept = told + self._kept[:end], self._kept[end:]
                    return told, calls
                told, self._kept, self._block = told + before.rstrip(), "", after
            call, rest = self._closed(self._block)
            if call is None:
                return told, calls
            calls.append(call)
            self._called = True
            self._block, self._kept = None, rest.lstrip()

    def finish(self) -> tuple[str, list[Call]]:
        """The rest; a last call may lack its end mark. CallError where the text ends within a call."""
        if self._block is None:
            return ("" if self._called and not self._kept.strip() else self._kept), []
        call = self._call(self._block)
        if call is None:
            raise CallError("the model wrote a function call that is no JSON with a name and arguments")
        return "", [call]

    def _closed(self, block: str) -> tuple[Call | None, str]:
        """The call of a block that is closed, and what follows; an end mark within one of its strings closes nothing."""
        end = block.find(CLOSE)
        while end >= 0:
            call = self._call(block[:end])
            if call is not None:
                return call, block[end + len(CLOSE) :]
            end = block.find(CLOSE, end + 1)
        return None, block

    def _call(self, text: str) -> Call | None:
        try:
            value = pydantic_core.from_json(text, allow_inf_nan=False)
        except ValueError:  # or nested so deeply that nobody meant it
            return None
        if not isinstance(value, dict) or not isinstance(value.get("name"), str):
            return None
        name, arguments = value["name"], value.get("arguments", {})
        if not isinstance(arguments, dict):
            return None
        if name not in self._names:
            raise CallError("the model called a function that it was not given")
        return Call(name, pydantic_core.to_json(arguments).decode())


def _end_of_plain(text: str) -> int:
    """Where the white space and the beginning of an open mark start that a text may end with."""
    for size in range(min(len(OPEN) - 1, len(text)), 0, -1):
        if text.endswith(OPEN[:size]):
            return len(text[:-size].rstrip())
    return len(text.rstrip())
