"""Messages to a prompt: media read and cut, ids with a span for each medium, positions."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from omni.encoders.config import MelConfig, PixelConfig
from omni.encoders.features import Picture, Sound, num_audio_tokens
from omni.encoders.media import Budget, read_audio, read_image, read_video
from omni.encoders.mel import log_mel
from omni.encoders.pixels import image_patches, video_patches
from omni.encoders.sources import digest_of
from omni.errors import ContextError, MediaError, MediaLimitError, MessageError
from omni.models.config import MediaIds
from omni.prompt.positions import AudioSpan, AudioVideoSpan, Clock, ImageSpan, Span, TextSpan, VideoSpan
from omni.prompt.template import Template
from omni.prompt.tokenizer import Tokenizer
from omni.recent import Recent

Message: TypeAlias = Mapping[str, Any]
Medium: TypeAlias = tuple[Picture | None, Sound | None]

MAX_BYTES = 256 * 2**20
"""Of the pictures, clips and sounds that were read lately."""
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class MediaRun:
    """Rows `first` to `last` of the `index`-th sound or picture; media in prompt order are a list of runs."""

    is_sound: bool
    index: int
    first: int
    last: int


@dataclass(frozen=True)
class Prompt:
    """What the thinker reads.

    Attributes:
        ids: int64 `[N]`, placeholders expanded to one a row.
        positions: int64 `[3, N]`.
        clock: where the sequence goes on.
        runs: the media's rows in the order of their placeholders.
        is_media: bool `[N]`, the placeholders.
    """

    ids: Tensor
    positions: Tensor
    clock: Clock
    pictures: tuple[Picture, ...]
    sounds: tuple[Sound, ...]
    runs: tuple[MediaRun, ...]
    is_media: Tensor
    image_tokens: int
    video_tokens: int
    audio_tokens: int

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    def medium(self, is_sound: bool, index: int) -> Sound | Picture:
        return self.sounds[index] if is_sound else self.pictures[index]

    def rows_of(self, is_sound: bool, index: int) -> int:
        """Rows that a medium has."""
        return max(run.last for run in self.runs if (run.is_sound, run.index) == (is_sound, index))

    def head(self, num_rows: int) -> Prompt:
        """Its first rows."""
        runs, left = list[MediaRun](), int(self.is_media[:num_rows].sum())
        for run in self.runs:
            if left:
                runs.append(replace(run, last=min(run.last, run.first + left)))
                left -= runs[-1].last - runs[-1].first
        return replace(
            self,
            ids=self.ids[:num_rows],
            positions=self.positions[:, :num_rows],
            is_media=self.is_media[:num_rows],
            runs=tuple(runs),
        )

    def runs_after(self, row: int) -> tuple[MediaRun, ...]:
        """The media's rows from a row of the prompt on."""
        skip = int(self.is_media[:row].sum())
        runs = []
        for run in self.runs:
            size = run.last - run.first
            if skip < size:
                runs.append(replace(run, first=run.first + skip))
            skip = max(0, skip - size)
        return tuple(runs)

    def page_keys(self, page_size: int, block_frames: int) -> list[bytes]:
        """For each whole page of rows, a digest of all that the model has been told up to its end.

        block_frames: of the blocks that the audio tower hears apart from each other: as long as a sound goes on, the keys of
        what has been heard stay.
        """
        content = torch.cat((self.ids[None], self.positions)).T.contiguous()  # [N, 4]
        names = {(run.is_sound, run.index): self._row_names(run.is_sound, run.index, block_frames) for run in self.runs}
        rows = iter([name for run in self.runs for name in names[run.is_sound, run.index][run.first : run.last]])
        is_media, keys, key = self.is_media.tolist(), list[bytes](), b""
        for last in range(page_size, self.num_tokens + 1, page_size):
            digest = hashlib.blake2b(key, digest_size=16)
            digest.update(content[last - page_size : last].numpy().data)
            for _ in range(sum(is_media[last - page_size : last])):
                digest.update(next(rows))
            key = digest.digest()
            keys.append(key)
        return keys

    def _row_names(self, is_sound: bool, index: int, block_frames: int) -> list[bytes]:
        """For each row of a medium, the digest of the piece that it is of, and its place there."""
        medium = self.medium(is_sound, index)
        pieces = medium.pieces(block_frames) if isinstance(medium, Sound) else medium.pieces
        size = max(1, self.rows_of(is_sound, index) // len(pieces))
        names = []
        for piece in pieces:
            num = num_audio_tokens(piece.mel.shape[1]) if isinstance(piece, Sound) else size
            names += [piece.digest + row.to_bytes(4, "little") for row in range(num)]
        return names

    def clock_after(self) -> Clock:
        """A clock of one's own that stands at the end of the prompt."""
        return replace(self.clock)


@dataclass(frozen=True)
class PromptReader:
    """Turns messages into prompts, the way a checkpoint was taught to read them.

    Attributes:
        clock: where a prompt begins.
        media, pixels, mel: None for a model without ears and eyes, without eyes, without ears.
        max_tokens: media are refused once their rows alone are more.
        speaking: the system prompt that speech begins with, unless the messages bring one of their own.
        recent: media that were read lately.
    """

    tokenizer: Tokenizer
    template: Template
    clock: Clock
    media: MediaIds | None
    pixels: PixelConfig | None
    mel: MelConfig | None
    max_tokens: int
    speaking: str | None = None
    budget: Budget = field(default_factory=Budget)
    recent: Recent[Medium] = field(default_factory=lambda: Recent(MAX_BYTES), repr=False, compare=False)

    def read(
        self,
        messages: Sequence[Message],
        *,
        speaking: bool = False,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> Prompt:
        """Read chat messages, ending where the assistant's answer begins.

        Args:
            messages: OpenAI's chat shape, or the same with Python objects for media: see `Omni.generate`.
            speaking: the answer is to be spoken.
            audio_in_video: hear the sound of clips; None where they have one.
            tools: functions that the model may call, as OpenAI describes them.

        Raises:
            MessageError, MediaError, ContextError: saying which message and part is at fault.
            OptionError: tools, for a checkpoint whose chat template has no place for them.
        """
        if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
            raise MessageError('messages must be a list such as [{"role": "user", "content": "Hello"}]')
        turns: list[dict[str, Any]] = []
        media: list[Medium] = []
        for i, message in enumerate(messages):
            turn, found = self._turn(message, f"messages[{i}]", audio_in_video)
            turns.append(turn)
            media += found
            self._check_rows(media)
        if speaking and self.speaking and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": self.speaking})
        if not turns:
            raise MessageError('there are no messages; give a list such as [{"role": "user", "content": "Hello"}]')
        ids = self.tokenizer.encode_runs(self.template.render(turns, add_generation_prompt=True, tools=tools))
        return self._lay_out(ids, media)

    def _check_rows(self, media: Sequence[Medium]) -> None:
        rows = sum(self._span(*medium).num_tokens for medium in media)
        if rows > self.max_tokens:
            raise ContextError(
                f"the pictures, clips and sounds come to {rows} tokens and the model's context is {self.max_tokens}; send "
                "fewer or smaller ones, or sample fewer video frames"
            )

    def _turn(self, message: Message, where: str, audio_in_video: bool | None) -> tuple[dict[str, Any], list[Medium]]:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise MessageError(f"{where} needs a 'role' that is one of {', '.join(ROLES)}, and 'content'")
        content, bare = message.get("content"), {"role": message["role"]}
        if calls := message.get("tool_calls"):
            bare["tool_calls"] = _calls(calls, where)
        if isinstance(content, str) or (content is None and calls):
            return {**bare, "content": content or ""}, []
        if not isinstance(content, Sequence) or isinstance(content, bytes):
            raise MessageError(f"{where}.content must be a text or a list of parts")
        parts, media = [], list[Medium]()
        for j, part in enumerate(content):
            here = f"{where}.content[{j}]"
            try:
                kind, value = self._part(part, here, audio_in_video)
            except MediaError as e:
                raise type(e)(f"{here}: {e}") from e
            if isinstance(value, str):
                parts.append({"type": "text", "text": value})
            else:
                parts.append({"type": kind})
                media.append(value)
                self._check_rows(media)
        if self.media is None:  # templates of text alone write a list of parts as Python shows it
            return {**bare, "content": "\n".join(part["text"] for part in parts)}, media
        return {**bare, "content": parts}, media

    def _part(self, part: object, where: str, audio_in_video: bool | None) -> tuple[str, str | Medium]:
        """The kind of one part of a message, and its text or medium."""
        if isinstance(part, str):
            return "text", part
        if not isinstance(part, Mapping):
            raise MessageError(f"{where} must be a text or an object with a 'type'")
        match part.get("type"):
            case "text" | "input_text":
                if not isinstance(part.get("text"), str):
                    raise MessageError(f"{where}.text must be a string")
                return "text", part["text"]
            case "image" | "image_url":
                return "image", self._once(part, "image", where, self._image)
            case "audio" | "audio_url" | "input_audio":
                return "audio", self._once(part, "audio", where, self._sound)
            case "video" | "video_url":
                return "video", self._once(part, "video", where, self._video, audio_in_video)
            case other:
                raise MessageError(f"{where}.type is {other!r}; known are text, image, audio and video")

    def _once(self, part: Message, kind: str, where: str, read: Callable[..., Medium], *how: object) -> Medium:
        """A medium, which is not read again where it comes again: each turn brings all that were before it."""
        source = _source(part, kind, where)
        if (content := digest_of(source)) is None:
            return read(part, source, where, *how)
        rest = [item for item in sorted(part.items()) if item[0] not in ("type", *_names(kind))]
        key = content + repr((kind, how, rest)).encode()
        if (medium := self.recent.get(key)) is None:
            picture, sound = medium = read(part, source, where, *how)
            num_bytes = (picture.patches.nbytes if picture else 0) + (sound.mel.nbytes if sound else 0)
            self.recent.put(key, medium, num_bytes)
        return medium

    def _hearing(self) -> MelConfig:
        if self.mel is None:
            raise MediaError("this model does not hear; leave sound out, or take a model with ears")
        return self.mel

    def _sight(self) -> PixelConfig:
        if self.pixels is None:
            raise MediaError("this model does not see; leave pictures and clips out, or take a model with eyes")
        return self.pixels

    def _sound(self, part: Message, source: Any, where: str) -> Medium:
        mel = self._hearing()
        return None, log_mel(read_audio(source, rate=mel.sampling_rate, budget=self.budget), mel)

    def _image(self, part: Message, source: Any, where: str) -> Medium:
        pixels = self._sight()
        image = read_image(source, budget=self.budget)
        return image_patches(image, pixels, **_numbers(part, where, "min_pixels", "max_pixels")), None

    def _video(self, part: Message, source: Any, where: str, audio_in_video: bool | None) -> Medium:
        pixels = self._sight()
        sampling = _numbers(part, where, "fps", "num_frames", "min_frames", "max_frames", "start", "end")
        clip = read_video(source, budget=self.budget, **sampling)
        # the clock of a clip runs by the rate asked for, 2 frames a second unless told, as published
        shape = _numbers(part, where, "fps", "min_pixels", "max_pixels")
        picture = video_patches(clip.frames, pixels, **shape)
        wanted = part.get("audio_in_video", audio_in_video)
        if wanted not in (None, True, False):
            raise MessageError(f"{where}.audio_in_video is {wanted!r}; give true or false")
        if not (clip.has_audio and self.mel is not None if wanted is None else wanted):
            return picture, None
        mel = self._hearing()
        rate = mel.sampling_rate
        wave = read_audio(source, rate=rate, budget=self.budget)
        first, last = (None if t is None else max(0, round(t * rate)) for t in (part.get("start"), part.get("end")))
        wave = wave[first:last]
        if wanted is None and num_audio_tokens(-(-len(wave) // mel.hop_length)) < 1:
            return picture, None  # a sound track that ends before the clip begins
        try:
            return picture, log_mel(wave, mel)
        except MediaLimitError as e:
            raise MediaLimitError(f"{e}; or leave the clip's sound out with audio_in_video=False") from e

    def _lay_out(self, ids: Sequence[int], media: Sequence[Medium]) -> Prompt:
        """Replace each placeholder by its medium's rows."""
        clock = replace(self.clock)
        if self.media is None:
            return text_prompt(ids, clock)
        places = {self.media.image, self.media.video, self.media.audio}
        if sum(i in places for i in ids) != len(media):
            raise MessageError("this checkpoint's chat template does not place every picture, sound or clip of the messages")
        spans: list[Span] = []
        text: list[int] = []
        left = iter(media)
        skip = False
        for token in ids:
            if skip:  # the end marker that an AudioVideoSpan brings itself
                skip = False
            elif token not in places:
                text.append(token)
            else:
                span = self._span(*next(left))
                if isinstance(span, AudioVideoSpan):
                    text.pop()
                    skip = True
                spans += [TextSpan(tuple(text)), span]
                text = []
        spans.append(TextSpan(tuple(text)))
        pictures = tuple(p for p, _ in media if p)
        sounds = tuple(s for _, s in media if s)
        return fill(spans, self.media, clock, pictures, sounds)

    def _span(self, picture: Picture | None, sound: Sound | None) -> Span:
        audio = AudioSpan(num_audio_tokens(sound.mel.shape[1])) if sound else None
        if picture is None:
            assert audio
            return audio
        (t, h, w), side = picture.grid, self._sight().merge_size
        cells = (t, h // side, w // side)
        if picture.second_per_grid is None:
            return ImageSpan(cells)
        video = VideoSpan(cells, picture.second_per_grid)
        return AudioVideoSpan(video, audio) if audio else video


def text_prompt(ids: Sequence[int], clock: Clock) -> Prompt:
    """The prompt of ids that all stand for themselves."""
    rows, is_media = torch.tensor(ids), torch.zeros(len(ids), dtype=torch.bool)
    return Prompt(rows, clock.text(len(ids)), clock, (), (), (), is_media, 0, 0, 0)


def fill(
    spans: Sequence[Span], known: MediaIds, clock: Clock, pictures: tuple[Picture, ...], sounds: tuple[Sound, ...]
) -> Prompt:
    """The prompt of some spans: ids with one placeholder a row, positions by `clock`, and which rows go where."""
    ids: list[int] = []
    runs: list[MediaRun] = []
    count = {known.image: 0, known.video: 0, known.audio: 0}
    next_picture = next_sound = 0

    def put(token: int, run: MediaRun) -> None:
        ids.extend([token] * (run.last - run.first))
        count[token] += run.last - run.first
        runs.append(run)

    for span in spans:
        match span:
            case TextSpan():
                ids += span.ids
            case AudioSpan():
                put(known.audio, MediaRun(True, next_sound, 0, span.num_tokens))
                next_sound += 1
            case ImageSpan() | VideoSpan():
                token = known.image if isinstance(span, ImageSpan) else known.video
                put(token, MediaRun(False, next_picture, 0, span.num_tokens))
                next_picture += 1
            case AudioVideoSpan():
                ids += (known.vision_start, known.audio_start)
                for track, first, last in clock.runs(span):
                    if track:
                        put(known.audio, MediaRun(True, next_sound, first, last))
                    else:
                        put(known.video, MediaRun(False, next_picture, first, last))
                ids += (known.audio_end, known.vision_end)
                next_picture, next_sound = next_picture + 1, next_sound + 1
    positions = clock.place(spans)
    assert positions.shape[1] == len(ids)
    rows = torch.tensor(ids)
    is_media = torch.isin(rows, torch.tensor(list(count)))
    return Prompt(
        rows, positions, clock, pictures, sounds, tuple(runs), is_media,
        count[known.image], count[known.video], count[known.audio],
    )  # fmt: skip


def _calls(calls: object, where: str) -> list[dict[str, Any]]:
    """The calls of an assistant's message, their arguments as objects, which is what templates write as JSON."""
    if not isinstance(calls, Sequence) or isinstance(calls, (str, bytes)):
        raise MessageError(f"{where}.tool_calls must be a list")
    out = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise MessageError(f"{where}.tool_calls[{i}] has no function with a name")
        arguments = function.get("arguments") or {}
        try:
            arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError as e:
            raise MessageError(f"{where}.tool_calls[{i}].function.arguments is no JSON: {e}") from e
        out.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return out


def _numbers(part: Message, where: str, *names: str) -> dict[str, Any]:
    """Those of a part's fields that are there, which must be numbers."""
    found = {name: part[name] for name in names if part.get(name) is not None}
    for name, value in found.items():
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
            raise MessageError(f"{where}.{name} is {value!r}; give a number")
    return found


def _names(kind: str) -> tuple[str, ...]:
    return kind, f"{kind}_url", f"input_{kind}"


def _source(part: Message, kind: str, where: str) -> Any:
    """What a part holds its medium in: `kind`, OpenAI's `kind_url` with its `url`, or `input_audio` with its `data`."""
    for name in _names(kind):
        value = part.get(name)
        if isinstance(value, Mapping):
            if "data" in value:
                return _from_base64(value["data"], f"{where}.{name}.data")
            value = value.get("url")
        if value is not None:
            return value
    raise MessageError(f"{where} has no {kind!r}; give a path, bytes, a data URL or a Python object")


def _from_base64(data: object, where: str) -> bytes:
    if not isinstance(data, str):
        raise MessageError(f"{where} must be a base64 string")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as e:
        raise MessageError(f"{where} is not base64: {e}") from e
