"""A few processes that decode what clients send before the runtime does, under limits of time and memory."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from threading import Timer
from typing import TYPE_CHECKING

from omni.streaming.notices import warn
from omni.streaming.problems import Problem
from omni.streaming.server.probe import Answer, Task
from omni.streaming.settings import Limits

if TYPE_CHECKING:
    from omni import Budget

WORKERS = min(4, max(2, (os.cpu_count() or 2) // 2))
MOST_TASKS = 500
"""After so many media a process is replaced: what a decoder leaks goes with it."""


class Worker:
    """One process of `probe`, started when it is first needed and again after it ended."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None
        self._num_tasks = 0

    def ask(self, task: Task, data: bytes) -> Answer:
        """Blocks until the medium is decoded."""
        process = self._started()
        assert process.stdin
        assert process.stdout
        expired = Timer(self._limits.decode_seconds, process.kill)
        expired.start()
        try:
            process.stdin.write(task.line())
            process.stdin.write(data)
            process.stdin.flush()
            line = process.stdout.readline(1 << 16)
        except OSError:  # it ended while it was told
            line = b""
        finally:
            expired.cancel()
        if not line:
            code = self.close()
            if code in (-signal.SIGKILL, -signal.SIGXCPU):
                sentence = f"takes more than {self._limits.decode_seconds:g} s to decode; shrink or cut it"
                return Answer((413, sentence), ())
            return Answer((400, "breaks its decoder; convert it to another format"), ())
        self._num_tasks += 1
        if self._num_tasks == MOST_TASKS:
            self.close()
        return Answer.read(line)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._num_tasks = 0
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "omni.streaming.server.probe", str(self._limits.decode_bytes)],
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
        return self._process

    def kill(self) -> None:
        """End the process in the middle of what it does, from whichever thread."""
        if process := self._process:
            process.kill()

    def close(self) -> int | None:
        """End the process; how it ended, where it had before."""
        code = None
        if self._process is not None:
            self._process.kill()
            code = self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                assert pipe
                with suppress(BrokenPipeError):  # what it had not read
                    pipe.close()
            self._process = None
        return code


class Sandbox:
    """As many media at once as there are workers; the others wait."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._threads: ThreadPoolExecutor | None = None
        self._free: SimpleQueue[Worker] = SimpleQueue()
        self._workers = [Worker(limits) for _ in range(WORKERS)]
        for worker in self._workers:
            self._free.put(worker)

    async def check(self, data: bytes, kind: str, budget: Budget, param: str) -> None:
        """Decode a medium once, and tell what was lost; Problem where it cannot be, or is larger than its budget."""
        if not self._threads:
            self._threads = ThreadPoolExecutor(WORKERS, "decoding")
        task = Task(kind, len(data), budget.max_pixels, budget.max_frames, budget.max_seconds, self._limits.decode_seconds)
        asked = self._threads.submit(self._ask, task, data)
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(asked), 2 * self._limits.decode_seconds)
        except TimeoutError:
            raise Problem(
                "too many media are being read; try again later", 503, "server_error", param, "overloaded"
            ) from None
        warn(found.told)
        if found.refused:
            status, sentence = found.refused
            code = "media_too_large" if status == 413 else "invalid_media"
            raise Problem(f"{param} {sentence}", status, param=param, code=code)

    def _ask(self, task: Task, data: bytes) -> Answer:
        worker = self._free.get()
        try:
            return worker.ask(task, data)
        finally:
            self._free.put(worker)

    def close(self) -> None:
        """End the processes; what they were decoding is refused."""
        if self._threads:
            self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
        if self._threads:
            self._threads.shutdown()
        for worker in self._workers:
            worker.close()
