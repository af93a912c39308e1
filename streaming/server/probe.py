"""Decodes one medium after another in a process of its own, which may take only so much.

`python -m omni.streaming.server.probe MEMORY` reads tasks from its standard input, a head (`Task`) and then the medium's
bytes, and answers each on its standard output with heads, some with bytes behind them:

    {"told": sentence}                        something was lost; any number of these may stand anywhere
    {"picture": [height, width]}              and RGB as uint8
    {"sound": samples}                        and float32
    {"clip": times, ...}                      and float64 seconds; then for each of them a frame:
    {"frame": [height, width]}, {"again": 1}  and RGB as uint8, or that of the one before
    {"refused": [status, sentence]}           instead of all that is still to come
    {"done": 1}                               the end

A medium that breaks its decoder, or takes more than it may, ends this process and nothing else. The library's own readers
decode, which need no torch.
"""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import resource
import sys
import warnings
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import av
import numpy as np
import numpy.typing as npt

# Pillow imports these when it meets such a file, and by then it could not
from PIL import (  # noqa: F401  # no file can be opened later
    AvifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from omni.encoders.clips import Clip, open_clip
from omni.encoders.containers import sound_streams
from omni.encoders.pictures import read_image
from omni.encoders.waves import read_audio
from omni.errors import MediaError, MediaLimitError
from omni.streaming.server.formats import FormatError, format_of
from omni.streaming.server.tasks import INVALID, MOST_CHARS, MOST_SENTENCES, TOO_LARGE, Task, read_head, write_head

DAMAGED = "cannot be decoded: it is damaged or cut short; save it again"
SHARE = 0.01
"""Of the time that a medium has, so much more for each frame that is shown of a clip."""
CODECS = {
    "audio": {
        "aac", "ac3", "alac", "amrnb", "amrwb", "eac3", "flac", "mp2", "mp2float", "mp3", "mp3float", "opus", "libopus",
        "vorbis", "libvorbis", "adpcm_ima_qt", "adpcm_ima_wav", "adpcm_ms", "gsm_ms",
    },
    "video": {"av1", "libdav1d", "h264", "hevc", "mjpeg", "mpeg4", "vp8", "vp9", "libvpx", "libvpx-vp9"},
}  # fmt: skip


class Refused(Exception):
    """A status and a sentence for the client."""


@dataclass
class Work:
    """One task, its medium, and where the answer goes."""

    task: Task
    data: bytes
    answers: BinaryIO
    num_told: int = field(default=0, init=False)

    def send(self, head: dict[str, Any], array: npt.NDArray[Any] | None = None) -> None:
        write_head(self.answers, head)
        if array is not None:
            self.answers.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def tell(self, sentence: str) -> None:
        self.num_told += 1
        if self.num_told <= MOST_SENTENCES:
            self.send({"told": self._about(sentence)[:MOST_CHARS]})

    def _about(self, sentence: str) -> str:
        """What a reader says of a medium, without what it calls it."""
        name = f"the input of {len(self.data)} bytes"
        return sentence.removeprefix(f"{name} ").removeprefix(name)

    def answer(self) -> None:
        try:
            self._decode()
            head: dict[str, Any] = {"done": 1}
        except Exception as e:  # whatever a decoder does ends this medium, and nothing else
            status, sentence = self._refusal(e)
            head = {"refused": [status, sentence[:MOST_CHARS]]}
        self.send(head)
        self.answers.flush()

    def _refusal(self, error: Exception) -> tuple[int, str]:
        match error:
            case Refused():
                status, sentence = error.args
                return status, sentence
            case FormatError():
                return INVALID, str(error)
            case MemoryError():
                return TOO_LARGE, "takes more memory to decode than is allowed; shrink or cut it"
            case MediaLimitError():
                return TOO_LARGE, self._about(str(error))
            case MediaError() if error.__cause__ is None:  # what the decoders say of it may hold addresses and file names
                return INVALID, self._about(str(error))
            case _:
                return INVALID, DAMAGED

    def _decode(self) -> None:
        task, found = self.task, format_of(self.task.kind, self.data)
        if task.kind == "image":
            Image.MAX_IMAGE_PIXELS = task.budget.max_pixels
            pixels = np.asarray(read_image(self.data, task.budget, tell=self.tell))
            self.send({"picture": pixels.shape[:2]}, pixels)
            return
        _check_streams(task, self.data, found)
        if task.kind == "audio":
            cut = {"origin": task.origin, "start": task.start, "end": task.end}
            wave = read_audio(self.data, task.rate, task.budget, tell=self.tell, **cut)
            self.send({"sound": len(wave)}, wave)
            return
        assert task.sampling
        with open_clip(self.data, task.sampling, task.budget, self.tell) as clip:
            self._send_clip(clip)

    def _send_clip(self, clip: Clip) -> None:
        _allow(self.task.cpu_seconds * (1 + SHARE * len(clip.times)))
        facts = {"fps": clip.fps, "constant": clip.constant, "has_audio": clip.has_audio, "origin": clip.origin}
        self.send({"clip": len(clip.times), **facts}, np.array(clip.times))
        before = None
        for pixels in clip.frames:
            if pixels is before:
                self.send({"again": 1})
            else:
                self.send({"frame": pixels.shape[:2]}, pixels)
            self.answers.flush()
            before = pixels


def _check_streams(task: Task, data: bytes, found: str) -> None:
    """Look at what a container states before anything of it is decoded."""
    # FFmpeg guesses on its own, as the reader will, and has to come to what the first bytes show
    options = {"format_whitelist": "matroska,webm" if found == "matroska" else found}
    with av.open(io.BytesIO(data), options=options, metadata_errors="ignore") as container:
        seconds = task.budget.max_seconds
        if task.end is None and (container.duration or 0) / 1e6 > seconds:
            raise Refused(TOO_LARGE, f"lasts longer than the {seconds:g} s that are allowed; cut it")
        sounds = sound_streams(container)
        cover = av.stream.Disposition.attached_pic
        pictures = [s for s in container.streams if s.type == "video" and not s.disposition & cover]
        if task.kind == "video" and not pictures:
            raise Refused(INVALID, "has no moving pictures")
        if task.kind == "audio" and not container.streams.audio:
            raise Refused(INVALID, "has no sound")
        # only what is used counts: no cover and no data, and no second track of a codec that nobody knows
        for stream in (*(pictures[:1] if task.kind == "video" else []), *(sounds or container.streams.audio)):
            _check_codec(stream)
        if task.kind == "video" and pictures[0].frames > task.budget.max_frames:
            raise Refused(TOO_LARGE, f"has more than the {task.budget.max_frames} frames that are allowed; cut it")


def _check_codec(stream: Any) -> None:
    name = stream.codec_context.name if stream.codec_context else ""
    if name not in CODECS[stream.type] and not (stream.type == "audio" and name.startswith("pcm_")):
        raise Refused(INVALID, "is coded in a way that is not accepted; convert it, for example to WAV or to MP4 with H.264")


def _limit(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _allow(cpu_seconds: float) -> None:
    """From now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + cpu_seconds) + 1)


def serve(tasks: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the input ends."""
    while head := read_head(tasks):
        task = Task.read(head)
        _allow(task.cpu_seconds)
        Work(task, tasks.read(task.size), answers).answer()


def _import_all() -> None:
    """What the bindings import when they meet a stream of some kind: by then they could not."""
    Image.preinit()
    for module in pkgutil.walk_packages(av.__path__, "av."):
        if not module.name.endswith(("__main__", "datasets")):  # which fetches samples
            importlib.import_module(module.name)


def main() -> None:
    """Give up what a decoder needs not, and serve."""
    os.nice(10)  # speech that is being made comes first
    _import_all()
    av.logging.set_level(None)
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    _limit(resource.RLIMIT_AS, int(sys.argv[1]))
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _limit(resource.RLIMIT_NOFILE, 3)  # no file and no socket can be opened from here on
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
