"""The realtime protocol: what the user says, by hand or by turns that are heard."""

from __future__ import annotations

import itertools
from base64 import b64decode, b64encode

import numpy as np
import pytest

from omni.events import TextDelta
from omni.streaming.audio.turn_detection import SpeechPaused, SpeechResumed, SpeechStarted, SpeechStopped
from omni.streaming.problems import Problem
from omni.streaming.realtime.effects import Deaf, Detect, Listen, Read
from omni.streaming.settings import Limits
from tests.streaming.talk import Answer, Cut, Hear, Release, Stop, Talk, Transcribe, done, error, types

COMMITTED = ["input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"]
STOPPED = ["input_audio_buffer.speech_stopped", *COMMITTED]


def spoken_turn(talk: Talk) -> None:
    """2 seconds of sound, in which somebody speaks from 0.5 to 1.5."""
    talk.append(600)
    talk.speech(SpeechStarted(500))
    talk.append(1400)
    talk.speech(SpeechStopped(1500))


# ---- by hand


def test_manual_turns() -> None:
    talk = Talk()
    talk.manual()
    before = len(talk.commands)
    assert talk.append(60) == talk.append(60) == []
    listen, *reads = talk.commands[before:]
    assert isinstance(listen, Listen) and [len(read.data) for read in reads if isinstance(read, Read)] == [2880, 2880]
    assert not talk.all(Hear)
    events = talk.client("input_audio_buffer.commit")
    assert types(events) == COMMITTED
    committed, added, _ = events
    assert committed["previous_item_id"] is None and committed["item_id"] == added["item"]["id"] == talk.items[0].id
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    assert not talk.all(Answer)
    talk.respond()
    assert talk.last(Answer).items == tuple(talk.items) and talk.last(Answer).remembers
    talk.append(200)
    assert talk.client("input_audio_buffer.commit")[0]["previous_item_id"] == committed["item_id"]


def test_too_little_is_not_committed() -> None:
    talk = Talk()
    talk.manual()
    talk.append(99)
    assert error(talk.client("input_audio_buffer.commit"))["code"] == "input_audio_buffer_commit_empty"
    talk.append(1)
    assert types(talk.client("input_audio_buffer.commit")) == COMMITTED


def test_clear() -> None:
    talk = Talk()
    talk.manual()
    talk.append(500)
    assert types(talk.client("input_audio_buffer.clear")) == ["input_audio_buffer.cleared"]
    assert isinstance(talk.commands[-1], Deaf)
    assert error(talk.client("input_audio_buffer.commit"))["code"] == "input_audio_buffer_commit_empty"


def test_the_buffer_is_bounded() -> None:
    talk = Talk(limits=Limits(buffered_seconds=1))
    talk.manual()
    talk.append(900)
    assert error(talk.append(200))["code"] == "input_audio_buffer_full"
    talk.append(100)
    assert types(talk.client("input_audio_buffer.commit")) == COMMITTED
    assert talk.items[0].parts[0].ms == 1000


@pytest.mark.parametrize("format", ["audio/pcmu", "audio/pcma"])
def test_formats_of_telephones(format: str) -> None:
    talk = Talk()
    talk.update(audio={"input": {"format": {"type": format}, "turn_detection": None}})
    talk.append(200, format)
    talk.client("input_audio_buffer.commit")
    part = talk.items[0].parts[0]
    assert (part.format, part.ms, len(part.sound)) == (format, 200, 1600)
    (event,) = talk.client("conversation.item.retrieve", item_id=talk.items[0].id)
    assert len(b64decode(event["item"]["content"][0]["audio"])) == 1600


def test_the_format_stays_while_something_is_said() -> None:
    talk = Talk()
    talk.manual()
    talk.append(200)
    found = error(talk.update(audio={"input": {"format": {"type": "audio/pcmu"}}}))
    assert found["param"] == "session.audio.input.format"
    talk.client("input_audio_buffer.clear")
    assert types(talk.update(audio={"input": {"format": {"type": "audio/pcmu"}}})) == ["session.updated"]


def test_what_was_held_before_turns_were_told_by_hand_is_no_part_of_them() -> None:
    talk = Talk()
    talk.append(800)
    talk.manual()
    talk.append(100)
    talk.client("input_audio_buffer.commit")
    assert talk.items[0].parts[0].ms == 100


