"""The server as a process: what it refuses to bind, what it prints, how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from omni import TextDelta
from omni.errors import AddressError, OptionError
from omni.streaming import serve as module
from omni.streaming.serve import Tls, bind, check_settings, greeting, serve
from omni.streaming.settings import Settings
from tests.streaming.doubles import MODEL, done, hub_of
from tests.streaming.running import Place, Still, running

DATA = Path(__file__).parents[1] / "data"
TLS = Tls(DATA / "localhost.cert.pem", DATA / "localhost.key.pem")
KEY = "a-key-of-the-server-0123456789"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_alone_needs_no_key(host: str) -> None:
    check_settings(Settings(host=host))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "8.8.8.8", "::ffff:127.0.0.1"])
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(OptionError, match="no key is set: give one, or bind 127"):
        check_settings(Settings(host=host))
    check_settings(Settings(host=host, keys=(KEY,)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"keys": ("",)}, "key"),
        ({"keys": (KEY, "two words")}, "key"),
        ({"keys": ("schlüssel",)}, "key"),
        ({"keys": ("ek_0123456789",)}, "key"),
        ({"keys": ("short",)}, "key"),
        ({"origins": ("page.example",)}, "https://name"),
        ({"origins": ("https://page.example/",)}, "https://name"),
        ({"origins": ("*",)}, "every origin"),
        ({"origins": ("null",)}, "https://name"),
        ({"hosts": ("https://voice.example",)}, "host's name"),
        ({"hosts": ("voice.example:8000",)}, "host's name"),
        ({"media_domains": ("*.example",)}, "host's name"),
        ({"media_domains": ("Media.example",)}, "host's name"),
        ({"media_folder": Path("/no/such/folder")}, "no folder"),
        ({"host": "no.such.name.invalid"}, "no address"),
        ({"host": ""}, "no address"),
    ],
)
def test_settings_that_could_never_work(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        check_settings(Settings(**fields))


@pytest.mark.parametrize("port", [70000, -1])
def test_ports_that_are_none(port: int) -> None:
    with pytest.raises(OptionError, match="is no port"):
        bind(Settings(port=port))


def test_port_that_is_taken() -> None:
    with bind(Settings(port=0)) as first, pytest.raises(AddressError, match=r"cannot be bound.*choose another"):
        bind(Settings(port=first.getsockname()[1]))


def test_unsafe_settings_bind_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "bind", lambda settings: pytest.fail("it was bound"))
    with pytest.raises(OptionError):
        serve(Still(), MODEL, Settings(host="0.0.0.0"))  # type: ignore[arg-type]  # a stand-in


@pytest.mark.parametrize(
    ("settings", "tls", "has", "has_not"),
    [
        (Settings(), None, ["http://127.0.0.1:8123", "ws://127.0.0.1:8123/v1/realtime"], ["ssh", KEY]),
        (Settings(host="::1"), None, ["http://[::1]:8123"], ["ssh"]),
        (
            Settings(host="0.0.0.0", keys=(KEY,)),
            None,
            ["http://THIS_MACHINE:8123", "ssh -L 8123:127.0.0.1:8123 THIS_MACHINE", "certificate", "with your key"],
            [KEY],
        ),
        (
            Settings(host="0.0.0.0", keys=(KEY,), hosts=("voice.example",)),
            TLS,
            ["https://voice.example:8123", "wss://"],
            ["ssh"],
        ),
    ],
)
def test_greeting(settings: Settings, tls: Tls | None, has: list[str], has_not: list[str]) -> None:
    said = greeting(hub_of(Still(), settings), 8123, tls)
    assert [one for one in has if one not in said] == []
    assert [one for one in has_not if one in said] == []


def test_greeting_tells_what_the_model_lacks() -> None:
    omni = Still()
    assert "does not" not in greeting(hub_of(omni), 8123, None)
    omni.hears, omni.voices = False, {}
    assert "reads and writes; it does not hear or speak" in greeting(hub_of(omni), 8123, None)


@pytest.mark.parametrize(
    "tls", [Tls(TLS.keyfile, TLS.certfile), Tls(Path("/no/such"), TLS.keyfile), Tls(TLS.certfile, Path(__file__))]
)
def test_certificates_that_cannot_be_used(tls: Tls) -> None:
    with pytest.raises(OptionError, match="certificate"):
        serve(Still(), MODEL, Settings(port=0), tls=tls)  # type: ignore[arg-type]  # a stand-in


def test_https() -> None:
    trusted = ssl.create_default_context(cafile=TLS.certfile)
    with (
        running(hub_of(Still(), Settings()), TLS) as place,
        httpx.Client(trust_env=False, verify=trusted) as client,
    ):
        own = {"origin": place.url}
        assert client.get(f"{place.url}/health", headers=own).status_code == 200
        other = {"origin": place.url.replace("https", "http")}
        assert client.get(f"{place.url}/health", headers=other).status_code == 403


def read(place: Place, lines: list[str], began: threading.Event) -> None:
    """Follow a streamed answer to its end."""
    fields = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with (
        httpx.Client(trust_env=False, timeout=20) as client,
        client.stream("POST", f"{place.url}/v1/chat/completions", json=fields) as answer,
    ):
        for line in answer.iter_lines():
            lines.append(line)
            if "one" in line:
                began.set()


class Pausing(Still):
    """Answers in two halves, the second when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    async def _answer(self) -> Any:
        yield TextDelta("one")
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        yield TextDelta(" two")
        yield done()


