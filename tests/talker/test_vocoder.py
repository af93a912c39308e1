"""Speech in pieces against speech in one window, and the whole of it against transformers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from omni.errors import CheckpointError, OptionError, VoiceError
from omni.kernels.native import build
from omni.kernels.replay import Replays
from omni.talker.flow import PUBLISHED, Solver
from omni.talker.vocoder import PRESETS, WAVE_CONTEXT, FlowVocoder, PreparedVoice, Preset, VocoderState, pick_preset
from omni.talker.voice import STREAMED, WHOLE, ChunkPolicy
from tests.kernels.recording import stand_in
from tests.talker import tiny

GROWING = [ChunkPolicy(first=1, growth=1, largest=4, ahead=ahead) for ahead in (1, 2)]
EVEN = [ChunkPolicy(first=n, growth=0, largest=n, ahead=ahead) for ahead in (1, 2) for n in range(1, 7)]
# 12 codes make a block
LENGTHS = (0, 1, 2, 11, 12, 13, 24, 25, 36, 60, 61)
SAMPLES = {"small": 48, "deep": 480}  # for each code
# relative RMS error of log-mel frames against one window; seen: 4.2e-5 and 4.4e-7 (and 3e-3 without look-ahead)
MEL_ERROR = {1: 2e-4, 2: 2e-6}
# largest error of a sample; seen: 4e-5 and 5e-7, the waves reaching 0.5
WAVE_ERROR = {1: 2e-4, 2: 2e-6}


@cache
def hasty() -> PreparedVoice:
    """Few evaluations, for what does not depend on their number."""
    return tiny.vocoder("small").prepare(tiny.voice("small"), Solver(num_points=3))


def speak(
    geometry: str,
    num: int,
    policy: ChunkPolicy,
    pieces: Sequence[int] = (),
    noise: Tensor | None = None,
    voice: PreparedVoice | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Mel frames and samples of every step; codes come in pieces of these sizes, over and over, or all at once."""
    model, codes = tiny.vocoder(geometry), tiny.codes(geometry, num)
    state = model.start(voice or tiny.prepared(geometry), 3, policy, noise)
    mels, waves, at, i = [state.mel[:0]], [state.mel.new_empty(0)], 0, 0
    while not state.ended:
        size = pieces[i % len(pieces)] if pieces else num
        tiny.push(model, state, codes[at : at + size], ended=at + size >= num)
        at, i = at + size, i + 1
        while model.due(state):
            mels += model.mels([state])
            waves += model.waves([state], mels[-1:])
    return mels, waves


@cache
def prepared(geometry: str, preset: str) -> PreparedVoice:
    return tiny.vocoder(geometry).prepare(tiny.voice(geometry), PRESETS[preset].solver)


@cache
def whole(geometry: str, num: int, preset: str = "faithful") -> tuple[Tensor, Tensor]:
    mels, waves = speak(geometry, num, WHOLE, voice=prepared(geometry, preset))
    return torch.cat(mels), torch.cat(waves)


def mel_error(mel: Tensor, truth: Tensor) -> float:
    return float((mel - truth).square().mean().sqrt() / truth.square().mean().sqrt())


def check(geometry: str, num: int, policy: ChunkPolicy, preset: str = "faithful") -> list[Tensor]:
    """The samples of every step, found near those of one window."""
    mels, waves = speak(geometry, num, policy, voice=prepared(geometry, preset))
    mel, wave = whole(geometry, num, preset)
    assert len(mel) == 2 * num
    assert len(wave) == SAMPLES[geometry] * num
    assert torch.cat(mels).shape == mel.shape
    assert torch.cat(waves).shape == wave.shape
    if num:
        assert mel_error(torch.cat(mels), mel) <= MEL_ERROR[policy.ahead]
        assert (torch.cat(waves) - wave).abs().max() <= WAVE_ERROR[policy.ahead]
    return waves


@pytest.mark.parametrize("policy", [*EVEN, *GROWING, STREAMED], ids=str)
@pytest.mark.parametrize("num", LENGTHS)
def test_pieces_are_the_whole(num: int, policy: ChunkPolicy) -> None:
    check("small", num, policy, "turbo")  # what is cut where does not depend on how often the network is asked


