"""Honest clients, vanishing ones and nonsense against `omni serve` with the small model, for minutes or hours.

    SOAK=600 python -m tests.streaming.soak

Fails where memory, descriptors or threads of the server grow by more than a twentieth from the end of the first third
on, where an answer has a status of 500 and more, where an honest client is not answered, or where a socket is left.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import wave
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import httpx
import numpy as np
from PIL import Image
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from omni.streaming.client.conversation import Client

GROWTH, SPARE = 1.05, 3
"""What may be there at the end, as a share of what was there after a third; descriptors and threads may be some more."""
QUIET = 12.0
"""Seconds in which nobody asks, before the server is measured."""
QUESTIONS = ("What do you hear?", "Say one, two, three.", "Where is the red heart?", "How many stars are there?")
CUT = (httpx.HTTPError, WebSocketException, OSError)


@dataclass
class Counts:
    """What clients saw; taken by several threads."""

    kinds: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    first_sounds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Size:
    """Of the server and its children: MiB resident, descriptors, threads, and connections of clients."""

    memory: float
    descriptors: int
    threads: int
    sockets: int

    def __str__(self) -> str:
        return f"{self.memory:.0f} MiB, {self.descriptors} descriptors, {self.threads} threads, {self.sockets} connections"


def size_of(root: int, port: int) -> Size:
    """By /proc."""
    pids, memory, descriptors, threads = [root], 0, 0, 0
    for pid in pids:
        folder = Path(f"/proc/{pid}")
        with contextlib.suppress(OSError):  # it ended meanwhile
            for task in (folder / "task").iterdir():
                threads += 1
                pids += [int(child) for child in (task / "children").read_text().split()]
            memory += int((folder / "statm").read_text().split()[1])
            descriptors += len(list((folder / "fd").iterdir()))
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    here = [line.split() for line in lines]
    sockets = sum(parts[1].endswith(f":{port:04X}") and parts[3] in ("01", "08") for parts in here)
    return Size(memory * os.sysconf("SC_PAGE_SIZE") / 2**20, descriptors, threads, sockets)


def sound(rng: Random, seconds: float) -> bytes:
    """A WAV file of noise that comes and goes."""
    samples = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 3000, int(16000 * seconds))
    samples *= np.sin(np.linspace(0, 9, len(samples))) ** 2
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(samples.astype("<i2").tobytes())
    return out.getvalue()


def picture(rng: Random) -> str:
    out = io.BytesIO()
    side = rng.choice((64, 224, 448))
    Image.new("RGB", (side, side), rng.choice(("red", "blue", "white"))).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


class Crowd:
    """One client of each kind, which come again and again until they are told to be quiet."""

    def __init__(self, url: str, seed: int) -> None:
        self.url, self.seed, self.counts, self.ended = url, seed, Counts(), threading.Event()

    def run(self, seconds: float) -> None:
        self.ended.clear()
        kinds: tuple[Callable[[Random], str], ...] = (
            self.talks, self.vanishes, self.talks_nonsense, self.chats, self.leaves_speech, self.sends_media,
        )  # fmt: skip
        clients = [threading.Thread(target=self._again, args=(kind, Random(self.seed + i))) for i, kind in enumerate(kinds)]
        for client in clients:
            client.start()
        time.sleep(seconds)
        self.ended.set()
        for client in clients:
            client.join()
        self.seed += len(kinds)

    def _again(self, kind: Callable[[Random], str], rng: Random) -> None:
        while not self.ended.is_set():
            try:
                told = kind(rng)
            except Exception as e:  # whatever it is, it is a fault of the server or of this
                told = f"{type(e).__name__}: {e}"
                self.counts.faults.append(f"{kind.__name__}: {told}"[:300])
            self.counts.kinds[f"{kind.__name__}: {told}"[:80]] += 1
            time.sleep(rng.uniform(0, 0.3))

    def talks(self, rng: Random) -> str:
        """A conversation of two turns; each must end and be heard."""
        with Client(self.url) as client:
            for _ in range(2):
                *_, answer = client.ask(rng.choice(QUESTIONS))
                assert answer.status in ("completed", "incomplete"), answer.status
                if answer.first_sound is not None:
                    self.counts.first_sounds.append(answer.first_sound)
        return "answered"

    def vanishes(self, rng: Random) -> str:
        with connect(self._ws, compression=None, open_timeout=30, close_timeout=0.1) as ws:
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": rng.choice(QUESTIONS)}]}
            ws.send(json.dumps({"type": "conversation.item.create", "item": item}))
            ws.send(json.dumps({"type": "response.create"}))
            noise = base64.b64encode(bytes(rng.randbytes(4800))).decode()
            ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": noise}))
            time.sleep(rng.uniform(0, 1.5))
            ws.socket.shutdown(socket.SHUT_RDWR)
        return "gone"

    def talks_nonsense(self, rng: Random) -> str:
        frames: tuple[str | bytes, ...] = (
            "{", "[]", "null", '{"type": 7}', '{"type": "no.such.event"}', rng.randbytes(200),
            '{"type": "session.update", "session": {"voice": 3}}', '{"a":' * 200,
            '{"type": "input_audio_buffer.append", "audio": "?"}', '{"type": "conversation.item.delete", "item_id": "x"}',
            json.dumps({"type": "response.create", "response": {"tools": [{}] * rng.randrange(99)}}),
        )  # fmt: skip
        with connect(self._ws, compression=None, open_timeout=30, close_timeout=1) as ws:
            try:
                for _ in range(rng.randrange(1, 12)):
                    ws.send(rng.choice(frames))
                while True:
                    ws.recv(timeout=0.3)
            except TimeoutError:
                return "heard"
            except CUT:
                return "cut off"

    def chats(self, rng: Random) -> str:
        content: list[object] = [{"type": "text", "text": rng.choice(QUESTIONS)}]
        if rng.random() < 0.5:
            content.append({"type": "image_url", "image_url": {"url": picture(rng)}})
        body = {"model": "omni-small", "messages": [{"role": "user", "content": content}], "stream": rng.random() < 0.5}
        return self._post("/v1/chat/completions", json=body, honest=True)

    def leaves_speech(self, rng: Random) -> str:
        """Hears some of a long text, and is gone."""
        body = {"model": "omni-small", "input": "One, two, three. " * rng.randrange(1, 20), "response_format": "pcm"}
        with httpx.stream("POST", f"{self.url}/v1/audio/speech", json=body, timeout=120, trust_env=False) as answer:
            self._judge(answer.status_code, honest=True)
            for _, _piece in zip(range(rng.randrange(4)), answer.iter_raw(), strict=False):
                pass
        return "left"

    def sends_media(self, rng: Random) -> str:
        data = sound(rng, rng.uniform(0.2, 20))
        whole = rng.random() < 0.5
        if not whole:
            data = data[: rng.randrange(len(data))] if rng.random() < 0.5 else rng.randbytes(20_000)
        return self._post(
            "/v1/audio/transcriptions", data={"model": "omni-small"}, files={"file": ("a.wav", data)}, honest=whole
        )

    def _post(self, path: str, *, honest: bool, **more: object) -> str:
        answer = httpx.post(self.url + path, timeout=120, trust_env=False, **more)  # type: ignore[arg-type]  # spread
        self._judge(answer.status_code, honest=honest)
        return str(answer.status_code)

    def _judge(self, status: int, *, honest: bool) -> None:
        """503 says that others came first, which is no fault."""
        assert status < 500 or status == 503, f"status {status}"
        assert not honest or status in (200, 429, 503), f"status {status}"

    @property
    def _ws(self) -> str:
        return self.url.replace("http", "ws", 1) + "/v1/realtime"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ready(url: str, server: subprocess.Popen[bytes], patience: float = 90) -> None:
    end = time.monotonic() + patience
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.2)
    raise SystemExit("the server is not ready")


def main() -> None:
    seconds, seed = float(os.environ.get("SOAK") or 600), int(os.environ.get("SEED") or 1)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [str(Path(sys.executable).with_name("omni")), "serve", "--port", str(port)], stdout=log, stderr=log
        )
        try:
            ready(url, server)
            print(f"after loading: {size_of(server.pid, port)}", flush=True)
            crowd = Crowd(url, seed)
            crowd.run(seconds / 3)
            time.sleep(QUIET)
            before = size_of(server.pid, port)
            print(f"after a third: {before}", flush=True)
            crowd.run(seconds * 2 / 3)
            time.sleep(QUIET)
            after = size_of(server.pid, port)
            print(f"at the end:    {after}")
        finally:
            server.terminate()
            status = server.wait(60)
        log.seek(0)
        tracebacks = log.read().count(b"Traceback")
    for kind, count in sorted(crowd.counts.kinds.items()):
        print(f"{count:6d}  {kind}")
    sounds = sorted(crowd.counts.first_sounds)
    if len(sounds) > 1:
        p99 = sounds[min(len(sounds) - 1, int(0.99 * len(sounds)))]
        print(f"first sound of {len(sounds)} honest turns: median {statistics.median(sounds):.2f} s, p99 {p99:.2f} s")
    missed = [
        *crowd.counts.faults[:20],
        *(["memory grew"] if after.memory > GROWTH * before.memory else []),
        *(["descriptors grew"] if after.descriptors > GROWTH * before.descriptors + SPARE else []),
        *(["threads grew"] if after.threads > GROWTH * before.threads + SPARE else []),
        *(["connections are left"] if after.sockets else []),
        *([f"{tracebacks} tracebacks in the log"] if tracebacks else []),
        *([f"the server ended with {status}"] if status != -signal.SIGTERM else []),
        *([] if sounds else ["no honest client heard anything"]),
    ]
    for what in missed:
        print("MISSED:", what)
    sys.exit(bool(missed))


if __name__ == "__main__":
    main()
