"""POST /v1/audio/transcriptions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.audio import Transcription, TranscriptionVerbose

from omni import Cutting, Omni, TextDelta
from omni.errors import CapacityError, EngineError
from omni.streaming.app import create_app
from omni.streaming.audio.wire import encode_file
from omni.streaming.endpoints.transcription_request import TranscriptionRequest
from omni.streaming.notices import IGNORED, WARNINGS
from omni.streaming.settings import Limits, Settings
from tests.streaming.doubles import MEDIA, MODEL, Scripted, hub_of, openai_of, segment, serving, transcript

WHERE = ("where.ogg", (MEDIA / "where.ogg").read_bytes())
SAID = "Where is the green heart?"


@pytest.fixture(scope="module")
def client(omni: Omni) -> Iterator[OpenAI]:
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        yield client


@pytest.fixture(scope="module")
def told() -> Iterator[OpenAI]:
    omni = Scripted(
        TextDelta("Two < three\n"), TextDelta("--> six"), transcript("Two < three --> six", segment("Two < three\n--> six"))
    )
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        yield client


def write_down(client: OpenAI, **more: Any) -> Any:
    return client.audio.transcriptions.create(model=MODEL, file=WHERE, **more)


# ---- what is written


def test_json(client: OpenAI) -> None:
    reply = write_down(client)
    assert isinstance(reply, Transcription) and reply.text == SAID and reply.logprobs is None
    assert reply.usage and reply.usage.type == "tokens" and reply.usage.input_token_details
    assert reply.usage.input_token_details.audio_tokens == 32
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens


@pytest.mark.parametrize("name", ["wav", "mp3", "flac", "opus"])
def test_other_files(client: OpenAI, name: str) -> None:
    """The same words, coded otherwise."""
    samples, rate = soundfile.read(MEDIA / "where.ogg", dtype="float32")
    reply = client.audio.transcriptions.create(model=MODEL, file=(f"a.{name}", encode_file(name, samples, rate)))
    assert reply.text == SAID


def test_text(client: OpenAI) -> None:
    assert write_down(client, response_format="text") == f"{SAID}\n"


def test_verbose_json(client: OpenAI) -> None:
    reply = write_down(client, response_format="verbose_json", language="en", timestamp_granularities=["segment"])
    assert isinstance(reply, TranscriptionVerbose)
    assert (reply.text, reply.language, reply.words) == (SAID, "en", None)
    assert reply.duration == pytest.approx(1.3, abs=0.1)
    assert reply.usage and reply.usage.seconds == reply.duration and reply.segments
    (said,) = reply.segments
    assert 0 <= said.start < 0.2 and 1 < said.end <= reply.duration and said.seek == round(100 * said.start)
    assert (said.id, said.text, said.temperature) == (0, SAID, 0)
    assert len(said.tokens) == 6 and -1 < said.avg_logprob < 0 and 0 <= said.no_speech_prob < 0.3
    assert write_down(client, response_format="verbose_json").language == "und"


@pytest.mark.parametrize(
    "spelling", [{"timestamp_granularities": ["word", "segment"]}, {"extra_body": {"timestamp_granularities": "word"}}]
)
def test_when_words_were_said(client: OpenAI, spelling: dict[str, Any]) -> None:
    reply = write_down(client, response_format="verbose_json", **spelling)
    assert reply.words and reply.segments and " ".join(word.word for word in reply.words) == SAID
    times = [time for word in reply.words for time in (word.start, word.end)]
    assert times == sorted(times) and 0.2 < reply.words[1].start < 0.5 and 0.9 < times[-1] <= 1.3


def test_a_recording_of_several_sentences(client: OpenAI) -> None:
    """A cue for each; a client may say at which silence it is cut."""
    samples, rate = soundfile.read(MEDIA / "where.ogg", dtype="float32")
    twice = encode_file("wav", np.concatenate([samples, np.zeros(rate // 3, np.float32), samples]), rate)

    def ask(**more: Any) -> Any:
        return client.audio.transcriptions.create(model=MODEL, file=("a.wav", twice), **more)

    cues = ask(response_format="srt").split("\n\n")
    assert [cue.splitlines()[2] for cue in cues[:-1]] == [SAID, SAID] and cues[2] == ""
    assert cues[1].startswith("2\n00:00:01,") and ask().text == f"{SAID} {SAID}"
    vad = {"type": "server_vad", "silence_duration_ms": 3000, "threshold": 0.4}
    assert len(ask(response_format="verbose_json", chunking_strategy=vad).segments) == 1


def test_subtitles_hold_no_marks(told: OpenAI) -> None:
    assert write_down(told, response_format="srt").splitlines()[2:] == ["Two < three --> six", ""]
    assert write_down(told, response_format="vtt").splitlines()[3:] == ["Two &lt; three --&gt; six", ""]


def test_pieces_are_the_whole(client: OpenAI) -> None:
    *deltas, last = write_down(client, stream=True, include=["logprobs"])
    assert "".join(event.delta for event in deltas) == last.text == SAID and len(deltas) > 3
    assert {event.type for event in deltas} == {"transcript.text.delta"} and last.type == "transcript.text.done"
    whole = write_down(client, include=["logprobs"])
    assert last.usage.model_dump() == whole.usage.model_dump()
    assert "".join(token.token for token in last.logprobs) == SAID
    streamed = [token.logprob for event in deltas for token in event.logprobs]
    assert streamed == [token.logprob for token in last.logprobs] == [token.logprob for token in whole.logprobs]


USUAL = Scripted.cutting
VAD = {"type": "server_vad"}


@pytest.mark.parametrize(
    ("more", "cutting"),
    [
        ({}, USUAL),
        ({"chunking_strategy": "auto"}, USUAL),
        ({"chunking_strategy": ""}, USUAL),
        ({"chunking_strategy": VAD}, USUAL),
        ({"chunking_strategy": VAD | {"threshold": 0.25}}, replace(USUAL, threshold=0.25)),
        ({"chunking_strategy": '{"type": "server_vad", "prefix_padding_ms": 100}'}, replace(USUAL, padding=0.1)),
        ({"chunking_strategy": VAD | {"silence_duration_ms": 250, "prefix_padding_ms": 0}}, Cutting(30, 0.25, padding=0)),
    ],
)
def test_how_the_runtime_is_asked(more: dict[str, Any], cutting: Cutting) -> None:
    omni = Scripted(TextDelta("Yes."), transcript("Yes."))
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        write_down(client, temperature=0.5, **more)
    (asked,) = omni.asked
    assert asked == {
        "source": WHERE[1],
        "temperature": 0.5,
        "max_tokens": Limits().tokens,
        "words": False,
        "cutting": cutting,
    }


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"prompt": "A talk about hearts."}, "prompt"),
        ({"prompt": "", "language": "", "response_format": "", "temperature": "", "stream": ""}, None),
        ({"temperature": "0.0", "stream": "false"}, None),
        ({"beam_size": "5", "hotwords": "heart", "vad_filter": "true"}, "beam_size, hotwords, vad_filter"),
        ({"task": "transcribe", "include[0]": "logprobs"}, None),
        ({"language": "en-US"}, None),
    ],
)
def test_what_clients_send(told: OpenAI, fields: dict[str, str], ignored: str | None) -> None:
    """Fields that ask for nothing are taken, and those that nobody knows are passed over and told."""
    reply = form(told, files={"file": ("blob", WHERE[1], "application/x-what")}, data={"model": MODEL, **fields})
    assert reply.status_code == 200 and reply.headers.get(IGNORED) == ignored


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_lost_is_told(stream: bool) -> None:
    omni = Scripted(TextDelta("Where "), transcript("Where", segment("Where"), warnings=("a part is damaged",)))
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        reply = form(client, files={"file": WHERE}, data={"model": MODEL, "stream": str(stream).lower()})
    if stream:  # the headers are out
        assert '"warnings":["a part is damaged"]' in reply.text.splitlines()[-2]
    else:
        assert reply.headers[WARNINGS] == "a part is damaged" and reply.json()["text"] == "Where"


def test_translations_are_refused_by_name(told: OpenAI) -> None:
    reply = httpx.post(f"{told.base_url}audio/translations", files={"file": WHERE}, data={"model": MODEL}, trust_env=False)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (400, "unsupported_endpoint") and "/v1/chat/completions" in error["message"]


# ---- what goes wrong


@pytest.mark.parametrize(
    ("more", "status", "param"),
    [
        ({"model": "whisper-1"}, 404, "model"),
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"temperature": 1.5}, 400, "temperature"),
        ({"temperature": float("nan")}, 400, "temperature"),
        ({"timestamp_granularities": ["letter"], "response_format": "verbose_json"}, 400, "timestamp_granularities[0]"),
        ({"timestamp_granularities": ["segment"]}, 400, "timestamp_granularities"),
        ({"include": ["logprobs"], "response_format": "verbose_json"}, 400, "include"),
        ({"stream": True, "response_format": "srt"}, 400, "response_format"),
        ({"chunking_strategy": {"type": "semantic_vad"}}, 400, "chunking_strategy.type"),
        ({"chunking_strategy": {"type": "server_vad", "threshold": 2}}, 400, "chunking_strategy.threshold"),
        ({"chunking_strategy": "all"}, 400, "chunking_strategy"),
        ({"extra_body": {"task": "translate"}}, 400, "task"),
        ({"language": "a language"}, 400, "language"),
        ({"extra_body": {"known_speaker_names": ["Bob"]}}, 400, "known_speaker_names"),
        ({"file": ("a.wav", b"")}, 400, "file"),
        ({"file": ("a.wav", b"no sound")}, 400, "file"),
        ({"file": ("a.png", (MEDIA / "scene.png").read_bytes())}, 400, "file"),
    ],
)
def test_refusals(told: OpenAI, more: dict[str, Any], status: int, param: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        told.audio.transcriptions.create(**{"model": MODEL, "file": WHERE, **more})
    assert (caught.value.status_code, caught.value.param) == (status, param)
    assert caught.value.code and param.partition("[")[0] in caught.value.message


def form(client: OpenAI, **more: Any) -> httpx.Response:
    return httpx.post(f"{client.base_url}audio/transcriptions", trust_env=False, **more)


MULTIPART = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"json": {"model": MODEL}}, "multipart/form-data"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data"}}, "boundary"),
        ({"content": b"no form", "headers": MULTIPART}, "cannot be read"),
        ({"content": b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--", "headers": MULTIPART}, "name"),
        ({"files": {"model": (None, MODEL)}}, "file is missing"),
        ({"files": {"file": (None, "text"), "model": (None, MODEL)}}, "file is missing"),
        ({"files": {"file": WHERE}}, "model is missing"),
        ({"files": {"sound": WHERE, "model": (None, MODEL)}}, "this name"),
        ({"files": [("file", WHERE), ("file", WHERE)]}, "Too many files"),
        ({"files": [(f"f{i}", (None, "x")) for i in range(33)]}, "Too many fields"),
        ({"files": {"file": WHERE, "model": (None, "x" * (65 << 10))}}, "maximum size"),
    ],
)
def test_forms_that_are_none(told: OpenAI, more: dict[str, Any], says: str) -> None:
    reply = form(told, **more)
    assert reply.status_code == 400 and says in reply.json()["error"]["message"]


@pytest.mark.parametrize("charset", ["undefined", "idna", "utf-7", "hex", "utf-16", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_forms_of_other_charsets(told: OpenAI, charset: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="+2AA-"\r\n\r\n+2AA-\xff..\r\n'
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF\r\n--x--\r\n'
    kind = f"multipart/form-data; boundary=x; charset={charset}".encode("latin-1")
    reply = form(told, content=head + file, headers=httpx.Headers([(b"content-type", kind)]))
    assert reply.status_code == 400 and reply.json()["error"]["message"]


def test_a_file_is_refused_while_it_comes() -> None:
    """Whoever sends one without an end is told before it."""
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        while sent < 1000:
            sent += 1
            yield bytes(1 << 16)

    limits = Limits(media_bytes=1 << 20)
    with serving(hub_of(Scripted(), Settings(limits=limits))) as address, openai_of(address) as client:
        reply = form(client, content=endless(), headers=MULTIPART)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "media_too_large")
        reply = form(client, files={"file": bytes(limits.media_bytes + 1), "model": (None, MODEL)})
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "media_too_large")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        ((CapacityError("all full"),), 503, "overloaded"),
        ((EngineError("secret detail"),), 500, "server_error"),
    ],
)
def test_faults_before_the_first_word_are_statuses(script: Any, status: int, code: str, stream: bool) -> None:
    with (
        serving(hub_of(Scripted(*script))) as address,
        openai_of(address) as client,
        pytest.raises(openai.APIStatusError) as caught,
    ):
        write_down(client, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert "secret" not in caught.value.message


def test_a_client_that_leaves_ends_the_transcript() -> None:
    omni = Scripted(TextDelta("Where "), None)
    with serving(hub_of(omni)) as address, openai_of(address) as client:
        events = write_down(client, stream=True)
        assert next(events).delta == "Where "
        events.close()
        assert omni.ended.wait(20)


APP = create_app(hub_of(Scripted()))
NAMES = st.sampled_from([*TranscriptionRequest.model_fields, "include[]", "timestamp_granularities[]", "file"])
VALUES = st.sampled_from(["json", "true", "segment", "logprobs", "0.5", "-1", "verbose_json", MODEL, "en"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(NAMES | st.text(min_size=1, max_size=9), VALUES | st.text(max_size=9)), max_size=4), st.booleans())
def test_no_form_breaks_the_server(fields: list[tuple[str, str]], named: bool) -> None:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=APP), base_url="http://localhost") as http:
            parts: Any = [(name, (None, value)) for name, value in fields]
            model: Any = [("model", (None, MODEL))] if named else []
            return await http.post("/v1/audio/transcriptions", files=[("file", ("a", b"no sound")), *model, *parts])

    reply = asyncio.run(send())
    assert 400 <= reply.status_code < 500 and reply.json()["error"]["message"]
