"""The fields of a request: what they may be, and what a client is told of the one that is at fault."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from omni.events import Capabilities
from omni.streaming.problems import Problem

M = TypeVar("M", bound=BaseModel)
Kind: TypeAlias = Literal["image", "audio", "video"]
FunctionName: TypeAlias = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
"""Of a tool, as OpenAI allows it."""

TAGGED = ("messages", "content")
"""Lists of which an item's kind stands in pydantic's path behind its index, though it is no key of the request."""
TAGS = ("server_vad", "semantic_vad")
"""Kinds that pydantic puts into a path, though they are no keys."""
UNSUPPORTED = ("extra_forbidden", "none_required")
LACKING = "unsupported_parameter"
"""The code for what this server's model cannot do, though others can."""


class Strict(BaseModel):
    """A part of a request: no other fields, no values that must be guessed (`"5"` is no number)."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Lenient(BaseModel):
    """Real clients send fields of newer versions, of other servers and of the beta; none of them is an error."""

    model_config = ConfigDict(extra="ignore", strict=True)


def problem_of_fields(errors: Sequence[Any], *, tagged: bool = False) -> Problem:
    """What a client is told of the first of pydantic's errors; never the value, which may be large or private.

    tagged: what is read is one of several kinds, whose name comes first in pydantic's path.
    """
    error = errors[0]
    loc = [item for item in error["loc"] if item != "body"][tagged:]
    path, kind, about = "", error["type"], error.get("ctx", {})
    for i, item in enumerate(loc):
        if i >= 2 and isinstance(loc[i - 1], int) and loc[i - 2] in TAGGED:
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
    if kind in UNSUPPORTED:
        return Problem(f"{param} is not known here; leave it out", param=param, code="unsupported_parameter")
    if kind == "union_tag_invalid":
        return Problem(f"{param} is unknown; known are {about['expected_tags']}", param=param, code="invalid_value")
    said = str(about["error"]) if kind == "value_error" else f"{error['msg'][:1].lower()}{error['msg'][1:]}"
    return Problem(f"{param}: {said}", param=param, code="invalid_type" if kind.endswith("_type") else "invalid_value")


def parse(model: type[M], value: object, param: str) -> M:
    """A value of the JSON as a model; Problem, with the path below `param`, where it has another shape."""
    try:
        return model.model_validate(value)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        loc = [step for step in first["loc"] if step not in TAGS]
        raise problem_of_fields([{**first, "loc": [param, *loc] if param else loc}]) from None


def check_hears(can: Capabilities, param: str) -> None:
    """Problem where the model cannot hear what a field holds or asks for."""
    if not can.hears:
        raise Problem("this server's model does not hear; leave sounds out", param=param, code=LACKING)


def check_sees(can: Capabilities, param: str) -> None:
    """Problem where the model cannot see what a field holds."""
    if not can.sees:
        raise Problem("this server's model does not see; leave pictures and clips out", param=param, code=LACKING)


def check_medium(can: Capabilities, kind: Kind, param: str) -> None:
    """Problem where the model lacks the sense for a field's medium."""
    (check_hears if kind == "audio" else check_sees)(can, param)
