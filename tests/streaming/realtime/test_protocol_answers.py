"""The realtime protocol: answers in text and in speech, with function calls, cancelled, cut, and beside the conversation."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest

from omni.streaming.notices import Notices, current
from omni.streaming.problems import Problem
from omni.streaming.settings import Limits
from tests.streaming.talk import TOOL, Answer, Cut, Stop, Talk, error, silence, types

BEGUN = ["response.output_item.added", "conversation.item.added", "response.content_part.added"]
ENDED = ["response.content_part.done", "conversation.item.done", "response.output_item.done", "response.done"]
SAID = ["response.output_audio.done", "response.output_audio_transcript.done", *ENDED]
CALL = '<tool_call>\n{"name": "look_up", "arguments": {"word": "hen"}}\n</tool_call>'


def writing(**session: Any) -> Talk:
    talk = Talk()
    talk.update(output_modalities=["text"], **session)
    return talk


# ---- text and speech


def test_a_text_turn() -> None:
    talk = writing()
    question = talk.say("What is two plus three?")
    (created,) = talk.client("response.create")
    response = created["response"]
    assert created["type"] == "response.created" and response["status"] == "in_progress" and response["output"] == []
    assert response["conversation_id"] == "conv_1" and response["output_modalities"] == ["text"]
    assert response["audio"]["output"] == {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "Chelsie"}
    assert response["usage"] is None and response["metadata"] is None and response["max_output_tokens"] == "inf"
    answer = talk.last(Answer)
    assert answer.response_id == response["id"] and answer.voice is None and answer.max_tokens is None
    assert [item.id for item in answer.items] == [question] and answer.remembers

    events = talk.text(response["id"], "It is ", "five.") + talk.finish(response["id"])
    assert types(events) == [
        *BEGUN,
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        *ENDED,
    ]
    added, joined, part, first, second, text, part_done, item_done, output_done, over = events
    item = added["item"]["id"]
    empty = {
        "id": item,
        "object": "realtime.item",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    assert added["item"] == joined["item"] == empty and joined["previous_item_id"] == question
    place = {"response_id": response["id"], "item_id": item, "output_index": 0, "content_index": 0}
    for event in (part, first, second, text, part_done):
        assert place.items() <= event.items()
    assert (part["part"], part_done["part"]) == ({"type": "text", "text": ""}, {"type": "text", "text": "It is five."})
    assert (first["delta"], second["delta"], text["text"]) == ("It is ", "five.", "It is five.")
    whole = {**empty, "status": "completed", "content": [{"type": "output_text", "text": "It is five."}]}
    assert item_done["item"] == output_done["item"] == whole and item_done["previous_item_id"] == question
    final = over["response"]
    assert final["status"] == "completed" and final["output"] == [whole] and final["status_details"] is None
    assert final["usage"] == {
        "total_tokens": 75,
        "input_tokens": 30,
        "output_tokens": 45,
        "input_token_details": {
            "text_tokens": 20,
            "audio_tokens": 6,
            "image_tokens": 4,
            "cached_tokens": 0,
            "cached_tokens_details": {"text_tokens": 0, "audio_tokens": 0, "image_tokens": 0},
        },
        "output_token_details": {"text_tokens": 5, "audio_tokens": 40},
    }


def test_a_spoken_turn() -> None:
    talk = Talk()
    talk.say("Who are you?")
    response = talk.respond()
    assert talk.last(Answer).voice == "Chelsie"
    events = (
        talk.text(response, "I am ", "omni.") + talk.sound(response, 200) + talk.sound(response, 120) + talk.finish(response)
    )
    transcript, audio = "response.output_audio_transcript.delta", "response.output_audio.delta"
    assert types(events) == [*BEGUN, transcript, transcript, audio, audio, *SAID]
    assert events[2]["part"] == {"type": "audio", "transcript": ""}
    assert [b64decode(event["delta"]) for event in events if event["type"] == audio] == [silence(200), silence(120)]
    assert events[8]["transcript"] == "I am omni."
    item = events[-1]["response"]["output"][0]
    assert item["content"] == [{"type": "output_audio", "transcript": "I am omni."}]
    (event,) = talk.client("conversation.item.retrieve", item_id=item["id"])
    assert b64decode(event["item"]["content"][0]["audio"]) == silence(320)


def test_an_answer_may_differ_from_its_session() -> None:
    talk = Talk()
    talk.update(instructions="Be long.", tools=[TOOL], max_output_tokens=500)
    (event,) = talk.client(
        "response.create",
        response={
            "output_modalities": ["text"],
            "instructions": "Be brief.",
            "tool_choice": "none",
            "max_output_tokens": 20,
            "metadata": {"client_event_id": "abc", "k": "v"},
            "audio": {"output": {"format": {"type": "audio/pcma"}, "voice": "Ethan"}},
            "prompt": None,
            "reasoning": {"effort": "low"},
            "parallel_tool_calls": True,
        },
    )
    response, answer = event["response"], talk.last(Answer)
    assert response["metadata"] == {"client_event_id": "abc", "k": "v"} and response["max_output_tokens"] == 20
    assert response["audio"]["output"] == {"format": {"type": "audio/pcma"}, "voice": "Ethan"}
    assert (answer.instructions, answer.tools, answer.max_tokens, answer.voice) == ("Be brief.", (), 20, None)
    talk.finish(response["id"])
    talk.respond(modalities=["audio", "text"], voice="Ethan")
    answer = talk.last(Answer)
    assert (answer.instructions, answer.max_tokens, answer.voice) == ("Be long.", 500, "Ethan")
    assert answer.tools[0]["function"]["name"] == "look_up"


def test_speed_is_the_sessions() -> None:
    talk = Talk()
    talk.update(audio={"output": {"speed": 1.5}})
    talk.respond()
    assert talk.last(Answer).speed == 1.5


def test_one_answer_at_a_time() -> None:
    talk = Talk()
    talk.respond()
    found = error(talk.client("response.create", event_id="again"))
    assert (found["code"], found["event_id"]) == ("conversation_already_has_active_response", "again")


def test_an_answer_that_says_nothing() -> None:
    talk = Talk()
    response = talk.respond()
    (event,) = talk.finish(response)
    assert event["response"]["status"] == "completed" and event["response"]["output"] == [] and not talk.items


def test_an_answer_that_met_a_limit() -> None:
    talk = Talk()
    response = talk.respond(max_output_tokens=5)
    talk.text(response, "I see a")
    events = talk.finish(response, "length")
    assert types(events) == SAID
    final = events[-1]["response"]
    assert (final["status"], final["status_details"]) == (
        "incomplete",
        {"type": "incomplete", "reason": "max_output_tokens"},
    )
    assert final["output"][0]["status"] == "incomplete" and final["usage"]["output_tokens"] == 45


def test_an_answer_that_fails() -> None:
    talk = Talk()
    response = talk.respond()
    talk.text(response, "I")
    problem = Problem("no room", 503, "server_error", code="overloaded")
    events = talk.take(talk.protocol.answered(response, problem, talk.now))
    assert types(events) == SAID
    final = events[-1]["response"]
    assert final["status"] == "failed" and final["usage"]["total_tokens"] == 0
    error = {"type": "server_error", "code": "overloaded", "message": "no room"}
    assert final["status_details"] == {"type": "failed", "error": error}
    talk.respond()


# ---- cancelled


def test_cancel() -> None:
    talk = Talk()
    response = talk.respond()
    talk.text(response, "Once upon a time")
    talk.sound(response, 400)
    events = talk.client("response.cancel", event_id="x")
    assert types(events) == SAID
    final = events[-1]["response"]
    assert (final["status"], final["status_details"]) == ("cancelled", {"type": "cancelled", "reason": "client_cancelled"})
    assert talk.last(Stop).response_id == response
    assert talk.sound(response, 100) == talk.finish(response) == []
    found = error(talk.client("response.cancel", event_id="y"))
    assert found["code"] == "response_cancel_not_active" and found["message"].startswith("Cancellation failed")


def test_cancel_before_the_first_word() -> None:
    talk = Talk()
    talk.respond()
    assert types(talk.client("response.cancel")) == ["response.done"]


# ---- cut where it was heard


def told(talk: Talk, sound_ms: int = 1000) -> tuple[str, str]:
    """A spoken answer; gives its id and its item's."""
    talk.say("Tell me a story.")
    response = talk.respond()
    events = talk.text(response, "Once upon a time there was a hen.")
    talk.sound(response, sound_ms)
    return response, events[0]["item"]["id"]


