# mypy: disable-error-code="untyped-decorator"
# (the configuration skips hypothesis' types)
"""Policies on records written by hand, on records drawn at random, and on the simulator's clock."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omni.engine.scheduler import (
    CHUNK,
    MAX_REQUESTS,
    MIN_CHUNK,
    SLICE,
    Costs,
    Kind,
    Policy,
    Record,
    Work,
    first_come_first_served,
    first_sound_first,
)
from tests.omni.engine.simulator import CPU_SMALL, GPU_7B, PACE, Answer, Price, Session, Table, Turn, calls, simulate

ENCODE, PREFILL, DECODE, TALKER_PREFILL, TALKER_DECODE, VOCODE = Kind
NOW = 100.0
POLICIES = pytest.mark.parametrize("policy", [first_sound_first, first_come_first_served])
TABLES = pytest.mark.parametrize("table", [CPU_SMALL, GPU_7B], ids=["cpu", "gpu"])


SLOW: Table = {kind: Price(30 * p.step, 2 * p.request, 30 * p.row) for kind, p in CPU_SMALL.items()}
"""Not nearly fast enough to speak as fast as it is listened to."""


def price(table: Table, kind: Kind, num_requests: int, rows: int) -> float:
    step, request, row = table[kind]
    return step + request * num_requests + row * rows


def learnt(table: Table, *, jitter: float = 0.0, seed: int = 0) -> Costs:
    """Costs that have seen some thousand steps at these prices."""
    costs, rng = Costs(), random.Random(seed)
    for _ in range(1000):
        for kind in Kind:
            num_requests = rng.randint(1, 16)
            rows = num_requests * {DECODE: 1, TALKER_DECODE: 1, VOCODE: rng.randint(36, 84)}.get(kind, rng.randint(10, 500))
            seconds = price(table, kind, num_requests, rows) * math.exp(rng.gauss(0, jitter))
            costs.saw(kind, num_requests, rows, seconds)
    return costs


ON_CPU, ON_GPU, ON_SLOW = learnt(CPU_SMALL), learnt(GPU_7B), learnt(SLOW)


def waits(key: int, ready: Mapping[Kind, int], *, since: float = 0.1) -> Record:
    """A request that has heard nothing yet."""
    return Record(key, NOW - since, None, ready)


def hears(key: int, ready: Mapping[Kind, int], *, left: float) -> Record:
    """A request whose listener has this many seconds of sound left."""
    return Record(key, NOW - 10, NOW + left, ready)


def first_sound(*records: Record, costs: Costs = ON_CPU) -> Work | None:
    return first_sound_first(records, NOW, costs, PACE)


# what is done, and by whom


@POLICIES
def test_nothing_ready_is_nothing_done(policy: Policy) -> None:
    assert policy([], NOW, Costs(), PACE) is None
    assert policy([waits(1, {}), hears(2, {}, left=-1)], NOW, Costs(), PACE) is None


@pytest.mark.parametrize("kind", Kind)
@POLICIES
def test_one_request_is_served_whatever_it_is_ready_for(policy: Policy, kind: Kind) -> None:
    ready = {kind: 1}
    for record in (waits(7, ready), waits(7, ready, since=60), hears(7, ready, left=5), hears(7, ready, left=-5)):
        assert policy([record], NOW, Costs(), PACE) == Work(kind, ((7, 1),))


@POLICIES
def test_the_last_kind_of_work_goes_first(policy: Policy) -> None:
    assert policy([waits(1, {DECODE: 1, TALKER_DECODE: 2})], NOW, Costs(), PACE) == Work(TALKER_DECODE, ((1, 2),))
    assert policy([waits(1, {DECODE: 1, TALKER_DECODE: 1, VOCODE: 36})], NOW, Costs(), PACE) == Work(VOCODE, ((1, 36),))


def test_speech_and_text_only_think_together() -> None:
    text, speech = waits(1, {DECODE: 1}), hears(2, {DECODE: 1}, left=30)
    assert first_sound(text, speech) == Work(DECODE, ((1, 1), (2, 1)))


def test_a_text_that_is_read_in_time_waits_for_a_first_sound() -> None:
    reader, talker = hears(1, {DECODE: 1}, left=20), waits(2, {TALKER_DECODE: 1})
    assert first_sound(reader, talker) == Work(TALKER_DECODE, ((2, 1),))


def test_a_listener_about_to_run_out_goes_before_a_first_sound() -> None:
    waiting = waits(1, {VOCODE: 36})
    assert first_sound(waiting, hears(2, {VOCODE: 84}, left=0.2)) == Work(VOCODE, ((2, 84),))
    assert first_sound(waiting, hears(2, {VOCODE: 84}, left=9)) == Work(VOCODE, ((1, 36),))


def test_codes_that_are_missing_are_reckoned_with() -> None:
    """Half a second is plenty where the next chunk only has to be voiced, and too little where it is still to be thought."""
    prompt = waits(1, {PREFILL: 200})
    voiced, thought = hears(2, {VOCODE: 84}, left=0.5), hears(2, {DECODE: 1}, left=0.5)
    assert first_sound(prompt, voiced) == Work(PREFILL, ((1, 200),))
    assert first_sound(prompt, thought) == Work(DECODE, ((2, 1),))
    chunk = PACE.chunk * (ON_CPU.predict(DECODE, 1, 1) + ON_CPU.predict(TALKER_DECODE, 1, 1)) + ON_CPU.predict(VOCODE, 1, 84)
    for left, kind in ((chunk, DECODE), (chunk + 0.2, PREFILL)):
        work = first_sound(prompt, hears(2, {DECODE: 1}, left=left))
        assert work and work.kind is kind


def test_listeners_share_the_time_until_they_run_out() -> None:
    """Each of ten has time enough for its own next chunk, the last of them not after the nine before."""
    prompt = waits(99, {PREFILL: 100})
    assert first_sound(prompt, *(hears(k, {VOCODE: 84}, left=1) for k in range(3))) == Work(PREFILL, ((99, 100),))
    work = first_sound(prompt, *(hears(k, {VOCODE: 84}, left=1) for k in range(10)))
    assert work == Work(VOCODE, ((0, 84),))


def test_the_earliest_due_goes_first() -> None:
    records = [hears(1, {VOCODE: 84}, left=4), hears(2, {VOCODE: 84}, left=-1), hears(3, {VOCODE: 84}, left=2)]
    assert first_sound(*records) == Work(VOCODE, ((2, 84),))


def test_a_long_prompt_is_cut_beside_a_listener() -> None:
    long = waits(1, {PREFILL: 20000}, since=30)
    assert first_sound(long) == Work(PREFILL, ((1, CHUNK),))
    rows = []
    for left in (0.2, 0.22, 0.26, 0.3, 0.4, 5):
        listener = hears(2, {VOCODE: 72}, left=left)
        work = first_sound(long, listener)
        assert work
        if work.kind is PREFILL:
            ((_, taken),) = work.parts
            end = left - ON_CPU.predict(PREFILL, 1, taken)
            assert taken == MIN_CHUNK or end > ON_CPU.predict(VOCODE, 1, 72)
            rows.append(taken)
    assert rows == sorted(rows)
    assert MIN_CHUNK <= rows[0] < CHUNK == rows[-1]


def test_prompts_share_the_rows_of_a_step() -> None:
    records = [waits(1, {PREFILL: 1500}, since=9), waits(2, {PREFILL: 100}, since=9), waits(3, {PREFILL: 900}, since=9)]
    work = first_sound(*records)
    assert work
    assert (work.kind, sum(rows for _, rows in work.parts)) == (PREFILL, CHUNK)
    assert work.parts[0] == (2, 100), "the shortest of those who came together"


def test_a_prompt_waits_for_as_long_as_it_takes() -> None:
    """Once read, it joins the steps of answers that have begun; until then it must not hold them up for long."""
    begun, seconds = waits(1, {TALKER_DECODE: 1}, since=3), ON_CPU.predict(PREFILL, 1, 4000)
    assert first_sound(begun, waits(2, {PREFILL: 4000}, since=seconds - 0.01)) == Work(TALKER_DECODE, ((1, 1),))
    assert first_sound(begun, waits(2, {PREFILL: 4000}, since=seconds + 0.01)) == Work(PREFILL, ((2, CHUNK),))


def test_a_short_prompt_overtakes_a_long_one() -> None:
    long, short = waits(1, {PREFILL: 20000}, since=0.5), waits(2, {PREFILL: 50}, since=0.0)
    work = first_sound(long, short)
    assert work and work.parts[0] == (2, 50)


def test_a_first_sound_waits_until_there_is_time_for_the_second() -> None:
    opening = {DECODE: 1, TALKER_DECODE: 1, VOCODE: 36}
    beside = [hears(2, {VOCODE: 84}, left=0.4)]
    assert first_sound(waits(1, opening)) == Work(VOCODE, ((1, 36),))
    assert first_sound(waits(1, opening), *beside) == Work(VOCODE, ((2, 84),))
    answers, prompt = waits(3, {DECODE: 1}, since=0.0), waits(4, {PREFILL: 60}, since=0.05)
    assert first_sound(waits(1, opening), prompt, *beside) == Work(PREFILL, ((4, 60),))
    work = first_sound(waits(1, opening), answers, *beside)
    assert work == Work(DECODE, ((3, 1), (1, 1)))


def test_who_has_waited_for_a_first_sound_is_not_overtaken() -> None:
    old, prompt, listener = waits(1, {VOCODE: 36}, since=5), waits(2, {PREFILL: 60}), hears(3, {VOCODE: 84}, left=0.4)
    assert first_sound(old, prompt, listener) == Work(VOCODE, ((3, 84),))


def test_a_medium_waits_for_time_to_encode_it_whole() -> None:
    listener = hears(2, {VOCODE: 84}, left=0.6)
    big, small = {ENCODE: 20000}, {ENCODE: 100}
    assert first_sound(waits(1, small, since=1), listener) == Work(ENCODE, ((1, 100),))
    assert first_sound(waits(1, big, since=1), listener) == Work(VOCODE, ((2, 84),))
    assert first_sound(waits(1, big, since=5), listener) == Work(ENCODE, ((1, 20000),)), "but not for ever"


def test_who_has_been_without_sound_for_long_waits_like_the_others() -> None:
    prompt = waits(2, {PREFILL: 60})
    assert first_sound(hears(1, {DECODE: 1}, left=-0.5), prompt) == Work(DECODE, ((1, 1),))
    assert first_sound(hears(1, {DECODE: 1}, left=-5), prompt) == Work(PREFILL, ((2, 60),))
    assert first_sound(hears(1, {DECODE: 1}, left=-5), waits(2, {DECODE: 1, TALKER_DECODE: 1})) == Work(
        DECODE, ((1, 1), (2, 1))
    )


def test_a_machine_too_slow_for_speech_reads_prompts_that_then_share_its_steps() -> None:
    reader, prompt = hears(1, {DECODE: 1}, left=-0.5), waits(2, {PREFILL: 60}, since=2)
    assert first_sound(reader, prompt, costs=ON_SLOW) == Work(PREFILL, ((2, 60),))


def test_no_prompt_takes_a_slow_machine_for_long() -> None:
    work = first_sound(waits(1, {PREFILL: 20000}, since=60), costs=ON_SLOW)
    assert work
    ((_, rows),) = work.parts
    assert 1 < ON_SLOW.predict(PREFILL, 1, rows) <= 2 < ON_SLOW.predict(PREFILL, 1, 2 * rows)


# who joins


def test_first_chunks_and_later_ones_are_voiced_apart() -> None:
    first = [waits(k, {VOCODE: 36}) for k in (1, 2)]
    later = [hears(k, {VOCODE: 84}, left=9) for k in (3, 4)]
    assert first_sound(*first, *later, costs=ON_GPU) == Work(VOCODE, ((1, 36), (2, 36)))
    assert first_sound(*later, costs=ON_GPU) == Work(VOCODE, ((3, 84), (4, 84)))


def test_all_think_together() -> None:
    """Even where a step for one takes long: the weights are read once for all of them."""
    assert ON_SLOW.predict(DECODE, 1, 1) > SLICE
    work = first_sound(*(hears(k, {DECODE: 1}, left=k) for k in range(20)), costs=ON_SLOW)
    assert work and len(work.parts) == 20


def test_those_who_join_lengthen_a_step_a_little() -> None:
    work = first_sound(*(hears(k, {VOCODE: 84}, left=1) for k in range(64)), costs=ON_GPU)
    assert work
    rows = sum(rows for _, rows in work.parts)
    assert ON_GPU.predict(VOCODE, len(work.parts), rows) <= SLICE
    assert ON_GPU.predict(VOCODE, len(work.parts) + 1, rows + 84) > SLICE
    assert [key for key, _ in work.parts] == list(range(len(work.parts)))


@POLICIES
def test_a_step_serves_so_many(policy: Policy) -> None:
    work = policy([waits(k, {TALKER_DECODE: 1}) for k in range(200)], NOW, ON_GPU, PACE)
    assert work and len(work.parts) == MAX_REQUESTS
    work = policy([waits(k, {PREFILL: 1}, since=1) for k in range(200)], NOW, ON_GPU, PACE)
    assert work and len(work.parts) == MAX_REQUESTS


def test_first_come_first_served_is_another_policy() -> None:
    old, urgent = waits(1, {PREFILL: 5000}, since=50), replace(hears(2, {VOCODE: 84}, left=0.1), arrived=NOW - 5)
    assert first_sound(old, urgent) == Work(VOCODE, ((2, 84),))
    assert first_come_first_served([urgent, old], NOW, ON_CPU, PACE) == Work(PREFILL, ((1, CHUNK),))


# records drawn at random

ROWS = st.integers(1, 30000)
READY = st.dictionaries(st.sampled_from(list(Kind)), ROWS, max_size=3)
TIME = st.floats(0, 200, allow_nan=False)


@st.composite
def some_records(draw: st.DrawFn) -> list[Record]:
    count = draw(st.integers(0, 12))
    keys = draw(st.permutations(range(count)))
    return [Record(key, draw(TIME), draw(st.none() | TIME), draw(READY)) for key in keys]


@POLICIES
@given(records=some_records(), costs=st.sampled_from([ON_CPU, ON_GPU, ON_SLOW]), seed=st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_a_step_is_work_that_is_ready(policy: Policy, records: list[Record], costs: Costs, seed: int) -> None:
    work = policy(records, NOW, costs, PACE)
    assert (work is None) == (not any(r.ready for r in records))
    shuffled = random.Random(seed).sample(records, len(records))
    assert policy(shuffled, NOW, costs, PACE) == work, "the order in which records are told does not matter"
    if work is None:
        return
    ready = {r.key: r.ready.get(work.kind, 0) for r in records}
    assert len({key for key, _ in work.parts}) == len(work.parts) <= MAX_REQUESTS
    for key, rows in work.parts:
        assert 0 < rows <= ready[key]
        assert rows == ready[key] or work.kind in (PREFILL, TALKER_PREFILL)
    if work.kind in (PREFILL, TALKER_PREFILL):
        assert sum(rows for _, rows in work.parts) <= CHUNK


# what steps cost


@TABLES
@pytest.mark.parametrize("jitter", [0.0, 0.15])
def test_costs_are_learnt(table: Table, jitter: float) -> None:
    costs = learnt(table, jitter=jitter)
    for kind in Kind:
        for num_requests in (1, 4, 16):
            rows = num_requests * {DECODE: 1, TALKER_DECODE: 1, VOCODE: 72}.get(kind, 200)
            assert costs.predict(kind, num_requests, rows) == pytest.approx(
                price(table, kind, num_requests, rows), rel=0.25
            ), kind.name


@pytest.mark.parametrize("times", [0.01, 0.1, 10.0, 100.0])
def test_a_wrong_start_is_left_within_some_steps(times: float) -> None:
    costs = Costs()
    true = costs.predict(TALKER_DECODE, 1, 1) * times
    for _ in range(40):
        costs.saw(TALKER_DECODE, 1, 1, true)
    assert costs.predict(TALKER_DECODE, 1, 1) == pytest.approx(true, rel=0.1)


@TABLES
def test_a_step_during_which_the_machine_slept_is_soon_forgotten(table: Table) -> None:
    costs = learnt(table)
    for kind in Kind:
        true = price(table, kind, 1, 50)
        for _ in range(20):
            costs.saw(kind, 1, 50, true)
        costs.saw(kind, 1, 50, 50 * true)
        assert costs.predict(kind, 1, 50) < 1.5 * true
        for _ in range(8):
            costs.saw(kind, 1, 50, true)
        assert costs.predict(kind, 1, 50) == pytest.approx(true, rel=0.1)


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(list(Kind)), st.integers(1, 64), st.integers(1, 10**6), st.floats(-1, 1e6)), max_size=60
    )
)
@settings(max_examples=200, deadline=None)
def test_costs_are_positive_whatever_was_seen(steps: list[tuple[Kind, int, int, float]]) -> None:
    costs = Costs()
    for kind, num_requests, rows, seconds in steps * 5:
        costs.saw(kind, num_requests, rows, seconds)
    for kind in Kind:
        cheapest = costs.predict(kind, 1, 0)
        assert 0 < cheapest <= costs.predict(kind, 1, 1) <= costs.predict(kind, 2, 10**6) < math.inf


# on the simulator's clock


def is_short(answer: Answer) -> bool:
    return answer.turn.prompt_rows <= 300


def test_the_simulator_takes_a_session_through_every_stage() -> None:
    """One call worked by hand: 3 words and 40 codes are chunks of 2 blocks and of the 16 codes that are left."""
    turn = Turn(pause=1.0, media_rows=10, prompt_rows=3000, num_words=3, num_codes=40)
    table = dict.fromkeys(Kind, Price(0.01, 0.0, 0.0))
    run = simulate([Session(2.0, [turn, turn])], table, first_sound_first, jitter=0.0)
    first, second = run.answers
    assert first.num_codes == second.num_codes == 40
    # encode, 2 x read, think, 2 x hear; 35 codes more with 2 thoughts among them; voice
    sounded = 3.0 + 0.01 * (1 + 2 + 1 + 2 + 35 + 2 + 1)
    assert first.first_sound == pytest.approx(sounded)
    assert first.sound == pytest.approx(0.8) and first.underrun == 0.0
    assert second.asked == pytest.approx(sounded + 0.8 + 1.0)
    assert run.num_steps == 2 * (1 + 2 + 3 + 2 + 39 + 2)


@POLICIES
@TABLES
def test_everybody_is_served(table: Table, policy: Policy) -> None:
    """Whatever the load: here some three times what the machine can do."""
    sessions = calls(60, 2.0 if table is CPU_SMALL else 40.0, read=0.3, long=0.1)
    run = simulate(sessions, table, policy)
    assert len(run.answers) == 120
    assert all(a.ended for a in run.answers)


@TABLES
def test_a_long_prompt_gets_its_turn_among_ever_more_short_ones(table: Table) -> None:
    """More than the machine can do comes for as long as it waits."""
    sessions = calls(200, 1.0 if table is CPU_SMALL else 15.0, num_turns=1)
    long = Session(sessions[20].start, [Turn(pause=0, media_rows=0, prompt_rows=8000, num_words=40, num_codes=150)])
    run = simulate([*sessions, long], table, first_sound_first)
    (answer,) = [a for a in run.answers if not is_short(a)]
    assert answer.first_sound
    assert answer.first_sound < sessions[-1].start
    assert answer.first_sound - answer.asked < run.report(is_short).audio_ttfp_p99


def test_a_thousand_sessions() -> None:
    """At about half of what the GPU of the table can do: nobody waits long, for the first sound or for the next."""
    sessions = calls(1000, 5.0)
    run = simulate(sessions, GPU_7B, first_sound_first)
    report = run.report()
    assert len(run.answers) == 2000 and all(a.ended for a in run.answers)
    assert report.audio_ttfp_p50 < 0.8
    assert report.audio_ttfp_p99 < 1.6
    assert report.audio_continuity_ok > 0.98
    assert report.longest_wait < 5


@pytest.mark.parametrize(
    ("table", "per_second"),
    [(CPU_SMALL, 0.25), (CPU_SMALL, 0.35), (GPU_7B, 2.0), (GPU_7B, 5.0)],
    ids=["cpu", "cpu-busy", "gpu", "gpu-busy"],
)
def test_first_sounds_come_sooner_than_first_come_first_served_with_no_more_gaps(table: Table, per_second: float) -> None:
    sessions = calls(200, per_second)
    ours, theirs = (simulate(sessions, table, p).report() for p in (first_sound_first, first_come_first_served))
    assert ours.audio_ttfp_p50 < 0.8 * theirs.audio_ttfp_p50
    assert ours.audio_ttfp_p99 < 0.8 * theirs.audio_ttfp_p99
    assert ours.audio_underrun_s < theirs.audio_underrun_s + 0.01
    assert ours.audio_continuity_ok > theirs.audio_continuity_ok - 0.03


def test_a_busy_machine_keeps_up_with_those_it_has_begun_to_answer() -> None:
    report = simulate(calls(500, 13.0), GPU_7B, first_sound_first).report()
    assert report.audio_ttfp_p50 > 2.0, "more come than it can serve"
    assert report.audio_continuity_ok > 0.95


@TABLES
def test_long_prompts_do_not_make_others_miss_sound(table: Table) -> None:
    per_second = 0.1 if table is CPU_SMALL else 2.0
    alone = simulate(calls(200, per_second), table, first_sound_first).report(is_short)
    beside = simulate(calls(200, per_second, long=0.1), table, first_sound_first).report(is_short)
    assert beside.num_answers < alone.num_answers
    assert beside.audio_underrun_s < alone.audio_underrun_s + 0.01
    assert beside.audio_continuity_ok > alone.audio_continuity_ok - 0.02


def test_a_machine_too_slow_for_speech_answers_many_readers_at_once() -> None:
    sessions = calls(60, 0.05, read=1.0, num_turns=1)
    ours, theirs = (simulate(sessions, SLOW, p).report() for p in (first_sound_first, first_come_first_served))
    assert ours.ttft_p99 < 2.0 < 0.2 * theirs.ttft_p99


def test_a_reader_is_served_beside_speech() -> None:
    report = simulate(calls(200, 2.0, read=0.5), GPU_7B, first_sound_first).report()
    assert report.ttft_p50 < 0.1
    assert report.reader_underrun_s < 0.01