def test_what_is_said_is_read_behind_the_newest_conversation() -> None:
    talk = Talk()
    talk.manual()
    talk.append(100)
    id = talk.say("And look at this.")
    listen, read = talk.commands[-2:]
    assert isinstance(listen, Listen) and [item.id for item in listen.items] == [id]
    assert isinstance(read, Read) and len(read.data) == 4800
    talk.update(instructions="Be brief.")
    listen, read = talk.commands[-2:]
    assert isinstance(listen, Listen) and listen.instructions == "Be brief." and isinstance(read, Read)
    talk.client("conversation.item.delete", item_id=id)
    assert isinstance(talk.commands[-2], Listen) and not talk.commands[-2].items


# ---- turns that are heard


def test_a_turn() -> None:
    talk = Talk()
    talk.append(600)
    assert talk.last(Hear).data == bytes(600 * 48)
    events = talk.speech(SpeechStarted(500))
    assert types(events) == ["input_audio_buffer.speech_started"]
    assert events[0]["audio_start_ms"] == 500
    assert len(talk.last(Read).data) == 100 * 48
    talk.append(1400)
    assert len(talk.last(Read).data) == 1400 * 48
    events += talk.speech(SpeechStopped(1500))
    assert types(events[1:]) == [*STOPPED, "response.created"]
    assert events[1]["audio_end_ms"] == 1500
    assert {event["item_id"] for event in events[:3]} == {talk.items[0].id}
    assert talk.items[0].parts[0].ms == 1000
    answer = talk.last(Answer)
    assert answer.items == (talk.items[0],) and not answer.held and answer.voice == "Chelsie"
    assert isinstance(talk.commands[-2], Deaf)


def test_turns_follow_each_other_in_one_piece_of_sound() -> None:
    talk = Talk()
    talk.update(audio={"input": {"turn_detection": {"create_response": False}}})
    talk.append(9000)
    talk.speech(SpeechStarted(1000), SpeechStopped(2000), SpeechStarted(5000), SpeechStopped(8500))
    assert [item.parts[0].ms for item in talk.items] == [1000, 3500]
    assert not talk.all(Answer)


def test_sound_that_nobody_says_is_not_kept() -> None:
    talk = Talk()
    for _ in range(50):
        talk.append(1000)
    talk.speech(SpeechStarted(49_500))
    assert len(talk.last(Read).data) == 500 * 48
    talk.client("input_audio_buffer.clear")
    talk.append(1000)
    talk.speech(SpeechStarted(3000))  # long gone
    assert len(talk.last(Read).data) == 1000 * 48


def test_who_goes_on_and_on_is_answered_at_last() -> None:
    talk = Talk(limits=Limits(buffered_seconds=3))
    talk.append(600)
    talk.speech(SpeechStarted(100))
    talk.append(2000)
    events = talk.append(900)
    assert types(events) == [*STOPPED, "response.created"]
    assert events[0]["audio_end_ms"] == 2600 and talk.items[0].parts[0].ms == 2500
    assert talk.last(Detect).start_ms == 2600


def test_a_turn_may_be_committed_or_cleared_by_hand() -> None:
    talk = Talk()
    talk.append(600)
    (started,) = talk.speech(SpeechStarted(400))
    events = talk.client("input_audio_buffer.commit")
    assert types(events) == COMMITTED and events[0]["item_id"] == started["item_id"]
    assert talk.items[0].parts[0].ms == 200
    assert isinstance(talk.commands[-1], Detect) and talk.commands[-1].start_ms == 600
    talk.append(600)
    talk.speech(SpeechStarted(700))
    talk.client("input_audio_buffer.clear")
    assert talk.speech(SpeechPaused(1000), SpeechResumed(), SpeechStopped(1100)) == []


def test_another_detection_ends_a_turn() -> None:
    talk = Talk()
    talk.append(600)
    talk.speech(SpeechStarted(400))
    talk.update(audio={"input": {"turn_detection": {"type": "semantic_vad"}}})
    assert isinstance(talk.commands[-1], Detect)
    assert talk.speech(SpeechStopped(600)) == []
    talk.speech(SpeechStarted(500))
    talk.manual()
    talk.client("input_audio_buffer.commit")
    assert talk.items[0].parts[0].ms == 100