def truncate(talk: Talk, item: str, ms: float, index: int = 0) -> list[Any]:
    return talk.client("conversation.item.truncate", item_id=item, content_index=index, audio_end_ms=ms)


@pytest.mark.parametrize(("asked", "cut"), [(0, 0), (400, 400), (333.7, 333), (1000, 1000), (1500, 1000)])
def test_truncate(asked: float, cut: int) -> None:
    talk = Talk()
    response, item = told(talk)
    talk.finish(response)
    assert truncate(talk, item, asked) == []
    effect = talk.last(Cut)
    assert (effect.item_id, effect.response_id, effect.ms, effect.announced) == (item, response, cut, True)
    (event,) = talk.take(talk.protocol.heard(effect, "Once upon"))
    assert (event["type"], event["item_id"], event["content_index"]) == ("conversation.item.truncated", item, 0)
    assert event["audio_end_ms"] == cut
    (event,) = talk.client("conversation.item.retrieve", item_id=item)
    (content,) = event["item"]["content"]
    assert content["transcript"] == "Once upon" and b64decode(content.get("audio", "")) == silence(cut)


def test_truncate_beyond_the_end() -> None:
    talk = Talk()
    response, item = told(talk)
    talk.finish(response)
    found = error(truncate(talk, item, 1501))
    assert found["param"] == "audio_end_ms" and found["message"] == "Audio content of 1000ms is already shorter than 1501ms"


