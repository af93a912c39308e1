"""The server's end of a process that decodes."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from omni.streaming.server.tasks import MOST_HEAD, WIDTH, Task
from omni.streaming.settings import Limits

MOST_TASKS = 500
"""After so many media a process is replaced: what a decoder leaks goes with it."""
BROKEN = "breaks its decoder; convert it to another format"


class Fault(Exception):
    """A medium cannot be decoded, or is too large for it.

    sentence: without the medium's name.
    """

    def __init__(self, sentence: str = BROKEN, *, too_large: bool = False) -> None:
        self.sentence, self.too_large = sentence, too_large


class Worker:
    """One process of `probe`, started when it is first needed and again after it ended.

    It is believed nothing: who reads checks what a head says before anything is made for it.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._num_tasks = 0

    def begin(self, task: Task, data: bytes) -> None:
        process = self._started()
        self._num_tasks += 1
        assert process.stdin
        for piece in (task.head(), data):
            left = memoryview(piece)
            while left:
                self._wait(process.stdin.fileno(), select.POLLOUT)
                try:
                    left = left[os.write(process.stdin.fileno(), left) :]
                except BlockingIOError:
                    continue
                except OSError:  # it ended while it was told
                    raise self._fault() from None

    def head(self) -> dict[str, Any]:
        """What it says next; Fault where that is nothing that is ever said."""
        size = int.from_bytes(self._read(WIDTH), "little")
        if not 0 < size <= MOST_HEAD:
            raise Fault
        try:
            head = json.loads(self._read(size))
        except (ValueError, RecursionError):
            raise Fault from None
        if not isinstance(head, dict):
            raise Fault
        return head

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data))
        return data

    def fill(self, array: npt.NDArray[Any]) -> None:
        """The bytes behind a head."""
        self._fill(array.reshape(-1).view(np.uint8).data)

    def _fill(self, left: memoryview) -> None:
        assert self._process
        assert self._process.stdout
        while left:
            self._wait(self._process.stdout.fileno(), select.POLLIN)
            num = os.readv(self._process.stdout.fileno(), [left])
            if num == 0:
                raise self._fault()
            left = left[num:]

    def _wait(self, pipe: int, event: int) -> None:
        """Until something can be done with a pipe; a process that does nothing for too long ends."""
        poll = select.poll()
        poll.register(pipe, event)
        if not poll.poll(1000 * self._limits.decode_seconds):
            self.kill()
            raise self._fault()

    def _fault(self) -> Fault:
        """What is to be said where the process ended, or has to end."""
        if self.close() in (-signal.SIGKILL, -signal.SIGXCPU):
            sentence = f"takes more than {self._limits.decode_seconds:g} s to decode; shrink or cut it"
            return Fault(sentence, too_large=True)
        return Fault()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None or self._num_tasks == MOST_TASKS:
            self.close()
            self._num_tasks = 0
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "omni.streaming.server.probe", str(self._limits.decode_bytes)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # nothing else of the environment, which may hold keys; one arena, or threads alone use up the memory
                env={
                    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                    "MALLOC_ARENA_MAX": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                    "LC_ALL": "C.UTF-8",
                },
            )
            assert self._process.stdin
            os.set_blocking(self._process.stdin.fileno(), False)
        return self._process

    def kill(self) -> None:
        """End the process in the middle of what it does, from whichever thread."""
        if process := self._process:
            process.kill()

    def close(self) -> int | None:
        """End the process; how it ended, where it had before."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        code = process.wait()
        for pipe in (process.stdin, process.stdout):
            assert pipe
            with suppress(BrokenPipeError):  # what it had not read
                pipe.close()
        return code
