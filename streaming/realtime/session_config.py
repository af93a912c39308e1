"""How a realtime session is set up: OpenAI's session object, its partial updates, and the names of the beta."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import orjson
from pydantic import AfterValidator, Discriminator, Field

from omni.events import Capabilities
from omni.streaming.audio.turn_detection import SemanticVad, ServerVad
from omni.streaming.fields import Each, Fields, FunctionName, check_calls, check_hears, parse
from omni.streaming.notices import ignore
from omni.streaming.problems import Problem
from omni.streaming.settings import Limits
from omni.streaming.voices import voice_of

if TYPE_CHECKING:
    from omni import Omni

Json: TypeAlias = dict[str, Any]
Modality: TypeAlias = Literal["audio", "text"]

BETA_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
BETA_NAMES = {
    "input_audio_format": ("audio", "input", "format"),
    "input_audio_transcription": ("audio", "input", "transcription"),
    "turn_detection": ("audio", "input", "turn_detection"),
    "output_audio_format": ("audio", "output", "format"),
    "voice": ("audio", "output", "voice"),
    "speed": ("audio", "output", "speed"),
    "max_response_output_tokens": ("max_output_tokens",),
    "modalities": ("output_modalities",),
}
"""Where the flat fields of the beta, of sessions and responses, went."""
NESTED = (("audio",), ("audio", "input"), ("audio", "output"), ("audio", "input", "transcription"))
"""Objects that an update fills in; all others it replaces."""
KEPT = ("type", "audio", "input", "output", "format", "voice", "speed", "output_modalities")
"""Fields that stay as they are where an update has null for them; others are cleared by it."""
MAX_DEPTH = 32
"""Of what is nested in a tool's parameters."""


class Format(Fields):
    type: Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
    rate: Literal[24000, 8000] | None = None

    def told(self) -> Json:
        """As clients see it."""
        return {"type": self.type, "rate": 24000} if self.type == "audio/pcm" else {"type": self.type}


def _possible_rate(format: Format) -> Format:
    if format.rate not in (None, 24000 if format.type == "audio/pcm" else 8000):
        raise ValueError("audio/pcm comes at a rate of 24000, audio/pcmu and audio/pcma at 8000; resample")
    return format


Coded: TypeAlias = Annotated[Format, AfterValidator(_possible_rate)]


class Transcription(Fields):
    """model: any name; what is written down is what the one model here hears."""

    model: str | None = None
    language: str | None = None
    prompt: str | None = None


TURNS = {field.name for of_one in (ServerVad, SemanticVad) for field in fields(of_one)}
TurnDetection: TypeAlias = Annotated[ServerVad | SemanticVad, Discriminator("type")]


class Input(Fields):
    taken = frozenset({"noise_reduction"})
    format: Coded
    transcription: Transcription | None = None
    turn_detection: TurnDetection | None = None


class Output(Fields):
    format: Coded
    voice: str | None = None
    speed: Annotated[float, Field(ge=0.25, le=1.5)]


class Audio(Fields):
    input: Input
    output: Output


class Tool(Fields):
    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: Json | None = None


class Session(Fields):
    """A whole session object, apart from what the server alone decides."""

    taken = frozenset(
        {"id", "object", "model", "expires_at", "client_secret", "include", "tracing", "truncation", "metadata"}
    )
    undone: ClassVar[Mapping[str, tuple[object, ...]]] = {"prompt": (), "parallel_tool_calls": (True,)}

    type: Literal["realtime", "transcription"]
    output_modalities: Each[Modality]
    instructions: str
    tools: Each[Tool]
    tool_choice: Any
    max_output_tokens: int | Literal["inf"]
    audio: Audio

    @property
    def spoken(self) -> bool:
        """Whether answers are spoken, unless one is asked for otherwise."""
        return self.output_modalities == ["audio"]

    @property
    def detection(self) -> ServerVad | SemanticVad | None:
        """How turns are told apart; None where the client does that."""
        return self.audio.input.turn_detection

    def merged(self, update: Json) -> Json:
        """This session with the fields of an update, which may have the beta's names; not yet checked."""
        return _merge(self.model_dump(), _with_new_names(update), ())

    def told(self, id: str, model: str, expires_at: int) -> Json:
        """The whole effective session; what clients may ask for and is not done here (tracing, prompts) is null."""
        listening = self.audio.input.model_dump() | {"format": self.audio.input.format.told(), "noise_reduction": None}
        base: Json = {"type": self.type, "id": id, "expires_at": expires_at, "include": None}
        if self.type == "transcription":
            return base | {"object": "realtime.transcription_session", "audio": {"input": listening}}
        said = self.audio.output.model_dump() | {"format": self.audio.output.format.told()}
        return base | {
            "object": "realtime.session",
            "model": model,
            "output_modalities": self.output_modalities,
            "instructions": self.instructions,
            "tools": [tool.model_dump() for tool in self.tools],
            "tool_choice": self.tool_choice,
            "max_output_tokens": self.max_output_tokens,
            "tracing": None,
            "truncation": "auto",
            "prompt": None,
            "audio": {"input": listening, "output": said},
        }