def test_truncate_again() -> None:
    talk = Talk()
    response, item = told(talk)
    talk.finish(response)
    truncate(talk, item, 600)
    truncate(talk, item, 200)
    assert [cut.ms for cut in talk.all(Cut)] == [600, 200]
    assert error(truncate(talk, item, 800))["param"] == "audio_end_ms"


def test_truncate_of_what_is_still_being_said_ends_it() -> None:
    talk = Talk()
    response, item = told(talk)
    events = truncate(talk, item, 300)
    assert types(events) == SAID and events[-1]["response"]["status"] == "cancelled"
    assert isinstance(talk.commands[-2], Stop) and isinstance(talk.commands[-1], Cut)
    talk.respond()
    assert len(talk.all(Cut)) == 1  # the client has told where; nothing needs to be guessed
    assert talk.sound(response, 100) == []


def test_words_that_cannot_be_told_are_forgotten_when_the_client_asks() -> None:
    talk = Talk()
    response, item = told(talk)
    talk.finish(response)
    truncate(talk, item, 300)
    talk.take(talk.protocol.heard(talk.last(Cut), None))
    assert talk.items[1].parts[0].text == ""


def test_what_else_is_not_truncated() -> None:
    talk = writing()
    question = talk.say("Hello.")
    assert error(truncate(talk, question, 0))["code"] == "item_truncate_invalid_item_id"
    response = talk.respond()
    item = talk.text(response, "Hi.")[0]["item"]["id"]
    assert error(truncate(talk, item, 0))["code"] == "item_truncate_invalid_item_id"
    talk.finish(response)
    talk.update(output_modalities=["audio"])
    response, item = told(talk)
    talk.finish(response)
    assert error(truncate(talk, item, 0, index=1))["param"] == "content_index"
    spoken = {"type": "message", "role": "assistant", "content": [{"type": "output_audio", "transcript": "Hm."}]}
    events = talk.client("conversation.item.create", item=spoken)
    assert error(truncate(talk, events[0]["item"]["id"], 0))["code"] == "item_truncate_invalid_item_id"


