"""Models that lack ears, eyes or a voice: what they cannot do is refused by name, and all else goes on."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from openai import OpenAI
from typer.testing import CliRunner

from omni import Capabilities
from omni.cli.app import app
from omni.errors import InputError
from omni.events import TextDelta
from omni.streaming.client.conversation import Client
from omni.streaming.fields import LACKING
from omni.streaming.problems import Problem
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Settings
from tests.streaming import socket_client
from tests.streaming.doubles import MEDIA, MODEL, Scripted, data_url, hub_of, openai_of, serving
from tests.streaming.doubles import done as done_with
from tests.streaming.socket_client import FakeOmni
from tests.streaming.talk import Talk, done, error, types

SENTENCES = {"hears": "does not hear", "sees": "does not see", "speaks": "does not speak"}
HEARD = base64.b64encode((MEDIA / "where.ogg").read_bytes()).decode()
SHOWN, PLAYED = data_url("scene.png", "image/png"), data_url("clip.mp4", "video/mp4")


def lacking(*senses: str) -> Scripted:
    omni = Scripted(TextDelta("Yes."), done_with())
    omni.hears, omni.sees = "hears" not in senses, "sees" not in senses
    if "speaks" in senses:
        omni.voices = {}
    return omni


@pytest.fixture(scope="module")
def reader() -> Iterator[OpenAI]:
    """A model that only reads and writes, behind a server."""
    with serving(hub_of(lacking(*SENTENCES))) as address, openai_of(address) as client:
        yield client


# ---- over HTTP


CONTENT = [
    ("hears", {"type": "input_audio", "input_audio": {"data": HEARD, "format": "ogg"}}, "input_audio.data"),
    ("hears", {"type": "audio_url", "audio_url": {"url": data_url("where.ogg", "audio/ogg")}}, "audio_url.url"),
    ("hears", {"type": "audio_url", "audio_url": {"url": "https://elsewhere.example/a.wav"}}, "audio_url.url"),
    ("sees", {"type": "image_url", "image_url": {"url": SHOWN}}, "image_url.url"),
    ("sees", {"type": "video_url", "video_url": {"url": PLAYED}}, "video_url.url"),
]


def complete(client: OpenAI, *parts: dict[str, Any], **more: Any) -> httpx.Response:
    content = [{"type": "text", "text": "Well?"}, *parts]
    body = {"model": MODEL, "messages": [{"role": "user", "content": content}], **more}
    return httpx.post(f"{client.base_url}chat/completions", json=body, trust_env=False, timeout=60)


@pytest.mark.parametrize(("sense", "part", "field"), CONTENT)
def test_media_in_a_chat(reader: OpenAI, sense: str, part: dict[str, Any], field: str) -> None:
    answer = complete(reader, part)
    told = answer.json()["error"]
    assert (answer.status_code, told["param"], told["code"]) == (400, f"messages[0].content[1].{field}", LACKING)
    assert SENTENCES[sense] in told["message"]


def test_one_sense_does_not_stand_for_another() -> None:
    with serving(hub_of(lacking("hears"))) as address, openai_of(address) as client:
        assert complete(client, CONTENT[3][1]).status_code == complete(client, CONTENT[4][1]).status_code == 200
        assert complete(client, CONTENT[0][1]).status_code == 400
    with serving(hub_of(lacking("sees"))) as address, openai_of(address) as client:
        assert complete(client, CONTENT[0][1]).status_code == 200
        assert complete(client, CONTENT[3][1]).status_code == 400


def test_a_chat_in_writing(reader: OpenAI) -> None:
    assert complete(reader).json()["choices"][0]["message"]["content"] == "Yes."
    pieces = reader.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Well?"}], stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "Yes."


def test_a_spoken_answer(reader: OpenAI) -> None:
    answer = complete(reader, modalities=["text", "audio"], audio={"voice": "Ethan", "format": "wav"})
    told = answer.json()["error"]
    assert (answer.status_code, told["param"], told["code"]) == (400, "audio.voice", LACKING)
    assert SENTENCES["speaks"] in told["message"]


def test_speech(reader: OpenAI) -> None:
    body = {"model": MODEL, "input": "Hello.", "voice": "Ethan"}
    answer = httpx.post(f"{reader.base_url}audio/speech", json=body, trust_env=False)
    told = answer.json()["error"]
    assert (answer.status_code, told["param"], told["code"]) == (400, "voice", LACKING)


def test_transcriptions(reader: OpenAI) -> None:
    answer = httpx.post(
        f"{reader.base_url}audio/transcriptions",
        data={"model": MODEL},
        files={"file": ("where.ogg", (MEDIA / "where.ogg").read_bytes())},
        trust_env=False,
    )
    told = answer.json()["error"]
    assert (answer.status_code, told["param"], told["code"]) == (400, "file", LACKING)
    assert SENTENCES["hears"] in told["message"]


def test_what_it_can_do_is_listed(reader: OpenAI) -> None:
    (model,) = reader.models.list()
    assert (model.model_extra or {})["capabilities"] == {"hears": False, "sees": False, "speaks": False, "calls": True}
    with serving(hub_of(Scripted())) as address, openai_of(address) as client:
        (model,) = client.models.list()
        assert model.model_extra == {
            "bundled": True,
            "capabilities": {"hears": True, "sees": True, "speaks": True, "calls": True},
        }


def test_client_secrets_of_sessions_that_cannot_be(reader: OpenAI) -> None:
    for session, param in (
        ({"type": "transcription"}, "session.type"),
        ({"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad"}}}}, "turn_detection"),
    ):
        answer = httpx.post(f"{reader.base_url}realtime/client_secrets", json={"session": session}, trust_env=False)
        told = answer.json()["error"]
        assert answer.status_code == 400 and told["param"].endswith(param) and told["code"] == LACKING


# ---- over the realtime protocol


def deaf() -> Talk:
    return Talk(voices=(), hears=False, sees=False)


def test_a_session_begins_without_what_the_model_lacks() -> None:
    talk = deaf()
    session = talk.events[0]["session"]
    assert session["output_modalities"] == ["text"] and session["audio"]["output"]["voice"] is None
    assert session["audio"]["input"]["turn_detection"] is None and session["audio"]["input"]["transcription"] is None
    (event,) = talk.update(instructions="Be brief.", audio={"input": {"turn_detection": None, "transcription": None}})
    assert event["session"]["instructions"] == "Be brief."


@pytest.mark.parametrize(
    ("sense", "session", "param"),
    [
        ("hears", {"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, "session.audio.input.turn_detection"),
        ("hears", {"audio": {"input": {"transcription": {}}}}, "session.audio.input.transcription"),
        ("hears", {"type": "transcription"}, "session.type"),
        ("speaks", {"output_modalities": ["audio"]}, "session.output_modalities"),
        ("speaks", {"audio": {"output": {"voice": "Ethan"}}}, "session.audio.output.voice"),
    ],
)
def test_updates_of_a_session(sense: str, session: dict[str, Any], param: str) -> None:
    talk = deaf()
    told = error(talk.update(instructions="No.", **session))
    assert told["param"] == param and SENTENCES[sense] in told["message"]
    (event,) = talk.update()
    assert event["session"] == talk.events[0]["session"]


@pytest.mark.parametrize(
    ("sense", "part", "field"),
    [
        ("hears", {"type": "input_audio", "audio": base64.b64encode(bytes(4800)).decode()}, "audio"),
        ("sees", {"type": "input_image", "image_url": SHOWN}, "image_url"),
    ],
)
def test_items(sense: str, part: dict[str, Any], field: str) -> None:
    talk = deaf()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Well?"}, part]}
    for kind, fields, path in (
        ("conversation.item.create", {"item": item}, "item"),
        ("response.create", {"response": {"input": [item]}}, "response.input[0]"),
    ):
        told = error(talk.client(kind, **fields))
        assert (told["param"], told["code"]) == (f"{path}.content[1].{field}", LACKING)
        assert SENTENCES[sense] in told["message"]
    assert not talk.items


def test_sound() -> None:
    talk = deaf()
    told = error(talk.append(100))
    assert (told["param"], told["code"]) == ("audio", LACKING) and SENTENCES["hears"] in told["message"]
    assert "too small" in error(talk.client("input_audio_buffer.commit"))["message"]


def test_a_turn_in_writing() -> None:
    talk = deaf()
    talk.say("Hello.")
    response = talk.respond()
    talk.text(response, "Hi.")
    events = talk.finish(response)
    assert types(events)[-1] == "response.done" and events[-1]["response"]["status"] == "completed"


def mute(*scripts: Any) -> FakeOmni:
    omni = FakeOmni(*scripts)
    omni.voices, omni.capabilities = {}, Capabilities(hears=False, sees=False, speaks=False)
    return omni


def test_no_socket_that_only_writes_down_what_it_hears() -> None:
    async def main() -> None:
        hub = Hub(mute(), "omni", Settings())  # type: ignore[arg-type]  # a stand-in
        client = socket_client.Client(hub)
        with pytest.raises(Problem, match="does not hear") as refused:
            await client.start("intent=transcription")
        assert refused.value.param == "intent" and not client.accepted
        hub.close()

    asyncio.run(main())


def test_a_picture_is_not_fetched_in_vain() -> None:
    async def main() -> None:
        async with socket_client.opened(mute()) as client:
            content = [{"type": "input_image", "image_url": "https://elsewhere.example/a.png"}]
            client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
            told = (await client.until("error"))[-1]["error"]
            assert (told["param"], told["code"]) == ("item.content[0].image_url", LACKING)

    asyncio.run(main())


# ---- omni chat


@pytest.fixture
def url() -> Iterator[str]:
    script = (TextDelta("It is "), TextDelta("five."), done())
    with serving(hub_of(mute(script, script))) as address:
        yield address.replace("http", "ws")


def test_omni_chat(url: str) -> None:
    told = CliRunner().invoke(app, ["chat", "--url", url], input="What is two plus three?\nReally?\n\n")
    assert (told.exit_code, told.stdout) == (0, "It is five.\nIt is five.\n"), told.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--speak", "answer.wav"], "does not speak"),
        (["--voice", "Ethan"], "does not speak"),
        (["--image", str(MEDIA / "scene.png")], "does not see"),
        (["--audio", str(MEDIA / "where.ogg")], "does not hear"),
    ],
)
def test_what_omni_chat_is_told(
    url: str, options: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["chat", "--url", url, *options], input="Hello.\n\n")
    assert told.exit_code == 2 and says in " ".join(told.output.split()) and "Traceback" not in told.output


def test_the_conversation_of_a_program(url: str) -> None:
    with Client(url, speaks=False) as client:
        assert [*client.ask("What is two plus three?")][-1].text == "It is five."
        with pytest.raises(InputError, match="does not hear"):
            list(client.ask(soundfile.read(MEDIA / "where.ogg", dtype="float32")))
    with pytest.raises(InputError, match="does not hear"), Client(url, speaks=False) as client:
        list(client.ask((np.zeros(24000, np.float32), 24000)))