def test_running_answers_end_first() -> None:
    omni = Pausing()
    hub = hub_of(omni, Settings())
    lines: list[str] = []
    began = threading.Event()
    with running(hub) as place:
        reading = threading.Thread(target=read, args=(place, lines, began))
        reading.start()
        assert began.wait(10)
        place.server.should_exit = True
        while not hub.draining:
            time.sleep(0.01)
        with pytest.raises(OSError), place.connect():  # nobody new  # noqa: PT011
            pass
        omni.go_on.set()
        reading.join(10)
    assert any("two" in line for line in lines)
    assert [line for line in lines if line][-1] == "data: [DONE]"


def test_answers_that_do_not_end_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.2)
    omni = Still(TextDelta("one"), None)
    began, lines = threading.Event(), list[str]()
    with running(hub_of(omni, Settings()), timeout_graceful_shutdown=0.2) as place:
        failed = []

        def reading() -> None:
            try:
                read(place, lines, began)
            except httpx.HTTPError as e:
                failed.append(e)

        thread = threading.Thread(target=reading)
        thread.start()
        assert began.wait(10)
        ended = time.monotonic()
        place.server.should_exit = True
        thread.join(10)
        assert failed
        assert time.monotonic() - ended < 5
    assert omni.ended.is_set()


PROGRAM = """
from types import SimpleNamespace
from omni import Capabilities
from omni.streaming.serve import serve
from omni.streaming.settings import Settings
omni = SimpleNamespace(ping=lambda timeout: True, capabilities=Capabilities(True, True, True))
serve(omni, "omni-small", Settings(port=0))
print("ended", flush=True)
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    root = Path(__file__).parents[2]
    env = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, cwd=root
    ) as process:
        yield process
        process.kill()


def test_as_a_program(process: subprocess.Popen[str]) -> None:
    """It prints where it is, answers there, and ends at Ctrl-C without a trace."""
    assert process.stdout
    assert process.stderr
    first = process.stdout.readline()
    port = int(first.rsplit(":", 1)[1])
    with httpx.Client(trust_env=False) as client:
        assert client.get(f"http://127.0.0.1:{port}/health").json()["status"] == "ok"
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert (process.wait(10), rest.splitlines()[-1]) == (0, "ended")
    assert process.stderr.read() == ""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 1)


def test_a_terminal_that_goes_away_ends_it_as_sigterm_does(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    port = int(process.stdout.readline().rsplit(":", 1)[1])
    with httpx.Client(trust_env=False) as client:  # once it answers it listens for signals, too
        assert client.get(f"http://127.0.0.1:{port}/health").status_code == 200
    process.send_signal(signal.SIGHUP)
    assert process.wait(10) == -signal.SIGTERM


def test_health_while_the_engine_is_stuck() -> None:
    omni = Still()
    with running(hub_of(omni, Settings(keys=(KEY,)))) as place:
        assert place.get("/health").status_code == 200
        omni.alive = False
        answer = place.get("/health")
        assert (answer.status_code, json.loads(answer.text)["status"]) == (503, "stuck")