def test_a_cut_of_what_was_deleted() -> None:
    talk = Talk()
    response, item = told(talk)
    talk.finish(response)
    truncate(talk, item, 300)
    talk.client("conversation.item.delete", item_id=item)
    assert talk.take(talk.protocol.heard(talk.last(Cut), "Once")) == []
    talk.say("another", id=item)
    assert talk.take(talk.protocol.heard(talk.last(Cut), "Once")) == []
    assert talk.items[-1].parts[0].text == "another"


def test_delete_of_what_is_being_said_ends_it() -> None:
    talk = Talk()
    response, item = told(talk)
    events = talk.client("conversation.item.delete", item_id=item)
    assert types(events) == [*SAID, "conversation.item.deleted"]
    assert [one.id for one in talk.items] == ["item_1"] and talk.finish(response) == []


# ---- beside the conversation


def test_answers_beside_the_conversation() -> None:
    talk = Talk()
    known = talk.say("The word is hen.")
    main = talk.respond()
    (event,) = talk.client(
        "response.create",
        response={
            "conversation": "none",
            "output_modalities": ["text"],
            "metadata": {"topic": "words"},
            "input": [
                {"type": "item_reference", "id": known},
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Which word?"}]},
            ],
        },
    )
    side = event["response"]["id"]
    assert event["response"]["conversation_id"] is None and event["response"]["metadata"] == {"topic": "words"}
    answer = talk.last(Answer)
    assert [item.parts[0].text for item in answer.items] == ["The word is hen.", "Which word?"] and not answer.remembers
    talk.text(main, "Yes.")
    events = talk.text(side, "Hen.") + talk.finish(side)
    assert types(events) == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert {event["response_id"] for event in events[:-1]} == {side} and events[-1]["response"]["metadata"] == {
        "topic": "words"
    }
    assert talk.finish(main)[-1]["response"]["status"] == "completed"
    assert talk.items[0].id == known and len(talk.items) == 2


def test_an_answer_beside_the_conversation_hears_it_unless_told_otherwise() -> None:
    talk = Talk()
    talk.say("Hello.")
    talk.respond(conversation="none")
    assert talk.last(Answer).items == tuple(talk.items)
    talk.respond(conversation="none", input=[])
    assert talk.last(Answer).items == ()


def test_answers_beside_are_cancelled_by_name_and_bounded() -> None:
    talk = Talk(limits=Limits(choices=2))
    first, second = (talk.respond(conversation="none", metadata={"n": str(i)}) for i in range(2))
    assert error(talk.client("response.create", response={"conversation": "none"}))["code"] == "too_many_responses"
    assert error(talk.client("response.cancel"))["code"] == "response_cancel_not_active"
    (event,) = talk.client("response.cancel", response_id=first)
    assert event["response"]["id"] == first and event["response"]["metadata"] == {"n": "0"}
    assert talk.sound(first, 100) == [] and talk.sound(second, 100)
    assert not talk.protocol.is_heard(talk.now)  # it is not played as the conversation is


def test_an_answer_of_the_conversation_to_other_input() -> None:
    talk = writing()
    talk.say("Hello.")
    item = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_audio", "audio": b64encode(silence(100)).decode()}],
    }
    response = talk.respond(input=[item])
    assert [one.parts[0].type for one in talk.last(Answer).items] == ["input_audio"] and not talk.last(Answer).remembers
    talk.text(response, "Hi.")
    talk.finish(response)
    assert [one.role for one in talk.items] == ["user", "assistant"]


# ---- function calls