@dataclass(frozen=True)
class Bounds:
    """What a session can be here.

    Attributes:
        can: what the model does beside reading and writing.
        voices: that it has; default_voice: of them, the one where none is named; None where it does not speak.
    """

    can: Capabilities
    voices: tuple[str, ...]
    default_voice: str | None
    limits: Limits

    @classmethod
    def of(cls, omni: Omni, limits: Limits) -> Bounds:
        can = omni.capabilities
        return cls(can, tuple(omni.voices), omni.default_voice if can.speaks else None, limits)

    def first(self, kind: Literal["realtime", "transcription"]) -> Session:
        """The session before any update."""
        pcm, listening = {"type": "audio/pcm"}, {"type": "server_vad"} if self.can.hears else None
        noted: Json | None = {} if kind == "transcription" else None
        return Session.model_validate(
            {
                "type": kind,
                "output_modalities": ["audio"] if self.can.speaks else ["text"],
                "instructions": "",
                "tools": [],
                "tool_choice": "auto",
                "max_output_tokens": "inf",
                "audio": {
                    "input": {"format": pcm, "transcription": noted, "turn_detection": listening},
                    "output": {"format": pcm, "voice": self.default_voice, "speed": 1.0},
                },
            }
        )

    def parse(self, value: Json, param: str) -> Session:
        """A session object as it will be; Problem, with the path below `param`, for what cannot be here."""
        audio = value["audio"]
        if isinstance(audio, dict):
            for side in ("input", "output"):
                if isinstance(audio.get(side), dict):
                    audio[side]["format"] = _beta_format(audio[side].get("format"))
            if isinstance(audio.get("input"), dict) and isinstance(turns := audio["input"].get("turn_detection"), dict):
                audio["input"]["turn_detection"] = {key: each for key, each in turns.items() if each is not None}
                ignore(f"{param}.audio.input.turn_detection.{key}" for key in turns if key not in TURNS)
            if isinstance(audio.get("output"), dict):
                audio["output"]["voice"] = self._voice(_voice_name(audio["output"].get("voice")))
        # what some clients send for "as it is by default"
        cleared = {"instructions": "", "tools": [], "tool_choice": "auto", "max_output_tokens": "inf"}
        for key, empty in cleared.items():
            if value[key] is None:
                value[key] = empty
        if isinstance(value["tools"], list):
            self._check_number(len(value["tools"]), f"{param}.tools")
        session = parse(Session, value, param)
        self._check_senses(session, param)
        self._check_modalities(session.output_modalities, f"{param}.output_modalities")
        self._check_tokens(session.max_output_tokens, f"{param}.max_output_tokens")
        self._check_voice(session.audio.output.voice, f"{param}.audio.output.voice")
        self._check_tools(session.tools, f"{param}.tools")
        check_tool_choice(session, f"{param}.tool_choice")
        if isinstance(called := must_call(session.tool_choice), str):
            session.tool_choice = {"type": "function", "name": called}
        return session

    def _voice(self, name: object) -> object:
        """Whom a name stands for; the name itself where nobody speaks by it."""
        if not isinstance(name, str) or self.default_voice is None:
            return name
        return voice_of(name, self.voices, self.default_voice) or name

    def _check_senses(self, session: Session, param: str) -> None:
        listening = session.audio.input
        if session.type == "transcription":
            check_hears(self.can, f"{param}.type")
        if listening.transcription:
            check_hears(self.can, f"{param}.audio.input.transcription")
        if listening.turn_detection:
            check_hears(self.can, f"{param}.audio.input.turn_detection")

    def _check_modalities(self, modalities: Sequence[Modality], param: str) -> None:
        if len(modalities) != 1:
            raise Problem('give ["audio"], which comes with its transcript, or ["text"]', param=param, code="invalid_value")
        if modalities == ["audio"] and not self.can.speaks:
            raise Problem('this model does not speak; give ["text"]', param=param, code="invalid_value")

    def _check_tokens(self, tokens: int | str, param: str) -> None:
        if isinstance(tokens, int) and not 1 <= tokens <= self.limits.tokens:
            raise Problem(f'give a number from 1 to {self.limits.tokens}, or "inf"', param=param, code="invalid_value")

    def _check_voice(self, voice: str | None, param: str) -> None:
        if voice is not None and voice not in self.voices:
            have = f"give one of {', '.join(self.voices)}" if self.can.speaks else "this model does not speak; leave it out"
            raise Problem(f"there is no voice {voice[:100]!r}; {have}", param=param, code="unknown_voice")

    def _check_number(self, tools: int, param: str) -> None:
        """Before they are looked at one by one."""
        if tools > self.limits.tools:
            raise Problem(f"{tools} tools, and {self.limits.tools} are allowed", param=param, code="invalid_value")

    def _check_tools(self, tools: Sequence[Tool], param: str) -> None:
        if tools:
            check_calls(self.can, param)
        if len({tool.name for tool in tools}) < len(tools):
            raise Problem("two tools have the same name; rename one", param=param, code="invalid_value")
        parameters = [tool.parameters for tool in tools]
        if _deeper_than(MAX_DEPTH, parameters):
            raise Problem(f"parameters are nested more than {MAX_DEPTH} deep", param=param, code="invalid_value")
        if (size := size_as_json([tool.model_dump() for tool in tools], param)) > self.limits.tools_bytes:
            raise Problem(
                f"the tools have {size} bytes as JSON, and {self.limits.tools_bytes} are allowed; shorten them",
                param=param,
                code="invalid_value",
            )