@pytest.mark.parametrize("policy", [EVEN[0], EVEN[6], GROWING[0]], ids=str)
@pytest.mark.parametrize("num", [1, 61])
def test_pieces_are_the_whole_through_many_layers(num: int, policy: ChunkPolicy) -> None:
    check("deep", num, policy)


@pytest.mark.parametrize("policy", [*EVEN, *GROWING, STREAMED], ids=str)
def test_long_speech_and_its_seams(policy: ChunkPolicy) -> None:
    preset = "faithful" if policy.growth else "turbo"  # the published solver takes four times as long
    waves = check("small", 500, policy, preset)
    _, wave = whole("small", 500, preset)
    seams = torch.tensor([len(w) for w in waves]).cumsum(0)[:-1].unique()
    seams = seams[seams > 0]
    step = torch.cat(waves).diff().abs()
    inside = torch.ones(len(step), dtype=torch.bool)
    inside[seams - 1] = False
    assert len(seams) >= 5
    assert step[seams - 1].max() <= step[inside].max()
    assert (step - wave.diff().abs())[seams - 1].abs().max() <= WAVE_ERROR[policy.ahead]


@pytest.mark.parametrize("policy", [EVEN[0], GROWING[1]], ids=str)
@pytest.mark.parametrize("num", [13, 61])
def test_how_codes_arrive_changes_nothing(num: int, policy: ChunkPolicy) -> None:
    once = torch.cat(speak("small", num, policy, voice=hasty())[1])
    dice = random.Random(num)
    for pieces in ([1], [12], [5, 0, 13], [dice.randint(0, 20) for _ in range(99)]):
        assert torch.cat(speak("small", num, policy, pieces, voice=hasty())[1]).equal(once)


@pytest.mark.oracle
@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
@pytest.mark.parametrize("num", [1, 24, 61])
def test_whole_as_transformers(geometry: str, num: int) -> None:
    voice, reference = tiny.voice(geometry), tiny.reference(geometry)
    torch.manual_seed(3)  # of speak: the noise is the same
    theirs = reference(torch.tensor([tiny.codes(geometry, num)]), voice.cond[None], voice.ref_mel[None])
    torch.testing.assert_close(whole(geometry, num)[1], theirs, rtol=0, atol=1e-5)


@pytest.mark.oracle
@pytest.mark.parametrize("geometry", tiny.GEOMETRIES)
def test_keys_are_transformers(geometry: str) -> None:
    ours, theirs = tiny.vocoder(geometry).state_dict(), tiny.reference(geometry).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_noise_given_is_noise_drawn() -> None:
    torch.manual_seed(3)
    noise = torch.randn(2 * 61, 80)
    for policy in (WHOLE, GROWING[0]):
        drawn, given = (speak("small", 61, policy, noise=x, voice=hasty()) for x in (None, noise))
        assert torch.cat(drawn[1]).equal(torch.cat(given[1]))


def test_noise_given_is_too_short() -> None:
    with pytest.raises(OptionError, match="noise given ends before frame 122"):
        speak("small", 61, WHOLE, noise=torch.randn(121, 80))


def test_seeds_and_voices_differ() -> None:
    model = tiny.vocoder("small")

    def wave(voice: int, seed: int) -> Tensor:
        state = model.start(tiny.prepared("small", voice), seed)
        tiny.push(model, state, [3, 1, 4], ended=True)
        return tiny.made(model, state)

    assert wave(0, 1).equal(wave(0, 1))
    assert not wave(0, 1).equal(wave(0, 2))
    assert not wave(0, 1).equal(wave(1, 1))


