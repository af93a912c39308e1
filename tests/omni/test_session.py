"""Conversations: how a turn came in changes nothing, and what was read is not read again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni import Capabilities, Done, Omni, Options, Reply, TextDelta
from omni.encoders import mel
from omni.encoders.features import Sound
from omni.engine.outbox import Outbox
from omni.engine.request import Request
from omni.errors import CapacityError, InputError, MediaError, MediaLimitError, MessageError, VoiceError
from omni.events import collect
from omni.prompt.prompt import Prompt
from omni.prompt.reader import PromptReader
from omni.prompt.template import DEFAULT, Template
from omni.recent import Recent
from omni.script import narration
from omni.script.wording import Wording
from omni.session import AGAIN, Forgotten, Session
from tests.oracle.tiny import tiny

RATE = 16000
OPTIONS: dict[str, Any] = {"max_tokens": 4, "seed": 3, "max_audio_seconds": 0.1}
PIXELS = np.random.default_rng(0).integers(0, 255, (84, 112, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(tiny("7b-like"), dtype="float32", progress=False)


def sound(seconds: float, seed: int = 0, rate: int = RATE) -> NDArray[np.float32]:
    """Noise that swells and fades, like words."""
    t = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (0.1 * noise * (1.1 + np.sin(7 * t))).astype(np.float32)


def answer(session: Session, **options: Any) -> Reply:
    return collect(session.respond(**options), 24000, spoken=session.voice is not None)


def say(session: Session, wave: NDArray[np.float32], rate: int, rng: Random) -> None:
    """Append a sound in pieces of any size, each read as far as can be before the next comes."""
    at = 0
    while at < len(wave):
        size = round(rate * rng.choice([0.001, 0.02, 0.25, 0.7, 2.0, 5.1]))
        session.append_audio(wave[at : at + size], rate)
        session.settle()
        at += size


@contextmanager
def read_ahead(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Prompt, list[bytes]]]]:
    """What sessions have read ahead meanwhile: prompts, and their blocks' keys."""
    found, submit = list[tuple[Prompt, list[bytes]]](), omni.engine.submit

    def noted(requests: list[Request], outbox: Outbox) -> None:
        found.extend((r.prompt, [*r.block_keys]) for r in requests if r.prefill_only)
        submit(requests, outbox)

    with monkeypatch.context() as patch:
        patch.setattr(omni.engine, "submit", noted)
        yield found


def fresh_reader(omni: Omni) -> PromptReader:
    """One that remembers nothing."""
    return replace(omni.runtime.reader, recent=Recent(0))


