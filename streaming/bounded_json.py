"""JSON from strangers: how much it holds is known before anything is made of it.

A body's bytes may be many, as media come in it as base64; what is around them is small. So whole blocks of base64 are cut
out first, the rest is measured and parsed, and the strings are put together again: no step holds Python's lock for long.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import pydantic_core

from omni.streaming.problems import Problem

T = TypeVar("T")

MOST_BYTES = 4 << 20
"""Besides base64: twice the text of the longest context, with every letter escaped."""
MOST_VALUES = 1 << 15
"""Fields, items, objects and lists: conversations as long as they may be have half as many."""
MOST_DEPTH = 64
LONG = 16 << 10
"""Bytes that take long enough to read that others should not wait for it."""

_BLOCK = 8 << 10
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
_TO_ONE = bytes.maketrans(_ALPHABET, b"A" * len(_ALPHABET))
_ONLY = b"A" * (_BLOCK + 1)
_ESCAPES = ((b"\\/", b"/"), (b"\\n", b"\n"), (b"\\r", b"\r"))
"""What base64 may hold: some write every slash so, and some write in lines."""
_PIECE = 1 << 20
_MARKS = b"[]{},:"
_NO_MARKS = bytes(set(range(256)) - set(_MARKS))
_STEPS = np.zeros(256, np.int32)
_STEPS[[*b"[{"]], _STEPS[[*b"]}"]] = 1, -1


async def read(data: bytes | bytearray | str, shape: Callable[[Any], T]) -> T:
    """What a JSON text holds, given a shape; in a thread where it is long. Raises as `parse` and the shape do."""

    def shaped() -> T:
        return shape(parse(data))

    return await asyncio.to_thread(shaped) if len(data) > LONG else shaped()


def parse(data: bytes | bytearray | str) -> Any:
    """The value that a JSON text stands for: without NaN and lone surrogates.

    Raises ValueError where it is no JSON, and Problem where it holds more than it may.
    """
    if isinstance(data, str):
        data = data.encode()
    if len(data) <= _BLOCK:
        _measure(data)
        return pydantic_core.from_json(data, allow_inf_nan=False)
    token = "x" + secrets.token_hex(16)  # no part of a number
    rest, runs = _cut(data, token.encode())
    _measure(rest)
    value = pydantic_core.from_json(rest, allow_inf_nan=False)
    return _filled(value, token, data, runs) if runs else value


def _cut(data: bytes | bytearray, token: bytes) -> tuple[bytes, list[tuple[int, int]]]:
    """The text with a mark in place of each run of blocks that are base64, and where these runs are."""
    rest, runs, at, size = list[bytes](), list[tuple[int, int]](), 0, 0
    while at < len(data):
        end = _end(data, at + _BLOCK, len(data))
        block = bytes(data[at:end])
        if end - at >= _BLOCK and _is_base64(block):
            if runs and runs[-1][1] == at:
                runs[-1] = runs[-1][0], end
            else:
                rest.append(b"%b%08x" % (token, len(runs)))
                runs.append((at, end))
        else:
            rest.append(block)
            size += len(block)
            if size > MOST_BYTES:
                raise _too_much(f"the JSON has more than {MOST_BYTES} bytes besides base64")
        at = end
    return b"".join(rest), runs


def _end(data: bytes | bytearray, at: int, most: int) -> int:
    """Where a piece may end that would end here: no escape is cut in two."""
    return min(at + (at < most and data[at - 1] == 0x5C), most)


def _text(data: bytes | bytearray, at: int, most: int) -> Iterator[str]:
    """What stands in a run, in pieces."""
    while at < most:
        end = _end(data, at + _PIECE, most)
        yield _unescaped(bytes(data[at:end])).decode("ascii")
        at = end


def _is_base64(block: bytes) -> bool:
    if b"\\" in block:
        block = _unescaped(block)
    return block.translate(_TO_ONE).replace(b"\n", b"A").replace(b"\r", b"A") == _ONLY[: len(block)]


def _unescaped(block: bytes) -> bytes:
    for written, meant in _ESCAPES:
        block = block.replace(written, meant)
    return block


def _measure(text: bytes | bytearray) -> None:
    """Problem where the text would become too many values, or too deeply nested ones."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")  # every quote left begins or ends a string
    if text.count(b'"') > 2 * MOST_VALUES:
        raise _too_much(f"the JSON has more than {MOST_VALUES} strings")
    marks = b"".join(text.split(b'"')[::2]).translate(None, _NO_MARKS)
    if np.cumsum(_STEPS[np.frombuffer(marks, np.uint8)]).max(initial=0) > MOST_DEPTH:
        raise Problem(f"the JSON is nested more than {MOST_DEPTH} deep", code="invalid_json")
    if sum(marks.count(mark) for mark in (b",", b":", b"[", b"{")) > MOST_VALUES:
        raise _too_much(f"the JSON has more than {MOST_VALUES} fields and items")


def _too_much(sentence: str) -> Problem:
    return Problem(f"{sentence}, which is the most; send less", 413, code="request_too_large")


def _filled(value: Any, token: str, data: bytes | bytearray, runs: list[tuple[int, int]]) -> Any:
    """The value with its strings whole again."""

    def whole(text: str) -> str:
        if token not in text:
            return text
        first, *others = text.split(token)
        pieces = [first]
        for other in others:
            pieces += _text(data, *runs[int(other[:8], 16)])
            pieces.append(other[8:])
        return "".join(pieces)

    top, left = [value], list[Any]()
    left.append(top)
    while left:
        place = left.pop()
        if isinstance(place, dict) and any(token in key for key in place):
            raise Problem("the name of a field is too long", code="invalid_json")
        for key, inner in place.items() if isinstance(place, dict) else enumerate(place):
            if isinstance(inner, str):
                place[key] = whole(inner)
            elif isinstance(inner, dict | list):
                left.append(inner)
    return top[0]