def test_sound_is_due_when_its_codes_and_those_ahead_are_there() -> None:
    model, codes = tiny.vocoder("small"), tiny.codes("small", 40)
    state = model.start(tiny.prepared("small"), 3, GROWING[0])
    per_frame = model.hop
    tiny.push(model, state, codes[:23])
    assert not model.due(state)
    tiny.push(model, state, codes[23:24])  # a block, and the block after it
    assert model.due(state) == 24
    first = tiny.made(model, state)
    assert len(first) == (24 - WAVE_CONTEXT) * per_frame
    tiny.push(model, state, codes[24:])
    assert not model.due(state)  # two blocks and one after them are 48 codes
    model.push(state, None)
    rest = tiny.made(model, state)
    assert first.dtype == rest.dtype == torch.float32
    assert torch.cat((first, rest)).equal(torch.cat(speak("small", 40, GROWING[0])[1]))
    assert not model.due(state)
    with pytest.raises(AssertionError, match="after the end"):
        model.push(state, (1,))


def held(state: VocoderState) -> int:
    return len(state.codes) + len(state.noise.rows) + len(state.mel)


def test_state_stays_small() -> None:
    model = tiny.vocoder("small")
    state = model.start(hasty(), 3, GROWING[0])
    sizes = []
    for _ in range(12):
        tiny.push(model, state, tiny.codes("small", 50))
        tiny.made(model, state)
        sizes.append(held(state))
    assert max(sizes) <= 36 * (GROWING[0].largest + GROWING[0].ahead) + 2 * WAVE_CONTEXT


@pytest.mark.parametrize("code", [-1, 501, 8294])
def test_code_outside_the_table(code: int) -> None:
    model = tiny.vocoder("small")
    state = model.start(tiny.prepared("small"), 3)
    tiny.push(model, state, [500, 0])
    with pytest.raises(VoiceError, match=f"code {code} cannot be spoken; codes are 0 to 500"):
        model.push(state, (code,))
    assert state.codes == [500, 0]
    model.push(state, None)
    assert len(tiny.made(model, state)) == 2 * 2 * model.hop


def test_policy() -> None:
    assert [ChunkPolicy(first=2, growth=3, largest=7).size(i) for i in (0, 1, 2, 10**6)] == [2, 5, 7, 7]
    assert WHOLE.size(10**6) > 10**12


@pytest.mark.parametrize("fields", [{"first": 0}, {"first": 3, "largest": 2}, {"growth": -1}, {"ahead": -1}])
def test_policy_that_makes_no_chunks(fields: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="makes no chunks"):
        ChunkPolicy(**fields)


def test_voice_of_another_model() -> None:
    with pytest.raises(CheckpointError, match="has 52 and 40 channels, the model 192 and 80"):
        tiny.vocoder("small").prepare(tiny.voice("deep"))


def test_blocks_hold_whole_codes() -> None:
    with pytest.raises(CheckpointError, match="whole codes"):
        FlowVocoder(replace(tiny.SMALL[0], block_size=25), tiny.SMALL[1])


def test_several_speeches_at_once_equal_each_alone() -> None:
    """Chunks of different lengths, in steps that some of them miss."""
    model, sizes = tiny.vocoder("small"), (40, 61, 7, 84)
    states = [model.start(hasty(), seed, GROWING[0]) for seed in range(len(sizes))]
    made: list[list[Tensor]] = [[] for _ in sizes]
    codes = [tiny.codes("small", num) for num in sizes]
    for at in range(0, max(sizes) + 12, 12):
        for state, own in zip(states, codes, strict=True):
            if not state.ended:
                tiny.push(model, state, own[at : at + 12], ended=at + 12 >= len(own))
        while due := [i for i, state in enumerate(states) if model.due(state)]:
            for i, wave in zip(due, model.make([states[i] for i in due]), strict=True):
                made[i].append(wave)
    for seed, (waves, own) in enumerate(zip(made, codes, strict=True)):
        state = model.start(hasty(), seed, GROWING[0])
        tiny.push(model, state, own, ended=True)
        alone = tiny.made(model, state)
        torch.testing.assert_close(torch.cat(waves), alone, atol=1e-5, rtol=0)
        assert len(alone) == SAMPLES["small"] * len(own)


