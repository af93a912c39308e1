"""The realtime socket with a model that says what it is told to: order, time, and everything that breaks."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from omni.errors import CapacityError
from omni.session import Forgotten
from omni.streaming.audio.turn_detection import SpeechEvent, SpeechPaused, SpeechResumed, SpeechStarted, SpeechStopped
from omni.streaming.problems import Problem
from omni.streaming.realtime import connection as module
from omni.streaming.realtime.protocol import Protocol
from omni.streaming.server.hub import Hub
from omni.streaming.settings import Limits, Settings
from tests.streaming.socket_client import Client, FakeOmni, Step, TextDelta, chunk, done, done_event, opened, run, sound_of
from tests.streaming.talk import TOOL, types

PICTURE = "data:image/png;base64,AAAA"


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> dict[int, list[SpeechEvent]]:
    """What is heard, by the ms of sound at which it is; no detector runs."""
    heard: dict[int, list[SpeechEvent]] = {}

    class Scripted:
        def __init__(self, detection: object, rate: int, start_ms: int = 0) -> None:
            self._rate, self._at = rate, start_ms

        def push(self, samples: Any, speaking: bool) -> list[SpeechEvent]:
            before, self._at = self._at, self._at + len(samples) * 1000 // self._rate
            return [event for at in sorted(heard) if before < at <= self._at for event in heard[at]]

    monkeypatch.setattr(module, "TurnDetector", Scripted)
    return heard


async def manual(client: Client, **session: Any) -> None:
    client.send("session.update", session={"audio": {"input": {"turn_detection": None}}, **session})
    await client.until("session.updated")


# ---- the handshake


def test_what_the_handshake_agrees_on() -> None:
    async def main() -> None:
        hub = Hub(FakeOmni(), "omni", Settings())  # type: ignore[arg-type]  # a stand-in
        client = Client(hub)
        secret = type("Secret", (), {"session": {"type": "transcription"}})
        server = client.start("model=omni", subprotocols=["realtime", "openai-beta.realtime-v1"], state={"secret": secret})
        event = await client.next()
        assert client.accepted["subprotocol"] == "realtime"
        assert event["session"]["type"] == "transcription"
        client.leave()
        await server
        client = Client(hub)
        with pytest.raises(Problem) as refused:
            await client.start("model=other")
        assert refused.value.status == 404 and not client.accepted
        client = Client(hub)
        server = client.start("intent=transcription")
        assert (await client.next())["session"]["type"] == "transcription"
        assert client.accepted.get("subprotocol") is None
        client.leave()
        await server
        hub.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("send", "word"),
    [
        (lambda client: client.send_bytes(b"{}"), "text"),
        (lambda client: client.send_text("{"), "JSON"),
        (lambda client: client.send_text('{"type": NaN}'), "JSON"),
        (lambda client: client.send_text("[" * 100_000), "JSON"),
        (lambda client: client.send_text('"' + "x" * 2000 + '"'), "2002"),
        (lambda client: client.send_text("7"), "object"),
        (lambda client: client.send("nothing"), "known types"),
    ],
)
def test_a_frame_that_cannot_be_read_is_told_and_the_socket_lives(send: Any, word: str) -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        send(client)
        (event,) = await client.until("error")
        assert word in event["error"]["message"]
        client.say("Hello.")
        await client.until("conversation.item.done")

    limits = Limits(socket_bytes=1000) if word == "2002" else None
    run(test, limits=limits)


def test_a_large_frame_is_read_beside_the_loop() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        await manual(client)
        client.append(8000)
        client.send("input_audio_buffer.commit")
        await client.until("conversation.item.done")
        client.send("input_audio_buffer.append", audio="x" * 500_001)
        (event,) = await client.until("error")
        assert event["error"]["code"] == "invalid_base64"
        client.send("response.create")
        await client.until("response.done")
        assert len(omni.asked[0].began[0]["content"][0]["audio"][0]) == 8000 * 24

    run(test)


def test_time_runs_out() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        events = await client.until("closed")
        assert types(events) == ["error", "closed"] and events[0]["error"]["code"] == "session_expired"
        assert client.closed == 1008

    run(test, limits=Limits(session_seconds=0.05))


def test_a_client_that_stops_reading_for_a_moment_is_not() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        client.reading.clear()
        client.say("Hello.")
        await asyncio.sleep(0.05)
        client.reading.set()
        await client.until("conversation.item.done")

    run(test, limits=Limits(slow_seconds=5))


# ---- answers


def test_a_text_turn() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        await manual(client, output_modalities=["text"], instructions="Be brief.", tools=[TOOL], max_output_tokens=9)
        client.say("What is two plus three?")
        client.send("response.create", response={"metadata": {"k": "v"}})
        response = done_event(await client.until("response.done"))
        assert response["output"][0]["content"] == [{"type": "output_text", "text": "It is five."}]
        assert response["metadata"] == {"k": "v"} and response["usage"]["total_tokens"] == 75
        (session,) = omni.asked
        assert session.voice is None and session.options == {"max_tokens": 9}
        assert session.tools[0]["function"]["name"] == "look_up"
        assert session.began == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "What is two plus three?"}]},
        ]
        client.say("And then?")
        client.send("response.create")
        await client.until("response.done")
        assert [message["role"] for message in omni.asked[1].began] == ["system", "user", "assistant", "user"]
        assert omni.asked[1].began[2]["content"] == "It is five."

    run(test, [TextDelta("It is "), TextDelta("five."), done()])


def test_words_come_at_once_and_sound_shortly_before_it_is_heard() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        client.send("response.create")
        events = await client.until("response.done")
        kinds = types(events)
        delta = "response.output_audio.delta"
        assert kinds.index("response.output_audio_transcript.delta") < kinds.index(delta)
        assert kinds.count("response.output_audio_transcript.delta") == 2
        assert max(i for i, kind in enumerate(kinds) if "transcript.delta" in kind) < kinds.index(delta) + 3
        sound = sound_of(events)
        assert len(sound) == 1500 * 48 and np.frombuffer(sound, "<i2").min() == np.frombuffer(sound, "<i2").max() == 8192
        times = [time for event, time in zip(client.events, client.times, strict=True) if event["type"] == delta]
        assert len(times) == 8
        for i, time in enumerate(times):  # what was sent, less what has been played since the first piece
            assert min(0.2 * (i + 1), 1.5) - (time - times[0]) <= 0.6 + 0.005
        assert times[2] - times[0] < 0.2

    limits = Limits(ahead_seconds=0.6)
    run(test, [TextDelta("Once "), chunk(800), chunk(600), TextDelta("more."), chunk(100), done()], limits=limits)


@pytest.mark.parametrize(("format", "bytes_a_ms"), [("audio/pcm", 48), ("audio/pcmu", 8), ("audio/pcma", 8)])
@pytest.mark.parametrize("speed", [1.0, 1.5])
def test_formats_and_speeds(format: str, bytes_a_ms: int, speed: float) -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        await manual(client, audio={"output": {"format": {"type": format}, "speed": speed}})
        client.send("response.create")
        events = await client.until("response.done")
        assert abs(len(sound_of(events)) / bytes_a_ms - 900 / speed) < 2
        item = done_event(events)["output"][0]["id"]
        client.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=300)
        await client.until("conversation.item.truncated")
        assert omni.asked[0].interrupted == [300 * speed]

    run(test, [TextDelta("Hm."), chunk(450), chunk(450), done()])


def test_an_answer_that_breaks() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        client.send("response.create")
        response = done_event(await client.until("response.done"))
        assert response["status"] == "failed"
        assert response["status_details"]["error"]["code"] == "overloaded"
        client.send("response.create")
        response = done_event(await client.until("response.done"))
        assert response["status_details"]["error"]["code"] == "server_error"
        assert "secret" not in str(client.events)
        client.send("response.create")
        assert done_event(await client.until("response.done"))["status"] == "completed"

    run(test, [CapacityError("no room now")], [TextDelta("I"), chunk(100), RuntimeError("secret")])


def test_cancel_ends_the_making() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        client.send("response.create")
        await client.until("response.output_audio.delta")
        client.send("response.cancel")
        response = done_event(await client.until("response.done"))
        assert response["status"] == "cancelled"
        client.say("Still there?")
        events = await client.until("conversation.item.done")
        assert types(events) == ["conversation.item.added", "conversation.item.done"]
        assert omni.asked[0].closed

    run(test, [TextDelta("Once"), chunk(100), asyncio.Event()])


def test_leaving_ends_the_making() -> None:
    async def main() -> None:
        omni = FakeOmni([TextDelta("Once"), asyncio.Event()])
        async with opened(omni) as client:
            client.send("response.create")
            await client.until("response.output_audio_transcript.delta")
        assert omni.asked[0].closed

    asyncio.run(main())


def test_answers_beside_the_conversation_run_at_the_same_time() -> None:
    gate = asyncio.Event()

    async def test(client: Client, omni: FakeOmni) -> None:
        client.send("response.create", response={"output_modalities": ["text"]})
        await client.until("response.created")
        client.send("response.create", response={"conversation": "none", "output_modalities": ["text"], "input": []})
        response = done_event(await client.until("response.done"))
        assert response["conversation_id"] is None and response["output"][0]["content"][0]["text"] == "Beside."
        gate.set()
        assert done_event(await client.until("response.done"))["output"][0]["content"][0]["text"] == "In it."

    run(test, [gate, TextDelta("In it."), done()], [TextDelta("Beside."), done()])


def test_a_function_call_and_its_output() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        await manual(client, tools=[TOOL])
        client.say("What is a hen?")
        client.send("response.create")
        call = done_event(await client.until("response.done"))["output"][1]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "A bird."}
        client.send("conversation.item.create", item=output)
        client.send("response.create")
        await client.until("response.done")
        function = {"name": "look_up", "arguments": '{"word":"hen"}'}
        assert omni.asked[1].began[1:] == [
            {
                "role": "assistant",
                "content": "Let me see.",
                "tool_calls": [{"type": "function", "id": call["call_id"], "function": function}],
            },
            {"role": "tool", "content": "A bird.", "tool_call_id": call["call_id"]},
        ]

    text = 'Let me see.\n<tool_call>\n{"name": "look_up", "arguments": {"word": "hen"}}\n</tool_call>'
    run(test, [TextDelta(text[:20]), TextDelta(text[20:]), chunk(200), done()])


@pytest.mark.parametrize("text", ['<tool_call>{"name": "other"}</tool_call>', "<tool_call>none"])
def test_a_call_that_is_none_ends_the_making(text: str) -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        await manual(client, tools=[TOOL])
        client.send("response.create")
        response = done_event(await client.until("response.done"))
        assert response["status_details"]["error"]["code"] == "invalid_tool_call"
        client.send("response.create")
        assert done_event(await client.until("response.done"))["status"] == "completed"
        assert omni.asked[0].over

    run(test, [TextDelta(text), *[chunk(100)] * 3, done()], [TextDelta("Yes."), done()])


# ---- what the user says and shows


def test_pictures_are_fetched_before_the_item_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(hub: Hub, url: str, kind: str, param: str) -> bytes:
        if url == "bad":
            raise Problem("no picture", param=param, code="invalid_media")
        assert (url, kind, param) == (PICTURE, "image", "item.content[0].image_url")
        return b"png"

    monkeypatch.setattr(module, "fetch", fetch)

    def show(client: Client, url: str, count: int = 1) -> None:
        content = [{"type": "input_image", "image_url": url}] * count
        item = {"type": "message", "role": "user", "content": content}
        client.send("conversation.item.create", event_id="e", item=item)

    async def test(client: Client, omni: FakeOmni) -> None:
        show(client, PICTURE)
        await client.until("conversation.item.done")
        show(client, "bad")
        (event,) = await client.until("error")
        assert event["error"]["event_id"] == "e" and event["error"]["param"] == "item.content[0].image_url"
        show(client, PICTURE, 33)
        (event,) = await client.until("error")
        assert "33 pictures" in event["error"]["message"]
        client.send("response.create")
        await client.until("response.done")
        assert omni.asked[0].began == [{"role": "user", "content": [{"type": "image", "image": b"png"}]}]

    run(test)


def test_what_is_said_is_read_while_it_is_said(turns: dict[int, list[SpeechEvent]]) -> None:
    turns[600] = [SpeechStarted(500)]
    turns[1500] = [SpeechStopped(1400)]

    async def test(client: Client, omni: FakeOmni) -> None:
        client.say("Look.")
        for _ in range(15):
            client.append(100)
        events = await client.until("response.done")
        kinds = types(events)[2:8]
        assert kinds == [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.added",
            "conversation.item.done",
            "response.created",
        ]
        ear, answering = omni.sessions[0], omni.asked[0]
        assert ear is not answering and ear.began == [{"role": "user", "content": [{"type": "text", "text": "Look."}]}]
        (message,) = answering.began
        samples, rate = message["content"][1]["audio"]
        assert rate == 24000 and len(samples) == 900 * 24
        assert len(np.concatenate(ear.heard)) in range(900 * 24, 1000 * 24 + 1)

    run(test)


def test_an_answer_is_begun_at_a_pause_and_told_when_the_turn_is_over(turns: dict[int, list[SpeechEvent]]) -> None:
    turns[300] = [SpeechStarted(100)]
    turns[600] = [SpeechPaused(600)]
    turns[700] = [SpeechResumed()]
    turns[900] = [SpeechPaused(900)]
    turns[1200] = [SpeechStopped(1200)]

    async def asked(omni: FakeOmni, count: int) -> None:
        async with asyncio.timeout(10):
            while len(omni.asked) < count:
                await asyncio.sleep(0.005)

    async def test(client: Client, omni: FakeOmni) -> None:
        for ms in (300, 300):
            client.append(ms)
        await asked(omni, 1)
        client.append(100)
        client.append(200)
        await asked(omni, 2)
        assert types(client.events) == ["session.created", "input_audio_buffer.speech_started"]
        client.append(300)
        events = await client.until("response.done")
        assert done_event(events)["output"][0]["content"][0]["transcript"] == "Now."
        assert types(events).count("response.created") == 1
        first, second = omni.asked
        assert first.closed and not second.closed
        assert len(second.began[0]["content"][0]["audio"][0]) == 800 * 24

    run(test, [TextDelta("Too early."), asyncio.Event()], [TextDelta("Now."), chunk(100), done()])


def test_barge_in(turns: dict[int, list[SpeechEvent]]) -> None:
    turns[200] = [SpeechStarted(100)]
    turns[600] = [SpeechStopped(600)]

    async def test(client: Client, omni: FakeOmni) -> None:
        client.send("response.create")
        events = await client.until("response.output_audio.delta")
        item = events[-1]["item_id"]
        client.append(200)
        await client.until("input_audio_buffer.speech_started")
        response = done_event(await client.until("response.done"))
        assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        client.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=150)
        (event,) = await client.until("conversation.item.truncated")
        assert event["audio_end_ms"] == 150
        client.send("conversation.item.retrieve", item_id=item)
        (event,) = await client.until("conversation.item.retrieved")
        assert event["item"]["content"][0]["transcript"] == "heard until 150"
        client.append(400)
        await client.until("response.done")
        assert [message["content"] for message in omni.asked[1].began[:1]] == ["heard until 150"]
        assert sum(event["type"] == "response.done" for event in client.events) == 2

    run(test, [TextDelta("Once upon a time"), chunk(5000), done()])


def test_words_that_were_not_heard_are_forgotten_though_the_client_is_silent(turns: dict[int, list[SpeechEvent]]) -> None:
    turns[200] = [SpeechStarted(100)]
    turns[600] = [SpeechStopped(600)]

    async def test(client: Client, omni: FakeOmni) -> None:
        client.send("response.create")
        await client.until("response.output_audio.delta")
        client.append(200)
        await client.until("response.done")
        client.append(400)
        await client.until("response.done")
        (played,) = omni.asked[0].interrupted
        assert 0 <= played <= 1000 and omni.asked[1].began[0]["content"] == f"heard until {played:g}"

    run(test, [TextDelta("Once upon a time"), chunk(5000), done()], limits=Limits(ahead_seconds=0.5))


def test_only_the_last_answers_can_be_cut_and_only_once() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        items = []
        for _ in range(6):
            client.send("response.create")
            items.append(done_event(await client.until("response.done"))["output"][0]["id"])

        async def transcript_after_cut(item: str, ms: int) -> Any:
            client.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=ms)
            await client.until("conversation.item.truncated")
            client.send("conversation.item.retrieve", item_id=item)
            (event,) = await client.until("conversation.item.retrieved")
            return event["item"]["content"][0]["transcript"]

        assert await transcript_after_cut(items[0], 100) == ""
        assert await transcript_after_cut(items[-1], 100) == "heard until 100"
        assert await transcript_after_cut(items[-1], 50) == ""

    script: list[Step] = [TextDelta("Yes."), chunk(200), done()]
    run(test, *[script] * 6)


def test_what_was_said_is_written_down() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        await manual(client, input_audio_transcription={"model": "whisper-1"})
        client.append(300)
        client.send("input_audio_buffer.commit")
        kind = "conversation.item.input_audio_transcription.completed"
        events = await client.until(kind)
        assert events[-1]["transcript"] == "What moves?"
        (((samples, rate), _),) = omni.written
        assert len(samples) == 300 * 24 and rate == 24000
        transcripts: list[list[Step]] = [
            [CapacityError("full")],
            [RuntimeError("secret")],
        ]
        for omni.transcript in transcripts:
            client.append(300)
            client.send("input_audio_buffer.commit")
            await client.until("conversation.item.input_audio_transcription.failed")
        assert "secret" not in str(client.events)

    run(test)


def test_a_conversation_that_is_too_long_forgets_for_good() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        await manual(client, output_modalities=["text"], instructions="Be brief.")
        session = omni.session

        def forgetful(*, voice: str | None = None) -> Any:
            made = session(voice=voice)
            begin = made.begin

            def begin_and_forget(messages: Any) -> None:
                begin(messages)
                if len(messages) > 4:
                    made.forgotten = Forgotten(2, 2)

            made.begin = begin_and_forget  # type: ignore[method-assign]  # a stand-in
            return made

        omni.session = forgetful  # type: ignore[method-assign]  # a stand-in
        for i in range(4):
            client.say(str(i))
            client.send("response.create")
            await client.until("response.done")
        asked = [[message["content"] for message in session.began] for session in omni.asked]
        assert asked[2] == [
            "Be brief.",
            [{"type": "text", "text": "0"}],
            "Yes.",
            [{"type": "text", "text": "1"}],
            "Yes.",
            [{"type": "text", "text": "2"}],
        ]
        assert asked[3] == [
            "Be brief.",
            [{"type": "text", "text": "1"}],
            "Yes.",
            [{"type": "text", "text": "2"}],
            "Yes.",
            [{"type": "text", "text": "3"}],
        ]

    script: list[Step] = [TextDelta("Yes."), done()]
    run(test, *[script] * 4)


def test_a_fault_of_the_server_ends_the_socket_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        hub = Hub(FakeOmni(), "omni", Settings())  # type: ignore[arg-type]  # a stand-in
        client = Client(hub)
        server = client.start()
        await client.next()
        monkeypatch.setattr(Protocol, "receive", lambda *_: 1 / 0)
        client.say("Hello.")
        with pytest.raises(ZeroDivisionError):
            await server
        hub.close()

    asyncio.run(main())


def test_sound_is_sent_in_order_and_whole() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        client.send("response.create")
        events = await client.until("response.done")
        samples = np.frombuffer(sound_of(events), "<i2")
        assert len(samples) == sum(len(piece.samples) for piece in pieces)
        assert all(a <= b for a, b in pairwise(samples))

    pieces = [chunk(37 * (i % 3) + 63, i / 20) for i in range(10)]
    run(test, [TextDelta("Rise."), *pieces, done()])


def test_unknown_names_are_no_secret() -> None:
    async def test(client: Client, omni: FakeOmni) -> None:
        client.send("session.update", session={"audio": {"output": {"voice": "nobody"}}})
        (event,) = await client.until("error")
        assert "Chelsie, Ethan" in event["error"]["message"]
        client.send("input_audio_buffer.append", audio=b64encode(bytes(4800)).decode())
        client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")

    run(test)


def test_transcripts_that_are_asked_for_faster_than_they_are_made() -> None:
    """No more wait than a few; the others fail, and say why."""

    async def test(client: Client, omni: FakeOmni) -> None:
        gate = asyncio.Event()
        omni.transcript = (gate, *omni.transcript)
        listening: dict[str, Any] = {"turn_detection": None, "transcription": {}}
        client.send("session.update", session={"type": "realtime", "audio": {"input": listening}})
        for _ in range(module.MOST_WAITING + 4):
            client.append(200)
            client.send("input_audio_buffer.commit")
        failed = (await client.until("conversation.item.input_audio_transcription.failed"))[-1]
        assert failed["error"]["code"] == "too_many_transcripts"
        gate.set()
        await client.until("conversation.item.input_audio_transcription.completed")

    run(test)
