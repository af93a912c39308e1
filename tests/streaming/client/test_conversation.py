"""Conversations held with the client of `omni chat`, and the programs around it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from typer.testing import CliRunner

from demos import converse
from omni import Omni
from omni.cli.app import app
from omni.errors import InputError
from omni.streaming.client.conversation import Answer, Client, address_of
from omni.streaming.settings import Settings
from tests.streaming.doubles import MEDIA, hub_of, serving
from tests.streaming.running import Still


@pytest.fixture(scope="module")
def url(omni: Omni) -> Iterator[str]:
    with serving(hub_of(omni)) as address:
        yield address.replace("http", "ws")


def whole(answers: Iterator[Answer]) -> Answer:
    return [*answers][-1]


def test_typed_turns_remember_what_was_before(url: str) -> None:
    with Client(url, speaks=False) as client:
        with Image.open(MEDIA / "scene.png") as picture:
            client.show(picture)
        assert whole(client.ask("Where is the green heart?")).text == "It is at the top right."
        answer = whole(client.ask("And the blue one?"))
    assert answer == Answer(text="It is at the bottom.", status="completed")


def test_aloud(url: str) -> None:
    with Client(url, voice="Ethan") as client, Image.open(MEDIA / "scene.png") as picture:
        client.show(picture)
        answer = whole(client.ask(soundfile.read(MEDIA / "where.ogg", dtype="float32")))
    assert (answer.heard, answer.text) == ("Where is the green heart?", "It is at the top right.")
    assert answer.first_sound is not None and 0 < answer.first_sound < 60
    assert 0.8 < len(answer.samples) / Client.rate < 4 and np.abs(answer.samples).max() > 0.05


def test_what_the_server_refuses_is_told(url: str) -> None:
    with pytest.raises(InputError, match="Chelsie"):
        Client(url, voice="Nobody")


@pytest.mark.parametrize(
    ("url", "socket"),
    [
        ("http://127.0.0.1:8000", "ws://127.0.0.1:8000/v1/realtime"),
        ("https://voice.example/", "wss://voice.example/v1/realtime"),
        ("ws://host:1/omni", "ws://host:1/omni/v1/realtime"),
        ("wss://host/omni/v1/", "wss://host/omni/v1/realtime"),
        ("http://host/v1/realtime?model=omni", "ws://host/v1/realtime?model=omni"),
        ("localhost:8000", "ws://localhost:8000/v1/realtime"),
        ("HTTP://host?a=b", "ws://host/v1/realtime?a=b"),
    ],
)
def test_a_server_s_address_in_any_form(url: str, socket: str) -> None:
    assert address_of(url) == socket


def test_a_server_that_wants_a_key_says_how_to_give_it() -> None:
    with serving(hub_of(Still(), Settings(keys=("a-key-of-the-server-0123456789",)))) as address:
        told = CliRunner().invoke(app, ["chat", "--url", address])
    assert told.exit_code == 2 and "give --api-key" in " ".join(told.output.split())


@pytest.mark.parametrize("nowhere", ["ws://127.0.0.1:1", "nonsense"])
def test_no_server(nowhere: str) -> None:
    with pytest.raises(InputError, match="omni serve"):
        Client(nowhere)
    told = CliRunner().invoke(app, ["chat", "--url", nowhere])
    assert told.exit_code == 2 and "omni serve" in told.output and "Traceback" not in told.output


def test_omni_chat(url: str, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app, ["chat", "--url", url, "--image", str(MEDIA / "scene.png")], input="Where is the green heart?\n\nnever asked\n"
    )
    assert told.exit_code == 0, told.output
    assert told.stdout.strip() == "It is at the top right."
    out = tmp_path / "answer.wav"
    told = CliRunner().invoke(app, ["chat", "--url", url, "--audio", str(MEDIA / "what_moves.ogg"), "--speak", str(out)])
    assert told.exit_code == 0, told.output
    assert "heard: What moves?" in told.output and soundfile.info(out).duration > 0.5


def test_serve_asks_for_a_key_before_others_may_come(tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["serve", "--host", "0.0.0.0"])
    assert told.exit_code != 0 and "no key is set" in " ".join(told.output.split())
    told = CliRunner().invoke(app, ["serve", "--ssl-certfile", str(tmp_path)])
    assert told.exit_code == 2 and "together" in told.output


def test_converse(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converse.main(url, out=tmp_path / "said.wav")
    told = capsys.readouterr().out
    assert "It is at the top right." in told and "heard 'And the blue one?'" in told
    assert soundfile.info(tmp_path / "said.wav").duration > 1.5
