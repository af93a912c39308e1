"""Messages to a prompt: media read and cut, ids with a span for each medium, positions."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from typing import Any, TypeAlias

import torch

from omni.encoders.config import MelConfig, PixelConfig
from omni.encoders.decoder import HERE, Decoder
from omni.encoders.features import Picture, Sound
from omni.encoders.live import LiveSound
from omni.encoders.mel import MIN_FRAMES, LogMel, log_mel
from omni.encoders.pixels import FrameSize, image_patches, video_patches
from omni.encoders.sampling import Sampling
from omni.encoders.sources import Budget, digest_of
from omni.encoders.tower import Ears, Senses, Tower
from omni.encoders.waves import Wave
from omni.errors import ContextError, MediaError, MediaLimitError, MessageError
from omni.models.config import MediaIds
from omni.prompt.parts import names_of, settings_of, source_of
from omni.prompt.positions import AudioSpan, AudioVideoSpan, Clock, ImageSpan, Span, TextSpan, VideoSpan
from omni.prompt.prompt import MediaRun, Prompt, fill, text_prompt
from omni.prompt.template import Template
from omni.prompt.tokenizer import Tokenizer
from omni.recent import Recent

Message: TypeAlias = Mapping[str, Any]
Shown: TypeAlias = tuple[Picture] | tuple[Sound] | tuple[Picture, Sound]
"""What one part of a message shows: a picture or a clip, a sound, or a clip and its sound."""
Known: TypeAlias = dict[int, tuple[Message, Shown]]
"""Parts that were read before and what they show, by `id`: for a reader of the same parts again and again."""

MAX_BYTES = 256 * 2**20
"""Of the pictures, clips and sounds that were read lately."""
TEXTS = ("text", "input_text")
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class PromptReader:
    """Turns messages into prompts, the way a checkpoint was taught to read them.

    Attributes:
        clock: where a prompt begins.
        media: None for a model of text alone.
        pixels, eyes, mel, ears: None for a model that does not see, or does not hear.
        max_tokens: media are refused once their rows alone are more.
        speaking: the system prompt that speech begins with, unless the messages bring one of their own.
        recent: media that were read lately.
        salt: of whoever's messages are read: nobody with another one finds in a cache what was computed for them.
        decoder: opens their files.
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
    ears: Ears | None = None
    eyes: Tower[Picture] | None = None
    recent: Recent[Shown] = field(default_factory=lambda: Recent(MAX_BYTES), repr=False, compare=False)
    salt: bytes = b""
    decoder: Decoder = HERE

    def read(
        self,
        messages: Sequence[Message],
        *,
        speaking: bool = False,
        audio_in_video: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        template_args: Mapping[str, Any] | None = None,
        known: Known | None = None,
    ) -> Prompt:
        """Read chat messages, ending where the assistant's answer begins.

        Args:
            messages: OpenAI's chat shape, or the same with Python objects for media: see `Omni.generate`.
            speaking: the answer is to be spoken.
            audio_in_video: hear the sound of clips; None where they have one.
            tools: functions that the model may call, as OpenAI describes them.
            template_args: switches of the checkpoint's chat template, such as `enable_thinking`.
            known: parts that are not looked into again; those that are read come in, so they must not change.

        Raises:
            MessageError, MediaError, ContextError: saying which message and part is at fault.
            OptionError: tools or switches for which the checkpoint's chat template has no place.
        """
        if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
            raise MessageError('messages must be a list such as [{"role": "user", "content": "Hello"}]')
        turns: list[dict[str, Any]] = []
        shown: list[Shown] = []
        num_rows = 0
        for i, message in enumerate(messages):
            turn, found = self._turn(message, f"messages[{i}]", audio_in_video, known)
            turns.append(turn)
            shown += found
            num_rows += self._checked(found, num_rows)
        if speaking and self.speaking and (not turns or turns[0]["role"] != "system"):
            turns.insert(0, {"role": "system", "content": self.speaking})
        if not turns:
            raise MessageError('there are no messages; give a list such as [{"role": "user", "content": "Hello"}]')
        runs = self.template.render(turns, add_generation_prompt=True, tools=tools, template_args=template_args)
        return replace(self._lay_out(self.tokenizer.encode_runs(runs), shown), salt=self.salt)

    def opening(self, messages: Sequence[Message], parts: Sequence[Message], **how: Any) -> Prompt:
        """What stands before a sound that is still being made, and that a user's turn of some parts goes on with.

        how: as for `read`, with `known`.
        """
        mel, ears = self._hearing()
        sound: Message = {"type": "audio"}
        block = Sound(torch.zeros(mel.feature_size, ears.block_frames))  # of any length: its rows go
        how["known"][id(sound)] = sound, (block,)
        try:
            return self.read([*messages, {"role": "user", "content": [*parts, sound]}], **how).before_last()
        finally:
            del how["known"][id(sound)]

    def heard(self, before: Prompt, blocks: Sequence[Sound]) -> Prompt:
        """A prompt and behind it the blocks of a sound, each a medium of its own; the sound may go on."""
        _, ears = self._hearing()
        assert self.media
        sizes = [ears.num_rows(block) for block in blocks]
        num, clock, first = sum(sizes), before.clock_after(), len(before.media)
        return replace(
            before,
            ids=torch.cat((before.ids, torch.full((num,), self.media.audio))),
            positions=torch.cat((before.positions, clock.text(num)), 1),
            clock=clock,
            media=(*before.media, *blocks),
            runs=(*before.runs, *(MediaRun(first + i, 0, size) for i, size in enumerate(sizes))),
            is_media=torch.cat((before.is_media, torch.ones(num, dtype=torch.bool))),
        )

    def block_keys(self, prompt: Prompt, block_size: int, known: Sequence[bytes] = ()) -> list[bytes]:
        """For each whole block of rows, a digest of all that the model has been told up to its end.

        As long as a sound goes on, the keys of what has been heard stay: rows are named by the piece that they are of.

        known: the keys of its first blocks.
        """
        first, keys = len(known) * block_size, [*known]
        content = torch.cat((prompt.ids[None], prompt.positions))[:, first:].T.contiguous()  # [N, 4]
        is_media, rows = prompt.is_media[first:].tolist(), self._row_names(prompt, first)
        for at in range(0, len(content) - block_size + 1, block_size):
            digest = hashlib.blake2b(keys[-1] if keys else prompt.salt, digest_size=16)
            digest.update(content[at : at + block_size].numpy().data)
            digest.update(b"".join(islice(rows, sum(is_media[at : at + block_size]))))
            keys.append(digest.digest())
        return keys

    def _row_names(self, prompt: Prompt, first: int) -> Iterator[bytes]:
        """For each media row from a row of the prompt on, the digest of the piece that it is of, and its place there."""
        names: dict[int, list[bytes]] = {}
        for run in prompt.runs_after(first):
            if run.index not in names:
                pieces = self.senses.pieces(prompt.media[run.index])
                names[run.index] = [
                    piece.digest + row.to_bytes(4, "little")
                    for piece in pieces
                    for row in range(self.senses.num_rows(piece))
                ]
            yield from names[run.index][run.first : run.last]

    @cached_property
    def senses(self) -> Senses:
        return Senses(self.ears, self.eyes)

    @cached_property
    def live(self) -> LiveSound:
        """How a sound that is still being made is heard; MediaError in a model that does not hear."""
        mel, ears = self._hearing()
        return LiveSound(LogMel(mel, ears.block_frames), self.budget)

    def _hearing(self) -> tuple[MelConfig, Ears]:
        if self.mel is None or self.ears is None:
            raise MediaError("this model does not hear; leave sound out, or take a model with ears")
        return self.mel, self.ears

    def _sight(self) -> PixelConfig:
        if self.pixels is None or self.eyes is None:
            raise MediaError("this model does not see; leave pictures and clips out, or take a model with eyes")
        return self.pixels

    def _checked(self, shown: Sequence[Shown], before: int) -> int:
        """The rows of these media; ContextError where they are too many with those before."""
        num = sum(self._span(media).num_tokens for media in shown)
        if (rows := before + num) > self.max_tokens:
            raise ContextError(
                f"the pictures, clips and sounds come to {rows} tokens and the model's context is {self.max_tokens}; send "
                "fewer or smaller ones, or sample fewer video frames"
            )
        return num

    def _turn(
        self, message: Message, where: str, audio_in_video: bool | None, known: Known | None
    ) -> tuple[dict[str, Any], list[Shown]]:
        if not isinstance(message, Mapping) or message.get("role") not in ROLES:
            raise MessageError(f"{where} needs a 'role' that is one of {', '.join(ROLES)}, and 'content'")
        content, bare = message.get("content"), {"role": message["role"]}
        if calls := message.get("tool_calls"):
            bare["tool_calls"] = _calls(calls, where)
        if (thought := message.get("reasoning_content")) is not None:
            if not isinstance(thought, str):
                raise MessageError(f"{where}.reasoning_content must be a text")
            bare["reasoning_content"] = thought
        if isinstance(content, str) or (content is None and calls):
            return {**bare, "content": content or ""}, []
        if not isinstance(content, Sequence) or isinstance(content, bytes):
            raise MessageError(f"{where}.content must be a text or a list of parts")
        parts, shown = [], list[Shown]()
        num_rows = 0
        for j, part in enumerate(content):
            here = f"{where}.content[{j}]"
            try:
                kind, value = self.part(part, here, audio_in_video, known)
            except MediaError as e:
                raise type(e)(f"{here}: {e}") from e
            if isinstance(value, str):
                parts.append({"type": "text", "text": value})
            else:
                parts.append({"type": kind})
                shown.append(value)
                num_rows += self._checked([value], num_rows)
        if self.media is None:  # templates of text alone write a list of parts as Python shows it
            return {**bare, "content": "\n".join(part["text"] for part in parts)}, shown
        return {**bare, "content": parts}, shown

    def part(
        self, part: object, where: str, audio_in_video: bool | None = None, known: Known | None = None
    ) -> tuple[str, str | Shown]:
        """The kind of one part of a message, and its text or what it shows."""
        if isinstance(part, str):
            return "text", part
        if not isinstance(part, Mapping):
            raise MessageError(f"{where} must be a text or an object with a 'type'")
        match part.get("type"):
            case kind if kind in TEXTS:
                if not isinstance(part.get("text"), str):
                    raise MessageError(f"{where}.text must be a string")
                return "text", part["text"]
            case "image" | "image_url":
                return "image", self._once(part, "image", where, known, self._image)
            case "audio" | "audio_url" | "input_audio":
                return "audio", self._once(part, "audio", where, known, self._sound)
            case "video" | "video_url":
                return "video", self._once(part, "video", where, known, self._video, audio_in_video)
            case other:
                raise MessageError(f"{where}.type is {other!r}; known are text, image, audio and video")

    def _once(
        self, part: Message, kind: str, where: str, known: Known | None, read: Callable[..., Shown], *how: object
    ) -> Shown:
        """What a part shows, which is not read again where it comes again: each turn brings all that were before it."""
        if known is None:
            return self._recent(part, kind, where, read, *how)
        if id(part) not in known:
            known[id(part)] = part, self._recent(part, kind, where, read, *how)
        return known[id(part)][1]

    def _recent(self, part: Message, kind: str, where: str, read: Callable[..., Shown], *how: object) -> Shown:
        """As `_once`, for a part whose content has to be looked at to know it again."""
        source = source_of(part, kind, where)
        if (content := digest_of(source)) is None:
            return read(part, source, where, *how)
        rest = [item for item in sorted(part.items()) if item[0] not in ("type", *names_of(kind))]
        key = self.salt + content + repr((kind, how, rest)).encode()
        shown, is_new = self.recent.once(key, lambda: read(part, source, where, *how), _num_bytes)
        if not is_new:
            self.decoder.retell([sentence for medium in shown for sentence in medium.warnings])
        return shown

    def _sound(self, part: Message, source: Any, where: str) -> Shown:
        return (self._log_mel(*self._wave(source, **settings_of(part, "audio", where))),)

    def _wave(self, source: Any, **cut: Any) -> tuple[Wave, list[str]]:
        """A sound, or what `cut` tells `read_audio` to leave of it, and what was lost."""
        mel, _ = self._hearing()
        told: list[str] = []
        return self.decoder.sound(source, mel.sampling_rate, self.budget, told.append, **cut), told

    def _log_mel(self, wave: Wave, told: list[str]) -> Sound:
        mel, ears = self._hearing()
        return replace(log_mel(wave, mel, ears.block_frames), warnings=tuple(told))

    def _image(self, part: Message, source: Any, where: str) -> Shown:
        pixels, asked = self._sight(), settings_of(part, "image", where)
        told: list[str] = []
        image = self.decoder.picture(source, self.budget, told.append)
        return (replace(image_patches(image, pixels, **asked), warnings=tuple(told)),)

    def _video(self, part: Message, source: Any, where: str, audio_in_video: bool | None) -> Shown:
        pixels, asked = self._sight(), settings_of(part, "video", where)
        sampling = Sampling(**_of(asked, "fps", "num_frames", "min_frames", "max_frames", "start", "end"))
        size = FrameSize(**_of(asked, "min_pixels", "max_pixels", "total_pixels", "resized"))
        told: list[str] = []
        with self.decoder.clip(source, sampling, self.budget, told.append) as clip:
            # the clock of a clip runs by the rate asked for, 2 frames a second unless told, as published
            picture = video_patches(
                clip.frames, len(clip.times), pixels,
                fps=sampling.fps, times=clip.clock(), size=size, max_bytes=self.budget.max_clip_bytes,
            )  # fmt: skip
        picture = replace(picture, warnings=tuple(told))
        wanted = asked.get("audio_in_video", audio_in_video)
        if not (clip.has_audio and self.ears if wanted is None else wanted):
            return (picture,)
        wave, told = self._wave(source, origin=clip.origin, start=sampling.start, end=sampling.end)
        if wanted is None and math.ceil(len(wave) / self._hearing()[0].hop_length) < MIN_FRAMES:
            return (picture,)  # a sound track that ends before the clip begins
        try:
            return picture, self._log_mel(wave, told)
        except MediaLimitError as e:
            raise MediaLimitError(f"{e}; or leave the clip's sound out with audio_in_video=False") from e

    def _lay_out(self, ids: Sequence[int], shown: Sequence[Shown]) -> Prompt:
        """Replace each placeholder by its medium's rows."""
        clock = replace(self.clock)
        if self.media is None:
            return text_prompt(ids, clock)
        places = {self.media.image, self.media.video, self.media.audio}
        if sum(i in places for i in ids) != len(shown):
            raise MessageError("this checkpoint's chat template does not place every picture, sound or clip of the messages")
        spans: list[Span] = []
        text: list[int] = []
        left = iter(shown)
        skip = False
        for token in ids:
            if skip:  # the end marker that an AudioVideoSpan brings itself
                skip = False
            elif token not in places:
                text.append(token)
            else:
                span = self._span(next(left))
                if isinstance(span, AudioVideoSpan):
                    text.pop()
                    skip = True
                spans += [TextSpan(tuple(text)), span]
                text = []
        spans.append(TextSpan(tuple(text)))
        return fill(spans, self.media, clock, tuple(medium for media in shown for medium in media))

    def _span(self, media: Shown) -> Span:
        """The rows of what one part shows."""
        audio = next((AudioSpan(self.senses.num_rows(medium)) for medium in media if isinstance(medium, Sound)), None)
        picture = media[0]
        if isinstance(picture, Sound):
            assert audio
            return audio
        (t, h, w), side = picture.grid, self._sight().merge_size
        cells = (t, h // side, w // side)
        if picture.second_per_grid is None:
            return ImageSpan(cells)
        video = VideoSpan(cells, picture.second_per_grid, picture.times)
        return AudioVideoSpan(video, audio) if audio else video


def shows(messages: object) -> bool:
    """Whether messages hold anything but text."""
    contents = [message.get("content") for message in _listed(messages) if isinstance(message, Mapping)]
    return any(isinstance(part, Mapping) and part.get("type") not in TEXTS for each in contents for part in _listed(each))


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()


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
        except (ValueError, RecursionError) as e:
            raise MessageError(f"{where}.tool_calls[{i}].function.arguments is no JSON: {e}") from e
        out.append({"type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return out


def _num_bytes(shown: Shown) -> int:
    return sum(medium.num_bytes for medium in shown)


def _of(settings: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: settings[name] for name in names if name in settings}