def test_a_turn_without_room_is_lost_aloud() -> None:
    talk = Talk(limits=Limits(items=1))
    talk.say("one")
    talk.append(1000)
    events = talk.speech(SpeechStarted(300), SpeechPaused(800), SpeechStopped(1000))
    assert types(events) == ["input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "error"]
    assert events[-1]["error"]["code"] == "conversation_full" and len(talk.items) == 1


# ---- answers begun on trial


def test_an_answer_begins_at_a_pause_and_is_told_at_the_end() -> None:
    talk = Talk()
    talk.append(1000)
    talk.speech(SpeechStarted(300))
    assert talk.speech(SpeechPaused(900)) == []
    answer = talk.last(Answer)
    assert answer.held and answer.items[-1].parts[0].ms == 700 and not talk.items
    talk.append(300)
    events = talk.speech(SpeechStopped(1200))
    assert types(events) == [*STOPPED, "response.created"]
    assert events[-1]["response"]["id"] == answer.response_id and talk.last(Release).response_id == answer.response_id
    assert talk.items == [answer.items[-1]] and talk.items[0].id == events[0]["item_id"]
    assert len(talk.all(Answer)) == 1
    talk.text(answer.response_id, "Yes.")
    assert talk.finish(answer.response_id)[-1]["response"]["status"] == "completed"


def test_who_goes_on_is_not_answered_yet() -> None:
    talk = Talk()
    talk.append(1000)
    talk.speech(SpeechStarted(300), SpeechPaused(900))
    first = talk.last(Answer)
    assert talk.speech(SpeechResumed()) == [] and talk.last(Stop).response_id == first.response_id
    assert talk.text(first.response_id, "No.") == [] and talk.finish(first.response_id) == []
    talk.speech(SpeechPaused(980))
    second = talk.last(Answer)
    assert second.held and second.response_id != first.response_id
    talk.speech(SpeechStopped(1000))
    assert talk.last(Release).response_id == second.response_id


def test_what_changes_the_conversation_voids_the_trial() -> None:
    talk = Talk()
    talk.append(1000)
    talk.speech(SpeechStarted(300), SpeechPaused(900))
    talk.say("Wait.")
    assert talk.last(Stop).response_id == talk.last(Answer).response_id
    talk.speech(SpeechStopped(1000))
    answer = talk.last(Answer)
    assert not answer.held and [item.id for item in answer.items] == [item.id for item in talk.items]
    assert len(talk.all(Answer)) == 2


def test_an_answer_that_was_asked_for_comes_before_the_trial() -> None:
    talk = Talk()
    talk.append(1000)
    talk.speech(SpeechStarted(300), SpeechPaused(900))
    trial = talk.last(Answer)
    talk.respond()
    assert talk.last(Stop).response_id == trial.response_id
    events = talk.speech(SpeechStopped(1000))
    assert types(events) == [*STOPPED, "error"]
    assert events[-1]["error"]["code"] == "conversation_already_has_active_response"


def test_no_trial_where_turns_are_not_answered() -> None:
    talk = Talk()
    talk.update(audio={"input": {"turn_detection": {"create_response": False}}})
    talk.append(1000)
    talk.speech(SpeechStarted(300), SpeechPaused(900), SpeechStopped(1000))
    assert not talk.all(Answer)


# ---- barge-in


def speaking(talk: Talk, *, sound_ms: int = 1000) -> str:
    talk.say("Tell me a story.")
    response = talk.respond()
    talk.text(response, "Once upon a time there was a hen.")
    talk.sound(response, sound_ms)
    return response


def test_barge_in() -> None:
    talk = Talk()
    response = speaking(talk)
    assert talk.protocol.is_heard(talk.now + 0.99) and not talk.protocol.is_heard(talk.now + 1)
    talk.now += 0.4
    talk.append(500)
    events = talk.speech(SpeechStarted(100))
    assert types(events) == [
        "input_audio_buffer.speech_started",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
    ]
    assert events[4]["item"]["status"] == events[5]["item"]["status"] == "incomplete"
    final = events[-1]["response"]
    assert (final["status"], final["status_details"]) == ("cancelled", {"type": "cancelled", "reason": "turn_detected"})
    assert talk.last(Stop).response_id == response and not talk.protocol.is_heard(talk.now)
    assert talk.text(response, "More.") == talk.sound(response, 100) == talk.finish(response) == []


def test_without_interruption_an_answer_goes_on() -> None:
    talk = Talk()
    talk.update(audio={"input": {"turn_detection": {"interrupt_response": False}}})
    response = speaking(talk)
    talk.append(1500)
    events = talk.speech(SpeechStarted(100), SpeechPaused(900), SpeechStopped(1200))
    assert types(events) == ["input_audio_buffer.speech_started", *STOPPED, "error"]
    assert events[-1]["error"]["code"] == "conversation_already_has_active_response"
    assert types(talk.sound(response, 100)) == ["response.output_audio.delta"]
    assert talk.finish(response)[-1]["response"]["status"] == "completed"


def test_words_that_were_not_heard_are_cut_though_the_client_says_nothing() -> None:
    talk = Talk()
    response = speaking(talk)
    talk.now += 0.4
    talk.append(500)
    talk.speech(SpeechStarted(100))
    assert not talk.all(Cut)
    talk.speech(SpeechStopped(500))
    cut, answer = talk.last(Cut), talk.last(Answer)
    assert (cut.response_id, cut.ms, cut.announced) == (response, 400, False)
    assert talk.commands.index(cut) < talk.commands.index(answer)
    assert talk.take(talk.protocol.heard(cut, "Once upon")) == []
    assert answer.items[1].parts[0].text == "Once upon"


def test_an_answer_that_was_told_whole_and_still_plays_is_cut_too() -> None:
    talk = Talk()
    response = speaking(talk, sound_ms=3000)
    talk.finish(response)
    talk.now += 1
    talk.append(500)
    assert types(talk.speech(SpeechStarted(100))) == ["input_audio_buffer.speech_started"]
    talk.speech(SpeechStopped(500))
    assert talk.last(Cut).ms == 1000


def test_an_answer_that_was_heard_whole_is_not_cut() -> None:
    talk = Talk()
    talk.finish(speaking(talk))
    talk.now += 1.5
    spoken_turn(talk)
    assert not talk.all(Cut)


def test_a_client_that_tells_knows_better() -> None:
    talk = Talk()
    speaking(talk)
    talk.now += 0.4
    talk.append(500)
    talk.speech(SpeechStarted(100))
    item = talk.items[1]
    assert talk.client("conversation.item.truncate", item_id=item.id, content_index=0, audio_end_ms=300) == []
    cut = talk.last(Cut)
    (event,) = talk.take(talk.protocol.heard(cut, "Once"))
    assert event["type"] == "conversation.item.truncated" and event["audio_end_ms"] == 300
    assert isinstance(talk.commands[-2], Listen)  # the user is speaking behind other words now
    talk.speech(SpeechStopped(500))
    assert talk.all(Cut) == [cut]


# ---- silence


def test_silence_that_lasts_is_answered() -> None:
    talk = Talk()
    talk.update(audio={"input": {"turn_detection": {"idle_timeout_ms": 5000}}})
    for _ in range(10):
        assert talk.append(1000) == []  # nobody has said anything yet
    talk.finish(speaking(talk, sound_ms=2000))
    for _ in range(2):
        assert talk.append(1000) == []  # it is still being heard
        talk.now += 1
    for _ in range(4):
        assert talk.append(1000) == []
        talk.now += 1
    events = talk.append(1000)
    assert types(events) == ["input_audio_buffer.timeout_triggered", *COMMITTED, "response.created"]
    assert (events[0]["audio_start_ms"], events[0]["audio_end_ms"]) == (12_000, 17_000)
    assert events[0]["item_id"] == talk.items[-1].id and talk.items[-1].parts[0].ms == 5000
    for _ in range(10):
        assert talk.append(1000) == []  # the answer is being made
    talk.finish(events[-1]["response"]["id"])


def test_a_turn_is_no_silence() -> None:
    talk = Talk()
    talk.update(audio={"input": {"turn_detection": {"idle_timeout_ms": 5000}}})
    talk.finish(speaking(talk))
    talk.now += 5
    talk.append(3000)
    talk.speech(SpeechStarted(2500))
    assert talk.append(4000) == []


# ---- what was said, written down


def transcribing(talk: Talk) -> Transcribe:
    talk.update(audio={"input": {"transcription": {"model": "whisper-1"}, "turn_detection": None}})
    talk.append(300)
    assert types(talk.client("input_audio_buffer.commit")) == COMMITTED
    asked = talk.last(Transcribe)
    assert asked.item_id == talk.items[0].id and asked.part is talk.items[0].parts[0]
    return asked


def test_transcription() -> None:
    talk = Talk()
    asked = transcribing(talk)
    events = [
        talk.take(talk.protocol.transcribed(asked, told))[0] for told in (TextDelta("What "), TextDelta("moves?"), done())
    ]
    kind = "conversation.item.input_audio_transcription"
    assert types(events) == [f"{kind}.delta", f"{kind}.delta", f"{kind}.completed"]
    assert all(event["item_id"] == asked.item_id and event["content_index"] == 0 for event in events)
    assert [event["delta"] for event in events[:2]] == ["What ", "moves?"]
    assert events[2]["transcript"] == "What moves?"
    assert events[2]["usage"] == {
        "type": "tokens",
        "total_tokens": 35,
        "input_tokens": 30,
        "output_tokens": 5,
        "input_token_details": {"text_tokens": 24, "audio_tokens": 6},
    }
    (event,) = talk.client("conversation.item.retrieve", item_id=asked.item_id)
    assert event["item"]["content"][0]["transcript"] == "What moves?"


def test_a_transcription_that_fails() -> None:
    talk = Talk()
    asked = transcribing(talk)
    (event,) = talk.take(talk.protocol.transcribed(asked, Problem("too many", 503, "server_error", code="overloaded")))
    assert event["type"] == "conversation.item.input_audio_transcription.failed"
    assert event["error"] == {"type": "server_error", "code": "overloaded", "message": "too many", "param": None}


def test_a_transcription_of_what_was_deleted() -> None:
    talk = Talk()
    asked = transcribing(talk)
    talk.client("conversation.item.delete", item_id=asked.item_id)
    assert talk.take(talk.protocol.transcribed(asked, done())) == []
    talk.say("another", id=asked.item_id)
    assert talk.take(talk.protocol.transcribed(asked, TextDelta("x"))) == []


def test_a_session_that_only_writes_down() -> None:
    talk = Talk(kind="transcription")
    talk.append(1000)
    events = talk.speech(SpeechStarted(100), SpeechPaused(700), SpeechStopped(900))
    assert types(events) == ["input_audio_buffer.speech_started", *STOPPED]
    assert talk.all(Transcribe) and not talk.all(Answer) and not talk.all(Listen)
    assert "transcription" in error(talk.client("response.create"))["message"]


@pytest.mark.parametrize("sizes", [[1], [3], [2401, 2399], [7, 0, 4793]])
def test_a_sample_may_be_split_between_two_events(sizes: list[int]) -> None:
    talk = Talk()
    talk.manual()
    sound = np.arange(-2400, 2400, dtype="<i2").tobytes()
    at = 0
    for size in itertools.cycle(sizes):
        assert talk.client("input_audio_buffer.append", audio=b64encode(sound[at : at + size]).decode()) == []
        at += size
        if at >= len(sound):
            break
    talk.client("input_audio_buffer.commit")
    (item,) = talk.protocol._state.conversation
    assert item.parts[0].sound == sound


@pytest.mark.parametrize("ends", ["commit", "clear"])
def test_what_is_over_leaves_no_half_sample(ends: str) -> None:
    talk = Talk()
    talk.manual()
    for part in (b"\1\0" * 2400 + b"\7", b"\2\0" * 2400):
        talk.client("input_audio_buffer.append", audio=b64encode(part).decode())
        if part[0] == 1:
            talk.client(f"input_audio_buffer.{ends}")
    talk.client("input_audio_buffer.commit")
    *_, item = talk.protocol._state.conversation
    assert item.parts[0].sound == b"\2\0" * 2400
