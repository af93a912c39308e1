"""The fields of a request: what they may be, and what a client is told of the one that is at fault."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from omni.events import Capabilities
from omni.streaming import bounded_json
from omni.streaming.notices import ignore
from omni.streaming.problems import Problem

M = TypeVar("M", bound=BaseModel)
E = TypeVar("E")
Each: TypeAlias = Annotated[list[E], Field(fail_fast=True)]
"""A list of which the first fault is told, and nothing after it is looked at."""
Kind: TypeAlias = Literal["image", "audio", "video"]
FunctionName: TypeAlias = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
"""Of a tool, as OpenAI allows it."""


def _as_text(value: object) -> object:
    return json.dumps(value) if isinstance(value, dict) else value


def _json_object(text: str) -> str:
    if not text.strip():
        return "{}"
    try:
        if isinstance(bounded_json.parse(text), dict):
            return text
    except Problem as e:
        raise ValueError(e.message) from None
    except ValueError:
        pass
    raise ValueError("give a JSON object as a string")


JsonObject: TypeAlias = Annotated[
    str, BeforeValidator(_as_text, json_schema_input_type=str | dict[str, Any]), AfterValidator(_json_object)
]
"""The arguments of a call, as text; none of them may be written as nothing."""
TAGGED = ("messages", "content")
"""Lists of which an item's kind stands in pydantic's path behind its index, though it is no key of the request."""
TAGGED_FIELD = "tool_choice"
"""A field with such a kind behind it."""
TAGS = ("server_vad", "semantic_vad")
"""Kinds that pydantic puts into a path, though they are no keys."""
LACKING = "unsupported_parameter"
"""The code for what this server's model cannot do, though others can."""


class Fields(BaseModel):
    """A part of a request: no values that must be guessed (`"5"` is no number); null is as if a field were not there.

    A field that asks for nothing is taken, one that would change the answer is done or refused by name, and one that nobody
    knows is passed over and told (`check_others`).

    Attributes:
        taken: fields that no answer depends on, whatever they hold.
        undone: fields that would change an answer and are not done here, with the values of them that ask for nothing.
    """

    model_config = ConfigDict(extra="allow", strict=True)

    taken: ClassVar[frozenset[str]] = frozenset()
    undone: ClassVar[Mapping[str, tuple[object, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        own = handler.resolve_ref_schema(schema)
        for name, about in own.get("properties", {}).items():
            if name not in own.get("required", ()) and {"type": "null"} not in about.get("anyOf", ()):
                own["properties"][name] = {"anyOf": [*about.pop("anyOf", [about]), {"type": "null"}]}
        return schema


class Body(Fields):
    """The whole of what a client sends at once, whose fields are looked through for those that nobody knows."""

    _is_checked: bool = PrivateAttr(default=False)

    @model_validator(mode="after")
    def _looked_through(self) -> Self:
        if not self._is_checked:  # FastAPI has it validated again
            check_others(self, "")
            self._is_checked = True
        return self


class Glance(BaseModel):
    """A look at some fields of something that is read whole elsewhere."""

    model_config = ConfigDict(extra="ignore", strict=True)


def check_others(model: Fields, path: str) -> None:
    """Take the fields that a model does not have out of it and of all below it, and tell of those that nobody knows.

    path: where the model stands. Raises Problem for a field that would change the answer.
    """
    ignore(_unknown(model, path))


def _unknown(model: Fields, path: str) -> Iterator[str]:
    others = model.model_extra or {}
    for name, value in others.items():
        here = f"{path}.{name}" if path else name
        if name in model.undone:
            # True == 1 in Python, and means something else
            if not any(
                value == is_off and isinstance(value, bool) is isinstance(is_off, bool) for is_off in model.undone[name]
            ):
                raise Problem(f"{here} is not supported here; leave it out", param=here, code=LACKING)
        elif name not in model.taken:
            yield here
    others.clear()
    for name in type(model).model_fields:
        yield from _unknown_in(getattr(model, name), f"{path}.{name}" if path else name)


def _unknown_in(value: object, path: str) -> Iterator[str]:
    match value:
        case Fields():
            yield from _unknown(value, path)
        case list():
            for i, item in enumerate(value):
                yield from _unknown_in(item, f"{path}[{i}]")


def problem_of_fields(errors: Sequence[Any], *, tagged: bool = False) -> Problem:
    """What a client is told of the first of pydantic's errors; never the value, which may be large or private.

    tagged: what is read is one of several kinds, whose name comes first in pydantic's path.
    """
    error = errors[0]
    loc = [item for item in error["loc"] if item != "body"][tagged:]
    path, kind, about = "", error["type"], error.get("ctx", {})
    for i, item in enumerate(loc):
        if (i >= 2 and isinstance(loc[i - 1], int) and loc[i - 2] in TAGGED) or (i and loc[i - 1] == TAGGED_FIELD == loc[0]):
            continue
        path += f"[{item}]" if isinstance(item, int) else f".{item}" if path else str(item)
    if kind == "json_invalid":
        return Problem(f"the body is not JSON: {about['error']}", code="invalid_json")
    if kind.startswith("union_tag_"):
        path = f"{path}.{about['discriminator']}".replace("'", "").removeprefix(".")
    if not path:
        return Problem("this is no JSON object; send one, over HTTP as application/json", code="invalid_json")
    param = path[:200]
    if kind in ("missing", "union_tag_not_found"):
        return Problem(f"{param} is missing", param=param, code="missing_required_parameter")
    if kind == "union_tag_invalid":
        return Problem(f"{param} is unknown; known are {about['expected_tags']}", param=param, code="invalid_value")
    said = str(about["error"]) if kind == "value_error" else f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    return Problem(f"{param}: {said}", param=param, code="invalid_type" if kind.endswith("_type") else "invalid_value")


def parse(model: type[M], value: object, param: str) -> M:
    """A value of the JSON as a model; Problem, with the path below `param`, where it has another shape."""
    try:
        parsed = model.model_validate(value)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        loc = [step for step in first["loc"] if step not in TAGS]
        raise problem_of_fields([{**first, "loc": [param, *loc] if param else loc}]) from None
    if isinstance(parsed, Fields):
        check_others(parsed, param)
    return parsed


def check_hears(can: Capabilities, param: str) -> None:
    """Problem where the model cannot hear what a field holds or asks for."""
    if not can.hears:
        raise Problem("this server's model does not hear; leave sounds out", param=param, code=LACKING)


def check_sees(can: Capabilities, param: str) -> None:
    """Problem where the model cannot see what a field holds."""
    if not can.sees:
        raise Problem("this server's model does not see; leave pictures and clips out", param=param, code=LACKING)


def check_calls(can: Capabilities, param: str) -> None:
    """Problem where the model was not taught to call functions."""
    if not can.calls:
        raise Problem("this server's model calls no functions; leave tools out", param=param, code=LACKING)


def check_medium(can: Capabilities, kind: Kind, param: str) -> None:
    """Problem where the model lacks the sense for a field's medium."""
    (check_hears if kind == "audio" else check_sees)(can, param)
