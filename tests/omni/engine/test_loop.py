"""Many requests on one loop: what they share, what a fault takes with it, what is left of those that go."""

from __future__ import annotations

import gc
import resource
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from omni import Done, Omni, Options, Reply, Sampling
from omni.engine import loop, speak, worker
from omni.engine.outbox import Outbox
from omni.engine.request import Request
from omni.errors import CapacityError, EngineError
from omni.events import Event, Failed, collect
from omni.prompt.reader import Message
from omni.prompt.tokenizer import StreamDecoder
from tests.oracle.tiny import tiny

GREEDY = Sampling(repetition_penalty=1.05)
HELLO: list[Message] = [{"role": "user", "content": "Say hello."}]
TONE = (np.sin(np.arange(40000) / 9).astype(np.float32), 16000)
PIXELS = np.random.default_rng(0).integers(0, 255, (84, 112, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(tiny("7b-like"), dtype="float32", progress=False)


@pytest.fixture(autouse=True)
def _nothing_is_left(omni: Omni) -> Iterator[None]:
    yield
    assert_idle(omni)


def assert_idle(omni: Omni) -> None:
    engine = omni.engine
    engine.call(lambda: None)
    for stage in engine.stages:
        blocks = stage.runner.cache.blocks
        assert blocks.num_free == blocks.max_blocks
    assert (len(engine._live), len(engine._waiting), engine._num_open) == (0, 0, 0)


def question(i: int) -> list[Message]:
    """Questions that differ in length and media."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": f"Question {i}" + " and more" * (7 * i % 19)}]
    if i % 3 == 1:
        parts.insert(0, {"type": "image", "image": PIXELS})
    if i % 4 == 2:
        parts.insert(0, {"type": "audio", "audio": (TONE[0][: 9000 + 1000 * i], 16000)})
    return [{"role": "user", "content": parts}]


def asked(omni: Omni, i: int) -> Request:
    """One of many requests: spoken or not, greedy or sampled, with seeds of their own."""
    options = Options(max_tokens=3 + 5 * i % 11, max_audio_seconds=0.1 + 0.1 * (i % 5), seed=i)
    options = replace(options, temperature=0.8) if i % 2 else replace(options, voice_sampling=GREEDY)
    return omni.runtime.request(question(i), None if i % 5 == 4 else ("Ethan", "Chelsie")[i % 2], options)


def replies(events: Sequence[tuple[int, Event | Failed]], requests: Sequence[Request]) -> dict[int, Reply]:
    told: dict[int, list[Event | Failed]] = {}
    for i, event in events:
        told.setdefault(i, []).append(event)
    return {i: collect(e, 24000, spoken=requests[i].speech is not None) for i, e in told.items()}


def forget(omni: Omni) -> None:
    """Nothing is left of what was read and looked at."""
    omni.engine.call(omni.runtime.think.runner.cache.blocks.forget)
    omni.runtime.think.features.forget()


def alone(omni: Omni, i: int) -> Reply:
    forget(omni)
    request = asked(omni, i)
    return replies(list(omni.engine.run([request])), [request])[0]


def assert_same(mine: Reply, expected: Reply) -> None:
    assert mine.text == expected.text
    assert mine.done.token_ids == expected.done.token_ids
    assert mine.done.codes == expected.done.codes
    assert mine.limits == expected.limits
    if expected.audio is None:
        assert mine.audio is None
    else:
        assert mine.audio is not None
        np.testing.assert_allclose(mine.audio, expected.audio, atol=1e-5, rtol=0)


COMPANY = settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@given(data=st.data(), count=st.sampled_from([1, 2, 7, 16]))
@COMPANY
def test_in_company_equals_alone(omni: Omni, data: st.DataObject, count: int) -> None:
    check_company(omni, data, count)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 7, 16])
@given(data=st.data())
@COMPANY
def test_in_company_equals_alone_on_the_small_model(small: Omni, data: st.DataObject, count: int) -> None:
    check_company(small, data, count)


@pytest.fixture(scope="module")
def small() -> Omni:
    return Omni.load(dtype="float32", progress=False)


ALONE: dict[tuple[Omni, int], Reply] = {}


def check_company(omni: Omni, data: st.DataObject, count: int) -> None:
    """Whoever joins, leaves or is cancelled in between changes nobody else's text, codes or sound."""
    which = data.draw(st.lists(st.integers(0, 15), min_size=count, max_size=count))
    cancelled = data.draw(st.sets(st.integers(0, count - 1), max_size=count // 3))
    joins = data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))  # events told before each comes in
    requests = [asked(omni, i) for i in which]
    outbox, told, num_ended = Outbox(), dict[int, list[Any]](), 0
    for request, join in zip(requests, joins, strict=True):
        omni.engine.submit([request], outbox)
        for _ in range(join):
            if num_ended < len(told) or not told:
                key, event = outbox.get()
                told.setdefault(key, []).append(event)
                num_ended += isinstance(event, (Done, Failed))
    for i in cancelled:
        omni.engine.cancel([requests[i]])
    while not all(r.done for r in requests) or outbox.num_waiting:
        key, event = outbox.get()
        told.setdefault(key, []).append(event)
    for i, request in enumerate(requests):
        events = told.get(request.key, [])
        if events and isinstance(events[-1], Done):
            name = omni, which[i]
            if name not in ALONE:
                ALONE[name] = alone(omni, which[i])
            assert_same(collect(events, 24000, spoken=request.speech is not None), ALONE[name])
        else:
            assert i in cancelled


@pytest.mark.parametrize("num_ids", [1, 3])
def test_a_call_is_written_and_not_spoken(num_ids: int, omni: Omni) -> None:
    """Whether its mark is one id or several."""
    options: dict[str, Any] = {"seed": 3, "max_audio_seconds": 0.6}
    whole = omni.generate(HELLO, voice="Ethan", max_tokens=9, **options)
    decoder = StreamDecoder(omni.runtime.reader.tokenizer)
    state = decoder.start()
    texts = [decoder.step(state, [token]) for token in whole.done.token_ids]
    marks = {n: "".join(texts[n : n + num_ids]) for n in range(3, 9 - num_ids)}
    call, mark = next(
        (n, mark)
        for n, mark in marks.items()
        if whole.text.find(mark) == len("".join(texts[:n])) and texts[n] and texts[n - 1]
    )
    before = omni.generate(HELLO, voice="Ethan", max_tokens=call, **options)
    request = omni.runtime.request(HELLO, "Ethan", Options(max_tokens=9, **options))
    request.track.mute = mark
    reply = replies(list(omni.engine.run([request])), [request])[0]
    assert reply.text == whole.text
    assert reply.done.codes == before.done.codes


def test_what_two_prompts_share_is_read_once(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    assert omni.runtime.speak
    system: Message = {"role": "system", "content": "You are a guide who has much to tell. " * 6}
    runners = {"think": omni.runtime.think.runner, "speak": omni.runtime.speak.runner}
    read: dict[str, list[int]] = {name: [] for name in runners}
    for name, runner in runners.items():
        advance = runner.advance

        def noted(sequences: Any, rows: Any, positions: Any, name: str = name, advance: Any = advance) -> Any:
            read[name] += [len(r) for r in rows]
            return advance(sequences, rows, positions)

        monkeypatch.setattr(runner, "advance", noted)
    options: dict[str, Any] = {"max_tokens": 3, "voice": "Ethan", "max_audio_seconds": 0.1, "seed": 1}
    expected = omni.generate([system, {"role": "user", "content": "Who are you?"}], **options)
    first = {name: max(rows) for name, rows in read.items()}
    other = omni.generate([system, {"role": "user", "content": "What is there to see?"}], **options)
    for rows in read.values():
        rows.clear()
    again = omni.generate([system, {"role": "user", "content": "Who are you?"}], **options)
    assert_same(again, expected)
    assert again.text != other.text or again.done.codes != other.done.codes
    for name, rows in read.items():
        assert max(rows) <= first[name] % 64 + 64 + 2, f"{name} read {max(rows)} of {first[name]} rows again"


def test_a_picture_is_looked_at_once(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    omni.runtime.think.features.forget()
    seen, encode = list[int](), omni.model.thinker.visual.encode

    def noted(pictures: Any) -> Any:
        seen.append(len(pictures))
        return encode(pictures)

    monkeypatch.setattr(omni.model.thinker.visual, "encode", noted)
    for text in ("What?", "And what else?"):
        parts = [{"type": "text", "text": text}, {"type": "image", "image": PIXELS}]
        omni.generate([{"role": "user", "content": parts}], max_tokens=1)
    assert seen == [1]


def test_who_does_not_fit_beside_others_waits() -> None:
    small = Omni.load(tiny("7b-like"), dtype="float32", cache_tokens=256, progress=False)
    requests = [small.runtime.request(HELLO, None, Options(max_tokens=4, seed=i)) for i in range(6)]
    ended = [i for i, event in small.engine.run(requests) if isinstance(event, Done)]
    assert sorted(ended) == list(range(6))
    assert_idle(small)


def test_who_outgrows_the_cache_makes_room_and_comes_back() -> None:
    """Two answers that do not fit together to their ends: one is preempted, and both are as if they were alone."""
    small = Omni.load(tiny("7b-like"), dtype="float32", cache_tokens=384, progress=False)
    options = Options(max_tokens=150, seed=3, temperature=0.7)

    def ask() -> Request:
        return small.runtime.request(HELLO, None, options)

    expected = replies(list(small.engine.run([ask()])), [ask()])[0]
    assert 2 * (expected.usage.prompt_tokens + 150) > 384
    preempted, preempt = list[int](), small.engine._admission.preempt

    def noted(request: Request) -> None:
        preempted.append(request.key)
        preempt(request)

    small.engine._admission.preempt = noted  # type: ignore[method-assign]  # a stand-in
    pair = [ask(), ask()]
    for reply in replies(list(small.engine.run(pair)), pair).values():
        assert_same(reply, expected)
    assert preempted
    assert_idle(small)


def test_too_many_are_refused(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "MAX_REQUESTS", 2)
    with pytest.raises(CapacityError, match="0 requests run or wait already"):
        omni.engine.submit([asked(omni, 0) for _ in range(3)], Outbox())


def test_a_reader_who_does_not_read_holds_nobody_up(omni: Omni) -> None:
    idle = omni.stream(HELLO, max_tokens=900)
    next(idle)
    (request,) = omni.engine._live.values()
    while not request.outbox.full:
        time.sleep(0.01)
    assert omni.generate(HELLO, max_tokens=3).usage.text_tokens == 3
    made = len(request.ids)
    time.sleep(0.2)
    assert len(request.ids) == made < 200, "it stands still"
    assert isinstance(list(idle)[-1], Done), "and goes on when it is read"
    assert len(request.ids) == 900


FAULTS = [
    ("think", "encode_next"), ("think", "prefill"), ("think", "decode"),
    ("speak", "prefill"), ("speak", "decode"), ("speak", "vocode"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "method"), FAULTS)
def test_a_crash_ends_only_the_requests_of_its_step(
    omni: Omni, monkeypatch: pytest.MonkeyPatch, stage: str, method: str
) -> None:
    monkeypatch.setattr(speak, "OPENING_CHUNK", 16)  # so that the talker hears a part of every prompt
    beside = omni.stream(HELLO, max_tokens=200, max_audio_seconds=0.3, voice="Ethan", seed=1)
    next(beside)
    (request,) = omni.engine._live.values()
    while not request.outbox.full:  # its reader has it stand still, and out of the step that breaks
        time.sleep(0.01)
    expected = alone(omni, 7)
    place = getattr(omni.runtime, stage)
    with monkeypatch.context() as patch:

        def crash(*_: object) -> None:
            raise ZeroDivisionError("a fault of ours")

        patch.setattr(place, method, crash)
        forget(omni)
        with pytest.raises(EngineError, match=r"ZeroDivisionError: a fault of ours.*report"):
            omni.generate(question(7), voice="Ethan", max_tokens=4, max_audio_seconds=0.5)
    assert_same(alone(omni, 7), expected)
    assert not request.done
    done = list(beside)[-1]
    assert isinstance(done, Done)
    assert (done.usage.text_tokens, done.usage.codec_tokens) == (200, 15)


def leave_early(omni: Omni, rng: Random, count: int) -> None:
    """Requests that are cancelled, interrupted or whose readers go, at any time."""
    while count > 0:
        kinds = [rng.randrange(16) for _ in range(min(count, rng.randrange(1, 5)))]
        batch = [asked(omni, i) for i in kinds]
        count -= len(batch)
        if len(batch) == 1:
            stream = omni.runtime.run(batch[0])
            for _, _event in zip(range(1 + rng.randrange(4)), stream, strict=False):
                pass
            if rng.random() < 0.5:
                stream.close()
            del stream  # a reader that goes without a word
        else:
            outbox = Outbox(size=rng.choice([1, 4, 64]))
            omni.engine.submit(batch, outbox)
            for _ in range(rng.randrange(4)):
                if any(not r.done for r in batch) or outbox.num_waiting:
                    outbox.get()
            if rng.random() < 0.3:
                omni.engine.interrupt(batch[0])
            omni.engine.cancel(batch)
        assert all(r.done for r in batch)


def test_nothing_is_left_of_those_who_leave(omni: Omni) -> None:
    threads = threading.active_count()
    leave_early(omni, Random(0), 200)
    assert_idle(omni)
    assert threading.active_count() <= threads + 1


@pytest.mark.slow
def test_nothing_is_left_of_ten_thousand_who_leave(omni: Omni, capsys: pytest.CaptureFixture[str]) -> None:
    """Resident memory stays within 2 % once caches are full."""
    leave_early(omni, Random(1), 2000)
    before = resident_bytes()
    leave_early(omni, Random(2), 10_000)
    after = resident_bytes()
    with capsys.disabled():
        print(f"\nresident memory {before / 2**20:.0f} MiB, after 10,000 who left {after / 2**20:.0f} MiB")
    assert after <= 1.02 * before
    assert_idle(omni)


def resident_bytes() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_the_thread_ends_when_nothing_is_left_to_do(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LINGER", 0.05)
    omni.generate(HELLO, max_tokens=1)
    thread = omni.engine._thread
    if thread:
        thread.join(5)
    assert omni.engine._thread is None
    assert omni.generate(HELLO, max_tokens=2).usage.text_tokens == 2, "and comes back"
