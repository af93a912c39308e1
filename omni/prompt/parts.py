"""What a part of a message says of its picture, clip or sound, in whichever spelling."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeAlias

from omni.encoders.sources import unbase64
from omni.errors import MessageError

Part: TypeAlias = Mapping[str, Any]

PICTURE = ("min_pixels", "max_pixels", "resized_height", "resized_width")
SETTINGS: dict[str, tuple[str, ...]] = {
    "image": PICTURE,
    "audio": ("start", "end"),
    "video": (
        *PICTURE, "total_pixels", "fps", "num_frames", "min_frames", "max_frames", "start", "end", "audio_in_video",
        "raw_fps",
    ),
}  # fmt: skip
"""Of each kind, by our names."""
SPELLINGS: dict[str, dict[str, str]] = {
    "image": {},
    "audio": {"audio_start": "start", "audio_end": "end"},
    "video": {
        "nframes": "num_frames",
        "sample_fps": "fps",
        "video_start": "start",
        "video_end": "end",
        "use_audio_in_video": "audio_in_video",
    },
}
"""Of qwen_vl_utils and qwen_omni_utils."""
IDLE = ("type", "detail", "format", "uuid", "cache_control")
"""What other servers read, and here asks for nothing."""
INSIDE = ("url", "data", *IDLE)
"""Of the object in `image_url`, `input_audio` and the like."""


def names_of(kind: str) -> tuple[str, ...]:
    """The fields in which a part may hold its medium."""
    return kind, f"{kind}_url", f"input_{kind}"


def source_of(part: Part, kind: str, where: str) -> Any:
    """What a part holds its medium in: `kind`, OpenAI's `kind_url` with its `url`, or `input_audio` with its `data`."""
    for name in names_of(kind):
        value = part.get(name)
        if isinstance(value, Mapping):
            _check_keys(value, INSIDE, f"{where}.{name}")
            if "data" in value:
                return _from_base64(value["data"], f"{where}.{name}.data")
            value = value.get("url")
        if value is not None:
            return value
    raise MessageError(f"{where} has no {kind!r}; give a path, bytes, a data URL or a Python object")


def settings_of(part: Part, kind: str, where: str) -> dict[str, Any]:
    """What else a part says, by our names; what is null is left out.

    Raises MessageError for a field that is not known, has no number where one is needed, or comes twice with two values.
    """
    spellings = SPELLINGS[kind]
    _check_keys(part, (*names_of(kind), *SETTINGS[kind], *spellings, *IDLE), where)
    found: dict[str, Any] = {}
    said: dict[str, str] = {}
    for key in (*SETTINGS[kind], *spellings):
        if (value := part.get(key)) is None:
            continue
        name = spellings.get(key, key)
        if name == "audio_in_video":
            if value not in (True, False):
                raise MessageError(f"{where}.{key} is {value!r}; give true or false")
        elif not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise MessageError(f"{where}.{key} is {value!r}; give a number")
        if name in found and found[name] != value:
            raise MessageError(f"{where} has {said[name]} {found[name]} and {key} {value}, which are the same; give one")
        found[name], said[name] = value, key
    if said.get("fps") == "sample_fps" and not isinstance(source_of(part, kind, where), (list, tuple)):
        raise MessageError(f"{where}.sample_fps says how far apart the frames of a list are; for a file give fps")
    height, width = (found.pop(f"resized_{side}", None) for side in ("height", "width"))
    if (height is None) != (width is None):
        raise MessageError(f"{where} has one of resized_height and resized_width; give both, or neither")
    if height is not None:
        found["resized"] = int(height), int(width)
    return found


def _check_keys(part: Part, known: tuple[str, ...], where: str) -> None:
    for key, value in part.items():
        if value is not None and key not in known:
            near = get_close_matches(str(key), known, 1, 0.0)[0]
            raise MessageError(f"{where} has an unknown field {str(key)[:60]!r}; the nearest that is known is {near!r}")


def _from_base64(data: object, where: str) -> str | bytes:
    """The bytes that a text stands for; a data URL as it is."""
    if not isinstance(data, str):
        raise MessageError(f"{where} must be a base64 string")
    if data[:5].lower() == "data:":
        return data
    try:
        return unbase64(data)
    except ValueError as e:
        raise MessageError(f"{where} is not base64: {e}") from e