def size_as_json(value: object, param: str) -> int:
    """Bytes of a value as JSON; Problem where it holds what cannot be told to clients."""
    try:
        return len(orjson.dumps(value))
    except TypeError:
        raise Problem(
            f"{param}: a whole number has more than 64 bits; write a smaller one", param=param, code="invalid_value"
        ) from None


def must_call(choice: object) -> bool | str:
    """The function that an answer must call, or whether it must call one; of a choice that was checked."""
    match choice:
        case {"type": "function", "name": str(name)} | {"type": "function", "function": {"name": str(name)}}:
            return name
        case _:
            return choice == "required"


def check_tool_choice(session: Session, param: str) -> None:
    """Problem for a choice that is none, or that names no function of the session."""
    choice, called = session.tool_choice, must_call(session.tool_choice)
    if choice not in ("auto", "none", "required") and not called:
        raise Problem(
            'give "auto", "none", "required", or {"type": "function", "name": ...}', param=param, code="invalid_value"
        )
    if isinstance(called, str) and called not in (tool.name for tool in session.tools):
        raise Problem(f"there is no tool {called[:100]!r} in the session", param=param, code="invalid_value")


def _with_new_names(update: Json) -> Json:
    modern = {key: value for key, value in update.items() if key not in BETA_NAMES}
    for old, path in BETA_NAMES.items():
        if old in update:
            value, place = update[old], modern
            if old == "modalities" and isinstance(value, list) and "audio" in value:
                value = ["audio"]  # the beta's audio came with "text" beside it
            for step in path[:-1]:
                inner = place.get(step)
                place[step] = dict(inner) if isinstance(inner, Mapping) else {}
                place = place[step]
            place.setdefault(path[-1], value)
    return modern


def _beta_format(value: object) -> object:
    return {"type": BETA_FORMATS[value]} if isinstance(value, str) and value in BETA_FORMATS else value


def _voice_name(value: object) -> object:
    return value["id"] if isinstance(value, Mapping) and "id" in value else value


def _merge(old: Json, update: Mapping[str, Any], path: tuple[str, ...]) -> Json:
    merged = dict(old)
    for key, value in update.items():
        if value is None and key in KEPT:
            continue
        inner, here = old.get(key), (*path, key)
        fills = here in NESTED or (
            key == "turn_detection"
            and isinstance(inner, dict)
            and isinstance(value, dict)
            and value.get("type", inner["type"]) == inner["type"]
        )
        merged[key] = _merge(inner or {}, value, here) if fills and isinstance(value, dict) else value
    return merged


def _deeper_than(most: int, value: object) -> bool:
    level: list[object] = [value]
    for _ in range(most + 1):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False
    return True
