"""The realtime protocol: the session, items, and everything that a client can get wrong."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from omni.streaming.audio.turn_detection import SemanticVad, ServerVad, SpeechStarted
from omni.streaming.realtime.protocol import Protocol
from omni.streaming.settings import Limits
from tests.streaming.talk import TOOL, Answer, Close, Talk, error, silence, types

PICTURE = "data:image/png;base64,AAAA"


# ---- the session


def test_the_session_comes_first_and_is_whole() -> None:
    talk = Talk()
    assert types(talk.events) == ["session.created"]
    session = talk.events[0]["session"]
    assert session["id"] == "sess_1" and session["object"] == "realtime.session" and session["model"] == "omni"
    assert session["output_modalities"] == ["audio"] and session["expires_at"] == 2_000_000_000
    listening, said = session["audio"]["input"], session["audio"]["output"]
    assert listening["format"] == {"type": "audio/pcm", "rate": 24000} and listening["transcription"] is None
    assert listening["turn_detection"] == {
        "type": "server_vad",
        "threshold": 0.5,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "idle_timeout_ms": None,
        "create_response": True,
        "interrupt_response": True,
    }
    assert said == {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "Chelsie", "speed": 1.0}
    (detect,) = talk.commands
    assert (detect.detection, detect.rate, detect.start_ms) == (ServerVad(), 24000, 0)


def test_a_model_without_voices_answers_in_text() -> None:
    talk = Talk(voices=())
    session = talk.events[0]["session"]
    assert session["output_modalities"] == ["text"] and session["audio"]["output"]["voice"] is None
    assert "does not speak" in error(talk.update(output_modalities=["audio"]))["message"]


def test_a_transcription_session() -> None:
    talk = Talk(kind="transcription")
    session = talk.events[0]["session"]
    assert session["type"] == "transcription" and session["object"] == "realtime.transcription_session"
    assert session["audio"]["input"]["transcription"] == {"model": None, "language": None, "prompt": None}
    assert "audio" in session and "output" not in session["audio"]


def test_an_update_changes_what_it_names_and_tells_all() -> None:
    talk = Talk()
    (first,) = talk.update(instructions="Be brief.", audio={"output": {"voice": "Ethan"}}, tools=[TOOL])
    (second,) = talk.update(audio={"input": {"transcription": {"model": "whisper-1"}}}, max_output_tokens=50)
    assert types([first, second]) == ["session.updated"] * 2
    session = second["session"]
    assert session["instructions"] == "Be brief." and session["tools"] == [TOOL] and session["max_output_tokens"] == 50
    assert session["audio"]["output"]["voice"] == "Ethan"
    assert session["audio"]["input"]["transcription"] == {"model": "whisper-1", "language": None, "prompt": None}
    assert session["audio"]["input"]["turn_detection"]["interrupt_response"] is True
    (third,) = talk.update(
        instructions="", tools=[], max_output_tokens="inf", audio={"input": {"transcription": None, "turn_detection": None}}
    )
    session = third["session"]
    assert (session["instructions"], session["tools"], session["max_output_tokens"]) == ("", [], "inf")
    assert session["audio"]["input"]["transcription"] is None and session["audio"]["input"]["turn_detection"] is None


def test_turn_detection_is_filled_in_and_replaced_by_another_kind() -> None:
    talk = Talk()
    (event,) = talk.update(audio={"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 200}}})
    (event,) = talk.update(audio={"input": {"turn_detection": {"create_response": False}}})
    detection = event["session"]["audio"]["input"]["turn_detection"]
    assert detection["silence_duration_ms"] == 200 and detection["create_response"] is False
    (event,) = talk.update(audio={"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "high"}}})
    assert event["session"]["audio"]["input"]["turn_detection"] == {
        "type": "semantic_vad",
        "eagerness": "high",
        "create_response": True,
        "interrupt_response": True,
    }
    assert talk.commands[-1].detection == SemanticVad("high")


def test_detection_goes_on_from_where_the_sound_is() -> None:
    talk = Talk()
    talk.append(1500)
    talk.update(audio={"input": {"turn_detection": {"type": "semantic_vad"}}})
    assert talk.commands[-1].start_ms == 1500
    talk.update(audio={"input": {"format": {"type": "audio/pcmu"}}})
    assert (talk.commands[-1].rate, talk.commands[-1].start_ms) == (8000, 1500)


def test_fields_of_real_clients_are_accepted() -> None:
    talk = Talk()
    (event,) = talk.update(
        model="omni",
        tracing={"workflow_name": "x"},
        prompt=None,
        truncation={"type": "retention_ratio", "retention_ratio": 0.8},
        include=["item.input_audio_transcription.logprobs"],
        parallel_tool_calls=True,
        reasoning={"effort": "low"},
        temperature=0.8,
        audio={
            "input": {
                "noise_reduction": {"type": "near_field"},
                "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en", "delay": "low"},
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24000}, "speed": 1, "voice": {"id": "Ethan"}},
        },
    )
    session = event["session"]
    assert session["audio"]["output"]["voice"] == "Ethan"
    assert session["audio"]["input"]["transcription"]["model"] == "gpt-4o-mini-transcribe"
    assert session["audio"]["input"]["noise_reduction"] is None and session["tracing"] is None  # told as it is


def test_the_names_of_the_beta() -> None:
    talk = Talk()
    (event,) = talk.client(
        "session.update",
        session={
            "modalities": ["text", "audio"],
            "voice": "Ethan",
            "input_audio_format": "g711_ulaw",
            "output_audio_format": "pcm16",
            "input_audio_transcription": {"model": "whisper-1"},
            "turn_detection": {"type": "server_vad", "threshold": 0.7},
            "max_response_output_tokens": 99,
        },
    )
    session = event["session"]
    assert session["output_modalities"] == ["audio"] and session["max_output_tokens"] == 99
    listening = session["audio"]["input"]
    assert listening["format"] == {"type": "audio/pcmu"} and listening["turn_detection"]["threshold"] == 0.7
    assert session["audio"]["output"]["voice"] == "Ethan" and listening["transcription"]["model"] == "whisper-1"


def test_the_names_of_today_win_over_those_of_the_beta() -> None:
    (event,) = Talk().update(voice="Chelsie", audio={"output": {"voice": "Ethan"}})
    assert event["session"]["audio"]["output"]["voice"] == "Ethan"


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"model": "gpt-realtime"}, "session.model"),
        ({"type": "live"}, "session.type"),
        ({"output_modalities": ["audio", "text"]}, "session.output_modalities"),
        ({"output_modalities": []}, "session.output_modalities"),
        ({"output_modalities": ["smell"]}, "session.output_modalities[0]"),
        ({"instructions": 5}, "session.instructions"),
        ({"max_output_tokens": 0}, "session.max_output_tokens"),
        ({"max_output_tokens": 10**9}, "session.max_output_tokens"),
        ({"tool_choice": "always"}, "session.tool_choice"),
        ({"prompt": {"id": "pmpt_1"}}, "session.prompt"),
        ({"tool_choice": {"type": "function", "name": "look_up"}}, "session.tool_choice"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "session.tools[0].type"),
        ({"tools": [{**TOOL, "name": "no spaces"}]}, "session.tools[0].name"),
        ({"tools": [TOOL, TOOL]}, "session.tools"),
        ({"audio": 1}, "session.audio"),
        ({"audio": {"input": {"format": {"type": "audio/mp3"}}}}, "session.audio.input.format.type"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16000}}}}, "session.audio.input.format.rate"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 8000}}}}, "session.audio.input.format"),
        ({"audio": {"input": {"turn_detection": {"type": "none"}}}}, "session.audio.input.turn_detection.type"),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 2}}}},
            "session.audio.input.turn_detection.threshold",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 10**7}}}},
            "session.audio.input.turn_detection.silence_duration_ms",
        ),
        (
            {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "eagerness": "very"}}}},
            "session.audio.input.turn_detection.eagerness",
        ),
        ({"audio": {"output": {"voice": "nobody"}}}, "session.audio.output.voice"),
        ({"audio": {"output": {"speed": 3}}}, "session.audio.output.speed"),
    ],
)
def test_an_update_that_cannot_be_changes_nothing(session: Any, param: str) -> None:
    talk = Talk()
    found = error(
        talk.client("session.update", session={"type": "realtime", "instructions": "No.", **session}, event_id="e1")
    )
    assert (found["type"], found["event_id"]) == ("invalid_request_error", "e1") and found["code"] and found["message"]
    assert found["param"] == param
    (event,) = talk.update()
    assert event["session"] == talk.events[0]["session"]


def test_tools_are_bounded() -> None:
    talk = Talk(limits=Limits(tools=2, tools_bytes=1000))
    assert error(talk.update(tools=[{**TOOL, "name": f"f{i}"} for i in range(3)]))["param"] == "session.tools"
    assert "bytes" in error(talk.update(tools=[{**TOOL, "description": "x" * 1000}]))["message"]
    deep: Any = {}
    for _ in range(200):
        deep = {"items": deep}
    assert "deep" in error(talk.update(tools=[{**TOOL, "parameters": deep}]))["message"]


def test_a_session_may_start_from_what_its_secret_holds() -> None:
    talk = Talk(session={"type": "realtime", "instructions": "Hello.", "audio": {"input": {"turn_detection": None}}})
    assert types(talk.events) == ["session.created"] and talk.events[0]["session"]["instructions"] == "Hello."
    assert talk.commands[-1].detection is None
    talk = Talk(session={"type": "realtime", "audio": {"output": {"voice": "nobody"}}})
    assert types(talk.events) == ["session.created", "error"]


def test_the_type_may_change_while_there_is_nothing() -> None:
    talk = Talk()
    (event,) = talk.client("session.update", session={"type": "transcription", "audio": {"input": {"turn_detection": None}}})
    assert event["session"]["type"] == "transcription"
    talk.update()
    talk.say("Hello.")
    assert error(talk.client("session.update", session={"type": "transcription"}))["param"] == "session.type"


def test_the_voice_is_frozen_once_it_was_heard() -> None:
    talk = Talk()
    response = talk.respond()
    talk.text(response, "Hi.")
    assert types(talk.update(audio={"output": {"voice": "Ethan"}})) == ["session.updated"]
    talk.sound(response, 100)
    found = error(talk.update(audio={"output": {"voice": "Chelsie"}}))
    assert (found["code"], found["param"]) == ("cannot_update_voice", "session.audio.output.voice")
    assert types(talk.update(audio={"output": {"voice": "Ethan"}})) == ["session.updated"]
    talk.finish(response)
    asked = talk.client("response.create", response={"audio": {"output": {"voice": "Chelsie"}}})
    assert error(asked)["code"] == "cannot_update_voice"
    talk.respond(conversation="none", audio={"output": {"voice": "Chelsie"}})
    assert talk.last(Answer).voice == "Chelsie"


def test_time_ends_a_session() -> None:
    limits = Limits(session_seconds=60, idle_seconds=10)
    talk = Talk(limits=limits)
    assert talk.protocol.deadline == 110
    talk.now = 108
    talk.client("response.cancel")
    assert talk.protocol.deadline == 118 and not talk.take(talk.protocol.tick(117))
    assert error(talk.take(talk.protocol.tick(118)))["code"] == "session_idle"
    assert talk.last(Close).code == 1008 and talk.protocol.deadline == float("inf")
    assert not talk.take(talk.protocol.tick(10**6))
    talk = Talk(limits=limits)
    for talk.now in (109.0, 118.0, 127.0, 136.0, 145.0, 154.0):
        talk.client("response.cancel")
    assert talk.protocol.deadline == 160
    assert error(talk.take(talk.protocol.tick(160)))["code"] == "session_expired"


# ---- what is no event


@pytest.mark.parametrize(
    ("event", "code", "param"),
    [
        (None, "invalid_event", None),
        ([], "invalid_event", None),
        ({}, "invalid_event", "type"),
        ({"type": 5}, "invalid_event", "type"),
        ({"type": "session.created"}, "invalid_value", "type"),
        ({"type": "session.update"}, "missing_required_parameter", "session"),
        ({"type": "session.update", "session": []}, "invalid_type", "session"),
        ({"type": "input_audio_buffer.append"}, "missing_required_parameter", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "%%"}, "invalid_base64", "audio"),
        ({"type": "input_audio_buffer.append", "audio": "A" * (21 << 20)}, "media_too_large", "audio"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None),
        ({"type": "conversation.item.create"}, "missing_required_parameter", "item"),
        ({"type": "conversation.item.create", "item": {"type": "mcp_call"}}, "invalid_value", "item.type"),
        (
            {"type": "conversation.item.create", "item": {"type": "message", "role": "developer"}},
            "invalid_value",
            "item.role",
        ),
        ({"type": "conversation.item.retrieve"}, "missing_required_parameter", "item_id"),
        ({"type": "conversation.item.retrieve", "item_id": "x"}, "item_retrieve_invalid_item_id", "item_id"),
        ({"type": "conversation.item.delete", "item_id": "x"}, "item_delete_invalid_item_id", "item_id"),
        (
            {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 1},
            "item_truncate_invalid_item_id",
            "item_id",
        ),
        (
            {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": -1},
            "invalid_value",
            "audio_end_ms",
        ),
        ({"type": "response.cancel"}, "response_cancel_not_active", "response_id"),
        ({"type": "response.cancel", "response_id": "x"}, "response_cancel_not_active", "response_id"),
        ({"type": "response.cancel", "response_id": 1}, "invalid_type", "response_id"),
        ({"type": "response.create", "response": 1}, "invalid_type", "response"),
        ({"type": "response.create", "response": {"conversation": "other"}}, "invalid_value", "response.conversation"),
        ({"type": "response.create", "response": {"metadata": {"a": 1}}}, "invalid_type", "response.metadata.a"),
        ({"type": "response.create", "response": {"metadata": {"a": "x" * 513}}}, "invalid_value", "response.metadata"),
        (
            {"type": "response.create", "response": {"metadata": {str(i): "" for i in range(17)}}},
            "invalid_value",
            "response.metadata",
        ),
        ({"type": "response.create", "response": {"max_output_tokens": -1}}, "invalid_value", "response.max_output_tokens"),
        (
            {"type": "response.create", "response": {"audio": {"output": {"voice": "nobody"}}}},
            "unknown_voice",
            "response.audio.output.voice",
        ),
        ({"type": "response.create", "response": {"input": ["x"]}}, "invalid_type", "response.input[0]"),
        (
            {"type": "response.create", "response": {"input": [{"type": "item_reference", "id": "x"}]}},
            "invalid_item_reference",
            "response.input[0].id",
        ),
        (
            {"type": "response.create", "response": {"input": [{"type": "message", "role": "user", "content": []}]}},
            "invalid_value",
            "response.input[0].content",
        ),
    ],
)
def test_what_is_wrong_is_said_and_the_session_goes_on(event: Any, code: str, param: str | None) -> None:
    talk = Talk()
    if isinstance(event, dict):
        event = {**event, "event_id": "mine"}
    found = error(talk.take(talk.protocol.receive(event, talk.now)))
    assert (found["type"], found["code"], found["param"]) == ("invalid_request_error", code, param)
    assert found["event_id"] == ("mine" if isinstance(event, dict) else None)
    assert len(found["message"]) < 600
    talk.say("Hello.")
    talk.respond()


def test_an_event_id_that_is_no_text_is_not_echoed() -> None:
    talk = Talk()
    assert error(talk.client("response.cancel", event_id=5))["event_id"] is None


# ---- items


def test_items_stand_where_the_client_wants_them() -> None:
    talk = Talk()
    content = [{"type": "input_text", "text": "x"}]

    def create(id: str, **where: Any) -> Any:
        events = talk.client(
            "conversation.item.create", item={"id": id, "type": "message", "role": "user", "content": content}, **where
        )
        assert types(events) == ["conversation.item.added", "conversation.item.done"]
        assert events[0]["item"] == events[1]["item"] and events[0]["item"]["id"] == id
        return events[0]["previous_item_id"]

    assert create("a") is None
    assert create("b") == "a"
    assert create("c", previous_item_id="a") == "a"
    assert create("d", previous_item_id="root") is None
    assert create("e", previous_item_id=None) == "b"
    assert [item.id for item in talk.items] == ["d", "a", "c", "b", "e"]
    assert types(talk.client("conversation.item.delete", item_id="a")) == ["conversation.item.deleted"]
    assert [item.id for item in talk.items] == ["d", "c", "b", "e"]


def test_an_id_is_taken_once_and_a_place_must_be_there() -> None:
    talk = Talk()
    talk.say("x", id="a")
    item = {"id": "a", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "y"}]}
    found = error(talk.client("conversation.item.create", item=item))
    assert (found["code"], found["param"]) == ("item_create_duplicate_item_id", "item.id")
    found = error(talk.client("conversation.item.create", item={**item, "id": "b"}, previous_item_id="z"))
    assert (found["code"], found["param"]) == ("item_create_invalid_previous_item_id", "previous_item_id")
    assert [item.id for item in talk.items] == ["a"]


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (
            {"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be kind."}]},
            {"role": "system", "content": [{"type": "input_text", "text": "Be kind."}]},
        ),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]},
        ),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Beta."}]},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Beta."}]},
        ),
        (
            {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "Said."}]},
            {"role": "assistant", "content": [{"type": "output_audio", "transcript": "Said."}]},
        ),
        (
            {"type": "function_call", "name": "f", "call_id": "c", "arguments": "{}"},
            {"call_id": "c", "name": "f", "arguments": "{}"},
        ),
        ({"type": "function_call_output", "call_id": "c", "output": "five"}, {"call_id": "c", "output": "five"}),
    ],
)
def test_every_kind_of_item(item: Any, told: Any) -> None:
    talk = Talk()
    events = talk.client("conversation.item.create", item=item)
    expected = {"id": "item_1", "object": "realtime.item", "type": item["type"], "status": "completed", **told}
    assert [event["item"] for event in events] == [expected] * 2
    (event,) = talk.client("conversation.item.retrieve", item_id="item_1")
    assert event["type"] == "conversation.item.retrieved" and event["item"] == expected


def test_sounds_and_pictures_come_back_only_when_asked_for() -> None:
    talk, sound = Talk(), b64encode(silence(200)).decode()
    content = [
        {"type": "input_audio", "audio": sound, "transcript": "hush"},
        {"type": "input_image", "image_url": PICTURE, "detail": "high"},
    ]
    item = {"type": "message", "role": "user", "content": content}
    events = talk.client("conversation.item.create", item=item, media={PICTURE: b"png"})
    light = [{"type": "input_audio", "transcript": "hush"}, {"type": "input_image", "detail": "auto"}]
    assert [event["item"]["content"] for event in events] == [light] * 2
    (event,) = talk.client("conversation.item.retrieve", item_id=events[0]["item"]["id"])
    assert event["item"]["content"][0]["audio"] == sound and event["item"]["content"][1]["image_url"] == PICTURE
    assert talk.items[0].parts[1].image == b"png"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_image", "image_url": PICTURE}, "item.content[0].image_url"),
        ({"type": "input_audio", "audio": "AAAA"}, "item.content[0].audio"),
        ({"type": "input_audio", "audio": "?"}, "item.content[0].audio"),
        ({"type": "input_text"}, "item.content[0].text"),
        ({"type": "input_video"}, "item.content[0].type"),
    ],
)
def test_a_part_that_cannot_be_read(part: Any, param: str) -> None:
    talk = Talk()
    found = error(talk.client("conversation.item.create", item={"type": "message", "role": "user", "content": [part]}))
    assert found["param"] == param and not talk.items


def test_a_conversation_is_bounded_in_items() -> None:
    talk = Talk(limits=Limits(items=2))
    talk.say("one")
    talk.say("two")
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "three"}]}
    assert error(talk.client("conversation.item.create", item=item))["code"] == "conversation_full"
    assert error(talk.client("response.create"))["code"] == "conversation_full"
    talk.manual()
    talk.append(200)
    assert error(talk.client("input_audio_buffer.commit"))["code"] == "conversation_full"


def test_a_conversation_is_bounded_in_bytes_and_lets_go_of_old_sounds_first() -> None:
    talk = Talk(limits=Limits(body_bytes=20_000))
    talk.manual()
    for _ in range(3):
        talk.append(200)
        assert "error" not in types(talk.client("input_audio_buffer.commit"))
    assert [len(item.parts[0].sound) for item in talk.items] == [0, 9600, 9600]
    (event,) = talk.client("conversation.item.retrieve", item_id=talk.items[0].id)
    assert event["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    talk.say("x" * 15_000)
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x" * 6_000}]}
    assert error(talk.client("conversation.item.create", item=item))["code"] == "conversation_full"


def test_ids_are_hard_to_guess() -> None:
    first, second = (Protocol(Talk().protocol._state.setup, 0.0).open()[0].event["session"]["id"] for _ in range(2))
    assert first != second and len(first) > 20


def test_turns_do_not_begin_twice_from_one_report() -> None:
    talk = Talk()
    talk.append(1000)
    talk.speech(SpeechStarted(200))
    assert types(talk.client("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert talk.commands[-1].start_ms == 1000
