"""A few processes that decode what clients send, under limits of time and memory; the only decoder that a server has."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from omni.encoders.clips import Clip, VideoSource
from omni.encoders.decoder import HERE
from omni.encoders.frames import Pixels
from omni.encoders.pictures import ImageSource
from omni.encoders.sampling import Sampling
from omni.encoders.sources import Budget, Tell, opened
from omni.encoders.waves import AudioSource, Wave
from omni.errors import CapacityError, MediaError, MediaLimitError
from omni.streaming.notices import warn
from omni.streaming.problems import Problem
from omni.streaming.server.tasks import MOST_CHARS, MOST_SENTENCES, TOO_LARGE, Task
from omni.streaming.server.worker import Fault, Worker
from omni.streaming.settings import Limits

WORKERS = min(4, max(2, (os.cpu_count() or 2) // 2))


class Upload(bytes):
    """What a client sent, with the path of the field that held it."""

    param: str

    def __new__(cls, data: bytes, param: str) -> Upload:
        upload = super().__new__(cls, data)
        upload.param = param
        return upload


class Sandbox:
    """A `Decoder` whose files are opened in other processes: as many at once as there are workers; the others wait.

    What cannot be decoded is a MediaError; of an `Upload` its cause is the Problem to tell the client. What was lost is told
    to the client at once.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._closed = False
        self._free: SimpleQueue[Worker] = SimpleQueue()
        self._workers = [Worker(limits) for _ in range(WORKERS)]
        for worker in self._workers:
            self._free.put(worker)

    def retell(self, sentences: Sequence[str]) -> None:
        warn(sentences)

    def picture(self, source: ImageSource, budget: Budget, tell: Tell) -> Image.Image:
        if not isinstance(source, str | Path | bytes):  # there is no file to open
            return HERE.picture(source, budget, tell)
        with self._asked("image", source, budget, tell) as asked:
            pixels = asked.pixels(asked.next("picture")["picture"])
            asked.next("done")
        return Image.fromarray(pixels)

    def sound(
        self,
        source: AudioSource,
        rate: int,
        budget: Budget,
        tell: Tell,
        *,
        origin: float | None = None,
        start: float | None = None,
        end: float | None = None,
    ) -> Wave:
        if not isinstance(source, str | Path | bytes):
            return HERE.sound(source, rate, budget, tell, origin=origin, start=start, end=end)
        cut = {"rate": rate, "origin": origin, "start": start, "end": end}
        with self._asked("audio", source, budget, tell, **cut) as asked:
            num_samples = asked.count(asked.next("sound")["sound"], (budget.max_seconds + 1) * rate)
            wave = np.empty(num_samples, np.float32)
            asked.fill(wave)
            asked.next("done")
            if not np.isfinite(wave).all():
                raise Fault
        return wave

    @contextmanager
    def clip(self, source: VideoSource, asked: Sampling, budget: Budget, tell: Tell) -> Iterator[Clip]:
        if not isinstance(source, str | Path | bytes):
            frames = [self.picture(frame, budget, tell) for frame in source]
            with HERE.clip(frames, asked, budget, tell) as clip:
                yield clip
            return
        with self._asked("video", source, budget, tell, sampling=asked) as work:
            head = work.next("clip")
            times = np.empty(work.count(head["clip"], budget.max_frames + 1, least=1), np.float64)
            work.fill(times)
            if not np.isfinite(times).all() or (np.diff(times) < 0).any():
                raise Fault
            fps, origin = work.number(head.get("fps")), work.number(head.get("origin"))
            constant, has_audio = head.get("constant") is True, head.get("has_audio") is True
            yield Clip(work.frames(len(times)), tuple(times.tolist()), fps, asked, constant, has_audio, origin)

    @contextmanager
    def _asked(self, kind: str, source: str | Path | bytes, budget: Budget, tell: Tell, **how: Any) -> Iterator[_Asked]:
        """A task that a worker has begun. One that does not come to its end ends the worker."""
        with opened(source, budget) as media:
            name, data = media.name, source if isinstance(source, bytes) else media.file.read()
        worker = self._lent(source.param if isinstance(source, Upload) else None)
        asked = _Asked(worker, name, budget, tell)
        try:
            worker.begin(Task(kind, len(data), budget, self._limits.decode_seconds, **how), data)
            yield asked
        except Fault as e:
            kept = MediaLimitError if e.too_large else MediaError
            raise kept(f"{name} {e.sentence}") from (_problem(e, source.param) if isinstance(source, Upload) else None)
        finally:
            if not asked.over:
                worker.close()
            self._free.put(worker)

    def _lent(self, param: str | None) -> Worker:
        try:
            worker = self._free.get(timeout=2 * self._limits.decode_seconds)
        except Empty:
            sentence = "too many media are being read; try again later"
            raise CapacityError(sentence) from Problem(sentence, 503, "server_error", param, "overloaded")
        if self._closed:
            self._free.put(worker)
            raise CapacityError("the server is about to end; try again later")
        return worker

    def close(self) -> None:
        """End the processes; what they were decoding is refused."""
        self._closed = True
        for worker in self._workers:
            worker.kill()
        for _ in self._workers:  # those at work come back at once
            with suppress(Empty):
                worker = self._free.get(timeout=self._limits.decode_seconds)
                worker.close()
                self._free.put(worker)


@dataclass
class _Asked:
    """What a worker says of one medium. Whatever is not as it should be is a Fault.

    Attributes:
        over: nothing more comes.
    """

    worker: Worker
    name: str
    budget: Budget
    tell: Tell
    over: bool = False
    num_told: int = 0

    def next(self, *wanted: str) -> dict[str, Any]:
        """The next head but for what was lost, which is told; it has one of these keys."""
        while True:
            head = self.worker.head()
            match head:
                case {"told": str(sentence)} if self.num_told < MOST_SENTENCES and len(sentence) <= MOST_CHARS:
                    self.num_told += 1
                    said = f"{self.name}{'' if sentence.startswith(':') else ' '}{sentence}"
                    warn([said])
                    self.tell(said)
                case {"refused": [int(status), str(sentence)]} if len(sentence) <= MOST_CHARS:
                    self.over = True
                    raise Fault(sentence, too_large=status == TOO_LARGE)
                case _ if not head.keys().isdisjoint(wanted):
                    self.over = "done" in head
                    return head
                case _:
                    raise Fault

    def count(self, said: object, most: float, least: int = 0) -> int:
        if not isinstance(said, int) or not least <= said <= most:
            raise Fault
        return said

    def number(self, said: object) -> float:
        if not isinstance(said, int | float) or not math.isfinite(said):
            raise Fault
        return said

    def fill(self, array: npt.NDArray[Any]) -> None:
        self.worker.fill(array)

    def pixels(self, said: object) -> Pixels:
        """A picture `[H, W, 3]` of the size that a head says."""
        match said:
            case [int(height), int(width)] if height > 0 < width and height * width <= self.budget.max_pixels:
                pixels = np.empty((height, width, 3), np.uint8)
                self.fill(pixels)
                return pixels
        raise Fault

    def frames(self, count: int) -> Iterator[Pixels]:
        """So many, each as it comes."""
        pixels: Pixels | None = None
        for _ in range(count):
            head = self.next("frame", "again")
            if "frame" in head:
                pixels = self.pixels(head["frame"])
            if pixels is None:
                raise Fault
            yield pixels
        self.next("done")


def _problem(fault: Fault, param: str) -> Problem:
    status, code = (413, "media_too_large") if fault.too_large else (400, "invalid_media")
    return Problem(f"{param} {fault.sentence}", status, param=param, code=code)