def test_a_function_call() -> None:
    talk = writing(tools=[TOOL])
    talk.say("What is a hen?")
    response = talk.respond()
    assert talk.last(Answer).tools == (
        {"type": "function", "function": {key: TOOL[key] for key in ("name", "description", "parameters")}},
    )
    assert talk.text(response, *CALL) == []
    events = talk.finish(response)
    assert types(events) == [
        "response.output_item.added",
        "conversation.item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    begun, joined, delta, whole, item_done, output_done, over = events
    call = begun["item"]["call_id"]
    assert begun["item"] == joined["item"] and begun["item"]["status"] == "in_progress" and begun["item"]["arguments"] == ""
    assert (begun["item"]["type"], begun["item"]["name"]) == ("function_call", "look_up")
    for event in (delta, whole):
        assert event["call_id"] == call and event["item_id"] == begun["item"]["id"] and event["output_index"] == 0
    assert delta["delta"] == whole["arguments"] == '{"word":"hen"}' and whole["name"] == "look_up"
    assert item_done["item"] == output_done["item"] and output_done["item"]["status"] == "completed"
    assert over["response"]["status"] == "completed" and over["response"]["output"] == [output_done["item"]]

    talk.client("conversation.item.create", item={"type": "function_call_output", "call_id": call, "output": "A bird."})
    talk.respond()
    assert [item.kind for item in talk.last(Answer).items] == ["message", "function_call", "function_call_output"]


def test_words_before_calls_are_told_and_calls_are_not_spoken() -> None:
    talk = Talk()
    talk.update(tools=[TOOL])
    response = talk.respond()
    events = talk.text(response, "Let me look. ", *(CALL + "\n" + CALL))
    assert types(events) == [*BEGUN, "response.output_audio_transcript.delta"]
    events += talk.sound(response, 300) + talk.finish(response)
    assert events[3]["delta"] == "Let me look." and types(events[4:5]) == ["response.output_audio.delta"]
    assert types(events[5:10]) == SAID[:-1]
    over = events[-1]["response"]
    assert [item["type"] for item in over["output"]] == ["message", "function_call", "function_call"]
    assert len({item["id"] for item in over["output"]}) == 3 and len({item.get("call_id") for item in over["output"]}) == 3
    index = {event["item"]["id"]: event["output_index"] for event in events if event["type"] == "response.output_item.done"}
    assert list(index.values()) == [0, 1, 2]


def test_sound_of_a_call_alone_is_not_heard() -> None:
    talk = Talk()
    talk.update(tools=[TOOL])
    response = talk.respond()
    assert talk.text(response, CALL[:20]) == talk.sound(response, 100) == talk.text(response, CALL[20:]) == []
    assert types(talk.finish(response))[-1] == "response.done" and len(talk.items) == 1


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>nothing",
        "<tool_call>{}</tool_call>",
        '<tool_call>{"name": "look_up", "arguments": 5}</tool_call>',
        '<tool_call>{"name": "other", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "look_up", "arguments": {"word": "he',
    ],
)
def test_a_call_that_is_none(text: str) -> None:
    talk = writing(tools=[TOOL])
    response = talk.respond()
    events = talk.text(response, "Well. ", text) + talk.finish(response)
    final = events[-1]["response"]
    assert final["status"] == "failed" and final["status_details"]["error"]["code"] == "invalid_tool_call"
    assert [item["type"] for item in final["output"]] == ["message"] and final["output"][0]["status"] == "incomplete"
    talk.respond()


def test_a_call_that_was_cut_off_by_a_limit() -> None:
    talk = writing(tools=[TOOL])
    response = talk.respond()
    events = talk.text(response, CALL, CALL[:30]) + talk.finish(response, "length")
    final = events[-1]["response"]
    assert final["status"] == "incomplete" and [item["type"] for item in final["output"]] == ["function_call"]


def test_without_tools_a_call_is_text() -> None:
    talk = writing()
    response = talk.respond()
    events = talk.text(response, CALL) + talk.finish(response)
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "output_text", "text": CALL}]