@contextmanager
def rows_read(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Rows of prompts that thinker and talker read meanwhile."""
    assert omni.runtime.speak
    read = {"think": 0, "speak": 0}
    with monkeypatch.context() as patch:
        for name, runner in (("think", omni.runtime.think.runner), ("speak", omni.runtime.speak.runner)):
            advance = runner.advance

            def noted(sequences: Any, rows: Any, positions: Any, name: str = name, advance: Any = advance) -> Any:
                read[name] += sum(len(r) for r in rows if len(r) > 1)
                return advance(sequences, rows, positions)

            patch.setattr(runner, "advance", noted)
        yield read


@contextmanager
def caches_at_the_end(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """Keys and values of thinker and talker, `[L, rows, K, D]` each, that the answer made meanwhile leaves behind."""
    rows, admission = list[Tensor](), omni.engine._admission
    with monkeypatch.context() as patch:
        release = admission.release

        def look(request: Request) -> None:
            if request.options.max_tokens == OPTIONS["max_tokens"] and not request.prefill_only:
                for cache, held in admission._held(request):
                    rows.extend(
                        x[:, held.blocks].flatten(1, 2)[:, : held.length].clone()
                        for x in (cache.store.keys, cache.store.values)
                    )
            release(request)

        patch.setattr(admission, "release", look)
        yield rows


@pytest.mark.parametrize("rate", [16000, 48000])
def test_a_turn_in_pieces_equals_the_whole(omni: Omni, rate: int) -> None:
    wave, rng = sound(7.3, rate=rate), Random(1)
    parts = [
        {"type": "image", "image": PIXELS},
        {"type": "audio", "audio": (wave, rate)},
        {"type": "text", "text": "What was that?"},
    ]
    expected = omni.generate([{"role": "user", "content": parts}], voice="Ethan", **OPTIONS)
    for _ in range(3):
        session = omni.session(voice="Ethan", **OPTIONS)
        session.append_image(PIXELS)
        at = 0
        while at < len(wave):
            size = rng.choice([160, 1000, 8000, 50000, 200000])
            session.append_audio(wave[at : at + size], rate)
            at += size
        session.append_text("What was that?")
        reply = answer(session)
        assert reply.text == expected.text
        assert reply.done.codes == expected.done.codes


def test_turns_equal_one_call_with_the_whole_past(omni: Omni) -> None:
    session = omni.session(system="You are brief.", voice="Chelsie", **OPTIONS)
    for i in range(3):
        session.append_audio(sound(2.5, seed=i), RATE)
        session.append_text(f"And number {i}?")
        before = [*session.messages]
        reply = answer(session)
        user, assistant = session.messages[-2:]
        assert assistant == {"role": "assistant", "content": reply.text}
        omni.engine.call(omni.runtime.think.runner.cache.blocks.forget)
        expected = omni.generate([*before, user], voice="Chelsie", **OPTIONS)
        assert (reply.text, reply.done.codes) == (expected.text, expected.done.codes)


def late_peak(seconds: float, rate: int) -> NDArray[np.float32]:
    """Words between silences, and a shout at the end: all before it is then another sound to the model."""
    wave = sound(seconds, rate=rate) * (np.arange(round(seconds * rate)) // rate % 2).astype(np.float32)
    wave[-rate // 5 :] += sound(0.2, seed=1, rate=rate)[: rate // 5] * 40
    return wave / np.float32(32)


def even(seconds: float, rate: int) -> NDArray[np.float32]:
    return sound(seconds, rate=rate)


def silence(seconds: float, rate: int) -> NDArray[np.float32]:
    return np.zeros(round(seconds * rate), np.float32)


def ever_louder(seconds: float, rate: int) -> NDArray[np.float32]:
    return late_peak(seconds, rate) * np.geomspace(1e-3, 1, round(seconds * rate)).astype(np.float32)


@pytest.mark.parametrize(
    ("wave", "rate"),
    [
        (even, 16000),
        (even, 44100),
        (even, 8000),
        (silence, 16000),
        (late_peak, 16000),
        (late_peak, 44100),
        (ever_louder, 8000),
    ],
)
def test_what_is_read_ahead_is_what_a_fresh_read_gives(
    omni: Omni, wave: Callable[[float, int], NDArray[np.float32]], rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids, positions, log-mel, keys of blocks, and so the answer; behind words, pictures and earlier turns too."""
    rng, reader, page = Random(rate), fresh_reader(omni), omni.engine.block_size
    session = omni.session(system="You are brief.", voice="Ethan", **OPTIONS)
    for turn in range(2):
        session.append_text(f"Hear {turn}.")
        session.append_image(np.roll(PIXELS, turn))
        with read_ahead(omni, monkeypatch) as ahead:
            say(session, wave(6.3 + turn, rate), rate, rng)
            if turn:
                session.append_text("And then?")
                say(session, wave(4.5, rate), rate, rng)
            reply = answer(session)
        assert len(ahead) >= 1 + turn
        asked = session.messages[:-1]
        whole = reader.read(asked, speaking=True)
        for prompt, keys in ahead:
            n = prompt.num_tokens
            assert n == len(keys) * page > 0
            assert torch.equal(prompt.ids, whole.ids[:n])
            assert torch.equal(prompt.positions, whole.positions[:, :n])
            assert torch.equal(prompt.is_media, whole.is_media[:n])
            assert reader.block_keys(prompt, page) == keys
        if wave in (even, silence):
            longest = max((keys for _, keys in ahead), key=len)
            assert longest == reader.block_keys(whole, page)[: len(longest)]
        told = omni.runtime.request(asked, "Ethan", session._options, known=session._known)
        assert told.block_keys == reader.block_keys(whole, page)
        for ours, theirs in zip(told.prompt.media, whole.media, strict=True):
            assert ours.digest == theirs.digest
        omni.engine.call(omni.runtime.think.runner.cache.blocks.forget)
        expected = omni.generate(asked, voice="Ethan", **OPTIONS)
        assert (reply.text, reply.done.codes) == (expected.text, expected.done.codes)


def test_a_sound_that_gets_louder_and_louder_is_read_again_a_few_times_at_most(
    omni: Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    wave = np.tile(late_peak(2, RATE), 20) * np.geomspace(1e-4, 1, 40 * RATE).astype(np.float32)
    session = omni.session(**OPTIONS)
    with read_ahead(omni, monkeypatch) as ahead:
        for at in range(0, len(wave), RATE // 2):
            session.append_audio(wave[at : at + RATE // 2], RATE)
            session.settle()
    blocks = [[medium.digest for medium in prompt.media if isinstance(medium, Sound)] for prompt, _ in ahead]
    again = 0
    for before, after in pairwise(blocks):
        again += next((len(before) - i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), 0)
    assert 0 < again <= AGAIN * 19
    assert 4 < len(blocks) < 19, "it has to wait sometimes"
    reply = answer(session)
    omni.engine.call(omni.runtime.think.runner.cache.blocks.forget)
    assert reply.text == omni.generate(session.messages[:-1], **OPTIONS).text


def test_nothing_that_came_before_is_worked_on_again(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"blocks": 0, "renderings": 0}
    log_power, template = mel._log_power, omni.runtime.reader.template
    render = template.render

    def powered(*args: Any) -> Any:
        counts["blocks"] += 1
        return log_power(*args)

    def rendered(*args: Any, **how: Any) -> Any:
        counts["renderings"] += 1
        return render(*args, **how)

    session = omni.session(voice="Ethan", **OPTIONS)
    session.append_image(PIXELS)
    session.append_audio(sound(3.0), RATE)
    answer(session)
    monkeypatch.setattr(mel, "_log_power", powered)
    monkeypatch.setattr(template, "render", rendered)
    wave = sound(30, seed=4)
    for at in range(0, len(wave), RATE // 4):
        session.append_audio(wave[at : at + RATE // 4], RATE)
        session.settle()
    assert counts == {"blocks": 14, "renderings": 1}
    answer(session)
    assert counts == {"blocks": 16, "renderings": 2}  # the rest of the sound, and silence where its maximum might lie


def test_a_sound_that_is_refused_leaves_what_was_said(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = omni.runtime.reader
    assert reader.mel
    monkeypatch.setattr(omni.runtime, "reader", replace(reader, mel=replace(reader.mel, chunk_length=3)))
    session = omni.session(**OPTIONS)
    session.append_audio(sound(2.5), RATE)
    with pytest.raises(MediaLimitError, match=r"3\.5 s.*3 s"):
        session.append_audio(sound(1.0), RATE)
    with pytest.raises(MediaError, match="no sample rate"):
        session.append_audio(sound(1.0), 0)
    assert answer(session).text == omni.generate(session.messages[:-1], **OPTIONS).text
    session.append_audio(sound(0.01), RATE)
    for _ in range(2):
        with pytest.raises(MediaError, match=r"content\[0\].*too short"):
            answer(session)
    session.begin([])
    session.append_audio(sound(0.0), RATE)
    with pytest.raises(MessageError, match="nothing to respond to"):
        answer(session)


def test_a_model_without_ears_or_eyes_says_so(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    assert omni.capabilities == Capabilities(hears=True, sees=True, speaks=True)
    reader = fresh_reader(omni)
    wave, heard = sound(1.0), {"type": "audio", "audio": (sound(1.0), RATE)}
    shown = ({"type": "image", "image": PIXELS}, {"type": "video", "video": [PIXELS, PIXELS]})
    monkeypatch.setattr(omni.runtime, "reader", replace(reader, ears=None, mel=None))
    assert omni.capabilities == Capabilities(hears=False, sees=True, speaks=True)
    session = omni.session(**OPTIONS)
    with pytest.raises(MediaError, match="this model does not hear"):
        session.append_audio(wave, RATE)
    with pytest.raises(MediaError, match=r"messages\[0\].content\[0\]: this model does not hear"):
        omni.generate([{"role": "user", "content": [heard]}])
    session.append_image(PIXELS)
    assert answer(session).usage.image_tokens > 0
    monkeypatch.setattr(omni.runtime, "reader", replace(reader, eyes=None, pixels=None))
    assert omni.capabilities == Capabilities(hears=True, sees=False, speaks=True)
    session = omni.session(**OPTIONS)
    with pytest.raises(MediaError, match="this model does not see"):
        session.append_image(PIXELS)
    with pytest.raises(MediaError, match="this model does not see"):
        session.append_frames([PIXELS, PIXELS], 2.0)
    for part in shown:
        with pytest.raises(MediaError, match=r"content\[0\]: this model does not see"):
            omni.generate([{"role": "user", "content": [part]}])
    session.append_audio(wave, RATE)
    assert answer(session).usage.audio_tokens == 25


def test_what_is_left_to_read_does_not_grow_with_the_turn(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    left = {}
    for seconds in (3, 21):
        session = omni.session(voice="Ethan", **OPTIONS)
        for at in range(0, seconds * RATE, RATE // 4):
            session.append_audio(sound(seconds, seed=seconds)[at : at + RATE // 4], RATE)
            omni.engine.call(lambda: None)
        session.settle()
        with rows_read(omni, monkeypatch) as read:
            answer(session)
        left[seconds] = dict(read)
    most = 64 + 50 + 2 * 64  # of a page, of a block, and the end of the turn, byte by byte
    assert max(max(read.values()) for read in left.values()) <= most, left


def test_what_is_left_to_read_does_not_grow_with_the_past(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    session, left = omni.session(voice="Ethan", **OPTIONS), []
    for i in range(8):
        session.append_text(f"Question {i} of many")
        with rows_read(omni, monkeypatch) as read:
            answer(session)
        left.append(dict(read))
    assert max(left[-1].values()) <= max(left[1].values()) + 64, left


def test_a_closed_answer_is_remembered_as_far_as_it_was_told(omni: Omni) -> None:
    session = omni.session(max_tokens=500, seed=1)
    session.append_text("Tell me everything.")
    events = session.respond()
    told = [next(events), next(events)]
    events.close()
    assert session.messages[-1] == {"role": "assistant", "content": "".join(e.text for e in told)}
    session.append_text("And then?")
    assert isinstance(list(session.respond(max_tokens=2))[-1], Done)
    assert len(session.messages) == 4


def test_refusals_lose_nothing(omni: Omni) -> None:
    session = omni.session(max_tokens=2)
    with pytest.raises(MessageError, match="nothing to respond to"):
        session.respond()
    session.append_text("Hm?")
    with pytest.raises(MediaError, match="nowhere"):
        session.append_image("nowhere.png")
    with pytest.raises(MediaError, match="float64"):
        session.append_audio(np.zeros(100), RATE)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(MediaError, match="finite"):
        session.append_audio(np.full(100, np.nan, np.float32), RATE)
    assert answer(session).usage.text_tokens == 2
    assert session.messages[0] == {"role": "user", "content": [{"type": "text", "text": "Hm?"}]}
    with pytest.raises(VoiceError):
        omni.session(voice="Nobody")


@pytest.mark.parametrize("played_ms", [0.0, 30.0, 70.0, 1e6])
@pytest.mark.parametrize("still_running", [True, False])
def test_after_an_interruption_only_what_was_heard_was_said(
    omni: Omni, played_ms: float, still_running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = omni.session(voice="Ethan", **(OPTIONS | {"max_audio_seconds": 5.0 if still_running else 0.1}))
    session.append_audio(sound(2.2), RATE)
    events = session.respond(max_tokens=12)
    told = [next(events)] if still_running else list(events)
    heard = session.interrupt(played_ms)
    told += list(events)
    done = told[-1]
    assert isinstance(done, Done)
    assert done.finish_reason == ("interrupted" if still_running else "length")
    text = "".join(e.text for e in told if isinstance(e, TextDelta))
    assert text.startswith(heard)
    if not still_running:  # told again, of another moment
        assert session.interrupt(0) == ""
        assert session.interrupt(1e6).startswith(heard)
        assert session.interrupt(played_ms) == heard
    if played_ms == 0:
        assert heard == ""
    if played_ms == 1e6 and not still_running:
        assert len(heard) > 0
    assert session.messages[-1] == {"role": "assistant", "content": heard}
    fresh = omni.session(voice="Ethan", **OPTIONS)
    fresh.messages = [*session.messages]
    for each in (session, fresh):
        each.append_text("Go on.")
    replies = []
    for each in (session, fresh):
        if each is fresh:  # reads all again
            for stage in (omni.runtime.think, omni.runtime.speak):
                assert stage
                omni.engine.call(stage.runner.cache.blocks.forget)
        with caches_at_the_end(omni, monkeypatch) as rows:
            replies.append((answer(each, max_audio_seconds=0.1), rows))
    (reply, rows), (expected, expected_rows) = replies
    assert reply.text == expected.text
    assert reply.done.codes == expected.done.codes
    assert len(rows) == 4
    for held, expected_held in zip(rows, expected_rows, strict=True):
        torch.testing.assert_close(held, expected_held, rtol=0, atol=1e-5)
    with pytest.raises(MessageError, match="no answer to interrupt"):
        omni.session().interrupt(0)


def test_words_are_timed_behind_the_prompt_that_was_answered_tools_included(
    omni: Omni, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, asked = omni.runtime, list[Prompt]()
    runtime.warm_up()
    template = Template("{{ tools }}" + DEFAULT, ["<|im_start|>", "<|im_end|>"])
    monkeypatch.setattr(runtime, "reader", replace(runtime.reader, template=template))
    asking = runtime.asking

    def noted(prompt: Prompt, *how: Any) -> Request:
        asked.append(prompt)
        return asking(prompt, *how)

    monkeypatch.setattr(runtime, "asking", noted)
    session = omni.session(voice="Ethan", **OPTIONS)
    session.tools = [{"type": "function", "function": {"name": "look"}}]
    session.append_text("Look.")
    answer(session)
    session.tools = []
    session.interrupt(30)
    first, again = asked
    assert torch.equal(again.ids, first.ids)


def test_switches_of_the_template_reach_every_answer() -> None:
    small = Omni.load(tiny("qwen3"), dtype="float32", progress=False)
    off = {"enable_thinking": False}
    session = small.session(template_args=off, max_tokens=3, seed=1)
    session.append_text("Hello")
    (done,) = [event for event in session.respond() if isinstance(event, Done)]
    asked = [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]
    assert done.usage.prompt_tokens == small.runtime.request(asked, None, Options(), template_args=off).prompt.num_tokens
    assert done.usage.prompt_tokens != small.runtime.request(asked, None, Options()).prompt.num_tokens


def test_given_words_need_room_for_themselves_alone() -> None:
    small = Omni.load(tiny("7b-like"), dtype="float32", progress=False)
    session = small.session(voice="Chelsie", max_tokens=small.model.config.thinker.decoder.max_positions, seed=1)
    session.begin([{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}])
    list(session.say("Yes.", max_audio_seconds=0.1))
    assert [message["content"] for message in session.messages] == ["Hello", "Hi", "Yes."]


@pytest.mark.parametrize("played", [0.0, 0.5, 1.0])
def test_of_given_words_those_that_were_heard_are_remembered(
    omni: Omni, played: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "One moment. Here it is."
    monkeypatch.setattr(omni.runtime, "wording", Wording(longest=12))
    monkeypatch.setattr(narration, "PAUSES", 0.2)
    monkeypatch.setattr(narration, "SLOWEST_CHAR", 0.0)
    session = omni.session(voice="Ethan", seed=3)
    events = list(session.say(text))
    done = events[-1]
    assert isinstance(done, Done) and done.usage.codec_tokens <= 20
    assert [e.text for e in events if isinstance(e, TextDelta)] == ["One moment. ", "Here it is."]
    assert session.messages[-1]["content"] == text
    heard = session.interrupt(1000 * done.timings.audio * played)
    assert session.messages[-1]["content"] == heard
    assert text.startswith(heard) and (played > 0 or not heard)


def test_a_long_conversation_forgets_and_goes_on() -> None:
    """Pictures of old turns first, then old turns; never the system prompt, never with an error."""
    small = Omni.load(tiny("7b-like"), dtype="float32", cache_tokens=512, progress=False)
    session = small.session(system="Be brief.", voice="Chelsie", **OPTIONS)
    lengths, everything = [], list[dict[str, Any]]()
    for i in range(14):
        if i < 4:
            session.append_image(PIXELS)
        session.append_text(f"This is turn number {i}.")
        assert answer(session).usage.text_tokens == 4
        lengths.append(len(session.messages))
        assert session.messages[0] == {"role": "system", "content": "Be brief."}
        assert session.messages[-2]["content"][-1] == {"type": "text", "text": f"This is turn number {i}."}
        everything += map(dict, session.messages[-2:])
        gone, bare = session.forgotten.messages, session.forgotten.pictures
        assert gone <= bare
        assert len(session.messages) == 1 + len(everything) - gone
        for k, message in enumerate(session.messages[1:], gone):
            assert (message == everything[k]) is (k >= bare or "image" not in str(everything[k]["content"])[:20])
    assert any(a > b for a, b in pairwise(lengths)), lengths
    session.append_text("x" * 600)
    with pytest.raises(CapacityError, match="rows free"):
        answer(session)
    session.begin([])
    assert session.forgotten == Forgotten()


def test_sessions_in_an_event_loop(omni: Omni) -> None:
    async def talk(seed: int) -> list[str]:
        session = omni.session(max_tokens=5, seed=seed, temperature=1.0)
        for _ in range(2):
            session.append_text("Hm?")
            async for _event in session.arespond():
                pass
        return [message["content"] for message in session.messages[1::2]]

    async def several() -> list[list[str]]:
        return await asyncio.gather(*(talk(seed) for seed in range(4)))

    for seed, told in enumerate(asyncio.run(several())):
        assert told == asyncio.run(talk(seed))


def test_begin_goes_on_from_any_messages(omni: Omni) -> None:
    past: list[dict[str, Any]] = [
        {"role": "system", "content": "You are brief."},
        {"role": "user", "content": [{"type": "image", "image": PIXELS}, {"type": "text", "text": "One."}]},
        {"role": "assistant", "content": "Two."},
    ]
    session = omni.session(voice="Ethan", **OPTIONS)
    session.append_text("What is dropped.")
    session.begin([*past, {"role": "user", "content": "Three."}])
    session.append_audio(sound(2.2), RATE)
    reply = answer(session)
    turn = {"role": "user", "content": [{"type": "text", "text": "Three."}, {"type": "audio", "audio": (sound(2.2), RATE)}]}
    expected = omni.generate([*past, turn], voice="Ethan", **OPTIONS)
    assert (reply.text, reply.done.codes) == (expected.text, expected.done.codes)
    session.begin(past)
    unasked = answer(session)
    assert unasked.done.token_ids == omni.generate(past, voice="Ethan", **OPTIONS).done.token_ids
    assert session.messages == [*past, {"role": "assistant", "content": unasked.text}]
    session.voice = None
    session.begin([])
    with pytest.raises(MessageError, match="nothing to respond to"):
        session.respond()


def test_frames_of_a_camera_are_clips(omni: Omni) -> None:
    frames = [np.roll(PIXELS, 9 * i, 1) for i in range(4)]
    session = omni.session(voice="Ethan", **OPTIONS)
    session.append_frames(frames[:2], 2.0)
    session.append_frames(frames[2:], 2.0)
    session.append_audio(sound(1.3), RATE)
    reply = answer(session)
    clips = [{"type": "video", "video": part, "fps": 2.0} for part in (frames[:2], frames[2:])]
    turn = {"role": "user", "content": [*clips, {"type": "audio", "audio": (sound(1.3), RATE)}]}
    expected = omni.generate([turn], voice="Ethan", **OPTIONS)
    assert (reply.text, reply.done.codes) == (expected.text, expected.done.codes)
    assert reply.usage.video_tokens == expected.usage.video_tokens > 0
    with pytest.raises(InputError):
        session.append_frames(frames[:2], -1.0)
    session.begin([])
    with pytest.raises(MessageError, match="nothing to respond to"):
        session.respond()