@torch.inference_mode()
def test_replayed_solves_and_waves_equal_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks of a second speech, by another voice, and of two at once replay what those of the first recorded."""
    monkeypatch.setattr(build, "library", lambda: None)  # the stand-in sees torch's operations only
    model = deepcopy(tiny.vocoder("small"))
    first = tiny.voice("small")
    voices = [model.prepare(v, Solver(num_points=2)) for v in (first, replace(first, cond=-first.cond))]
    records, replayed = list[Sequence[Tensor]](), [0]

    def record(run: Callable[[], Sequence[Tensor]]) -> tuple[Callable[[], None], Sequence[Tensor]]:
        replay, out = stand_in(run)
        records.append(out)

        def counted() -> None:
            replayed[0] += 1
            replay()

        return counted, out

    def all_at_once(number: int) -> list[Tensor]:
        """A speech of each voice, then two of each side by side."""
        out = []
        for voice, seeds in ((voices[0], (1,)), (voices[1], (2,)), (voices[0], (3, 4)), (voices[1], (5, 6))):
            states = [model.start(voice, seed, EVEN[1]) for seed in seeds]
            for seed, state in zip(seeds, states, strict=True):
                codes = [(code + seed) % model.num_codes for code in tiny.codes("small", number)]
                tiny.push(model, state, codes, ended=True)
            while any(model.due(state) for state in states):
                out += model.make([state for state in states if model.due(state)])
        return out

    want = all_at_once(85)
    model.replays = Replays(record, most=64)
    for _ in range(2):
        for a, b in zip(want, all_at_once(85), strict=True):
            torch.testing.assert_close(b, a, atol=1e-6, rtol=0)
    assert replayed[0] > 2 * len(records) > 0
    assert {len(out) for out in records} == {1, 2}, "waves, and windows with what the next will see of them"


@cache
def in_bfloat16(geometry: str) -> FlowVocoder:
    """The blocks' products as `Omni.load` keeps them for a quick preset."""
    model = deepcopy(tiny.vocoder(geometry))
    for block in model.code2wav_dit_model.transformer_blocks:
        block.attn.to(torch.bfloat16)
        block.ff.to(torch.bfloat16)
    return model


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("policy", [EVEN[0], EVEN[8], STREAMED], ids=str)
def test_pieces_are_the_whole_in_every_preset(policy: ChunkPolicy, preset: str) -> None:
    """Where products are bfloat16, what far blocks owe may turn a rounding, and so err as much as all roundings do."""
    chosen, codes = PRESETS[preset], tiny.codes("small", 85)
    exact = tiny.vocoder("small")
    model = in_bfloat16("small") if chosen.dtype == torch.bfloat16 else exact
    voice = exact.prepare(tiny.voice("small"), chosen.solver)

    def mel(model: FlowVocoder, policy: ChunkPolicy) -> Tensor:
        state, made = model.start(voice, 3, policy), list[Tensor]()
        tiny.push(model, state, codes, ended=True)
        while model.due(state):
            made += model.mels([state])
            model.waves([state], made[-1:])
        return torch.cat(made)

    truth, rounding = mel(model, WHOLE), mel_error(mel(model, WHOLE), mel(exact, WHOLE))
    assert (rounding > 0) == (model is not exact)
    assert mel_error(mel(model, policy), truth) <= MEL_ERROR[policy.ahead] + rounding


def test_presets_by_name() -> None:
    assert [preset.solver.num_evaluations for preset in PRESETS.values()] == [36, 18, 10]
    assert pick_preset("faithful") == Preset(PUBLISHED, torch.float32)
    with pytest.raises(OptionError, match="vocoder is 'quick'; give one of 'faithful', 'fast', 'turbo'"):
        pick_preset("quick")


def test_voices_are_prepared_for_the_solver_of_the_vocoder() -> None:
    model = deepcopy(tiny.vocoder("small"))
    model.solver = PRESETS["turbo"].solver
    assert model.prepare(tiny.voice("small")).schedule.solver.num_evaluations == 10
    assert model.prepare(tiny.voice("small"), PUBLISHED).schedule.solver == PUBLISHED


def test_numbers_of_the_voice() -> None:
    model = tiny.vocoder("deep")
    assert (model.sample_rate, model.frames_per_second) == (24000, 50)
    assert (model.longest_chunk, model.longest_window) == (72, 84)