FORCED = {"type": "function", "name": "look_up"}


@pytest.mark.parametrize(
    ("choice", "must_call"),
    [
        ("auto", False),
        ("required", True),
        (FORCED, "look_up"),
        ({"type": "function", "function": {"name": "look_up"}}, "look_up"),
        ("none", False),
    ],
)
@pytest.mark.parametrize("once", [True, False])
def test_a_call_may_be_asked_for(choice: Any, must_call: bool | str, once: bool) -> None:
    talk = Talk()
    (event,) = talk.update(tools=[TOOL], **({} if once else {"tool_choice": choice}))
    assert event["session"]["tool_choice"] == ("auto" if once else FORCED if isinstance(choice, dict) else choice)
    talk.respond(**({"tool_choice": choice} if once else {}))
    answer = talk.last(Answer)
    assert answer.must_call == must_call and bool(answer.tools) == (choice != "none")


def test_what_must_be_called_is_there() -> None:
    talk = Talk()
    (event,) = talk.update(tool_choice="required")  # the tools may come later
    assert event["type"] == "session.updated"
    talk.respond()
    assert talk.last(Answer).must_call is False
    assert error(talk.update(tool_choice={**FORCED, "name": "other"}))["param"] == "session.tool_choice"


def test_a_model_that_calls_nothing_says_so_at_once() -> None:
    talk = Talk(calls=False)
    found = error(talk.update(tools=[TOOL]))
    assert (found["param"], found["code"]) == ("session.tools", "unsupported_parameter")
    assert talk.update(tools=[])[0]["type"] == "session.updated"
    assert error(talk.client("response.create", response={"tools": [TOOL]}))["param"] == "response.tools"


def test_arguments_of_calls_before_are_objects_or_nothing() -> None:
    talk = Talk()
    for i, arguments in enumerate(("", None, "{}", '{"x": 1}')):
        item = {
            "type": "function_call",
            "call_id": f"c{i}",
            "name": "f",
            "arguments": arguments,
            "role": None,
            "status": None,
        }
        added, _ = talk.client("conversation.item.create", item=item)
        assert added["item"]["arguments"] == (arguments or "{}")
    item = {"type": "function_call", "name": "f", "arguments": "[1]"}
    assert error(talk.client("conversation.item.create", item=item))["param"] == "item.arguments"


def test_unknown_fields_are_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    talk, notices = Talk(), Notices()
    token = current.set(notices)
    try:
        for _ in range(3):
            talk.update(
                temperature=0.8, audio={"input": {"turn_detection": {"type": "server_vad", "mood": 1, "threshold": None}}}
            )
            talk.client("input_audio_buffer.append", audio="AAAA", trace="x", event_id="e")
            talk.client("response.create", response={"commentary": {}, "instructions": "Be brief."})
            talk.client("response.cancel")
        told = ["session.audio.input.turn_detection.mood", "session.temperature", "trace", "response.commentary"]
        assert notices.ignored == told and len(caplog.records) == len(told)
        notices.strict = True
        assert error(talk.update(mood=1))["param"] == "session.mood"
    finally:
        current.reset(token)


@pytest.mark.parametrize(
    ("voice", "speaks"), [("alloy", "Chelsie"), ("ash", "Ethan"), ("coral", "Chelsie"), ("ethan", "Ethan")]
)
def test_the_voice_that_speaks_is_told(voice: str, speaks: str) -> None:
    talk = Talk()
    (event,) = talk.update(audio={"output": {"voice": voice}})
    assert event["session"]["audio"]["output"]["voice"] == speaks
    talk.respond()
    assert talk.last(Answer).voice == speaks


def test_any_name_of_the_model_is_its_name() -> None:
    talk = Talk(names=("omni", "gpt-realtime"))
    (event,) = talk.update(model="gpt-realtime")
    assert event["session"]["model"] == "omni"
    assert error(talk.update(model="gpt-4o"))["param"] == "session.model"
