"""Whole answers on a tiny checkpoint: what ends them, what is spoken, what is freed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, groupby
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from omni import AudioChunk, ChunkPolicy, Done, Event, Omni, Options, Reply, Sampling, TextDelta
from omni.errors import CapacityError, ContextError, MessageError, OptionError, VoiceError
from omni.events import Failed, collect
from omni.prompt.reader import Message
from omni.talker.dual_track import DualTrackState
from omni.talker.voice import WHOLE
from tests.oracle.tiny import reference, tiny

GREEDY = Sampling(repetition_penalty=1.05)
HELLO: list[Message] = [{"role": "user", "content": "Say hello."}]
SPOKEN: dict[str, Any] = {"voice": "Chelsie", "voice_sampling": GREEDY, "seed": 5, "max_audio_seconds": 0.6}


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(tiny("7b-like"), progress=False)


@pytest.fixture(scope="module")
def brief() -> Omni:
    """A checkpoint whose text and speech end by themselves."""
    return Omni.load(tiny("7b-like", seed=1, ends=True), progress=False)


@pytest.fixture(autouse=True)
def _nothing_is_left(omni: Omni) -> Iterator[None]:
    yield
    for stage in (omni.runtime.think, omni.runtime.speak):
        assert stage and stage.runner.cache.blocks.num_free == stage.runner.cache.blocks.max_blocks


def transformers_codes(messages: list[Message], omni: Omni, max_tokens: int, voice: str = "Chelsie") -> list[int]:
    """What transformers says, told to stop one id later, since it does not speak the last."""
    ids = omni.runtime.request(messages, "Chelsie", Options()).prompt.ids[None]
    ref = reference(tiny("7b-like"))
    recorded: list[torch.Tensor] = []
    generate = ref.talker.generate

    def record(*args: Any, **kwargs: Any) -> torch.Tensor:
        recorded.append(generate(*args, **kwargs))
        return recorded[0]

    ref.talker.generate = record
    try:
        ref.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), speaker=voice, thinker_max_new_tokens=max_tokens + 1,
            talker_max_new_tokens=30, talker_do_sample=False,
        )  # fmt: skip
    finally:
        ref.talker.generate = generate
    codes: list[int] = recorded[0][0, ids.shape[1] + 2 :].tolist()
    return codes


@pytest.mark.oracle
@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_last_word_is_spoken_where_a_limit_cuts_the_text(omni: Omni, max_tokens: int) -> None:
    reply = omni.generate(HELLO, max_tokens=max_tokens, **SPOKEN)
    assert reply.limit == "text"
    assert list(reply.done.codes) == transformers_codes(HELLO, omni, max_tokens)
    fewer = omni.generate(HELLO, max_tokens=max_tokens + 1, **SPOKEN)
    assert fewer.done.codes != reply.done.codes


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["Chelsie", "Ethan"])
def test_each_voice_is_its_own(omni: Omni, name: str) -> None:
    speak, voice = omni.runtime.speak, omni.voices[name]
    request = omni.runtime.request(HELLO, name, Options())
    assert speak and request.speech and isinstance(request.speech.track, DualTrackState)
    assert torch.equal(request.speech.track.speaker, omni.model.thinker.embed_tokens.weight[voice.bos_id])
    reply = omni.generate(HELLO, max_tokens=4, **(SPOKEN | {"voice": name}))
    assert list(reply.done.codes) == transformers_codes(HELLO, omni, 4, name)
    assert reply.audio is not None
    with torch.inference_mode():
        state = speak.vocoder.start(speak.vocoder.prepare(voice), seed=5 + 2, chunks=WHOLE)
        for frame in [*((code,) for code in reply.done.codes), None]:
            speak.vocoder.push(state, frame)
        (wave,) = speak.vocoder.make([state])
    np.testing.assert_allclose(wave.numpy(), reply.audio, atol=1e-5, rtol=0)


def test_samplers_have_seen_the_prompt(omni: Omni) -> None:
    """As in transformers: the text's penalty counts the prompt, the speech's the ids that stand for it."""
    request = omni.runtime.request(HELLO, "Chelsie", Options())
    assert request.speech and isinstance(request.speech.track, DualTrackState)
    assert set(request.sampler._seen.nonzero().flatten().tolist()) == set(request.prompt.ids.tolist())
    assert request.speech.track.sampler._seen.nonzero().flatten().tolist() == [8292, 8293, 8296]


def test_answers_that_end_by_themselves(brief: Omni) -> None:
    reply = brief.generate(HELLO, voice="Ethan", voice_sampling=GREEDY, seed=1, max_audio_seconds=20)
    assert (reply.finish_reason, reply.limit) == ("stop", None)
    assert 0 < len(reply.done.token_ids) < 1024
    assert 0 < len(reply.done.codes) < 1000
    assert reply.audio is not None
    assert len(reply.audio) == 480 * len(reply.done.codes)


def test_an_empty_answer_is_silent(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    end = omni.model.thinker.config.eos_ids[0]
    monkeypatch.setattr(omni.model.thinker, "logits", lambda h: torch.eye(512)[[end] * len(h)])
    reply = omni.generate(HELLO, **SPOKEN)
    assert reply.text == ""
    assert reply.audio is not None
    assert reply.audio.shape == (0,)
    assert (reply.finish_reason, reply.usage.codec_tokens) == ("stop", 0)


@pytest.mark.parametrize("stop_id", [8292, 8294])
def test_no_codes_are_no_sound(omni: Omni, monkeypatch: pytest.MonkeyPatch, stop_id: int) -> None:
    assert omni.model.talker
    monkeypatch.setattr(omni.model.talker, "logits", lambda h: 99 * torch.eye(8448)[[stop_id] * len(h)])
    reply = omni.generate(HELLO, max_tokens=4, **SPOKEN)
    assert reply.audio is not None
    assert reply.audio.shape == (0,)
    assert reply.usage.text_tokens == 4


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(1.0, 40, 0.8, 1.05)])
def test_codes_past_the_table_are_never_picked(omni: Omni, monkeypatch: pytest.MonkeyPatch, sampling: Sampling) -> None:
    assert omni.model.talker
    logits = omni.model.talker.logits

    def tempted(hidden: torch.Tensor) -> torch.Tensor:
        out = logits(hidden)
        out[:, [8194, 8293, 8300, 8447]] = out.max() + 5
        return out

    monkeypatch.setattr(omni.model.talker, "logits", tempted)
    reply = omni.generate(HELLO, max_tokens=4, **(SPOKEN | {"voice_sampling": sampling}))
    assert len(reply.done.codes) == 30
    assert max(reply.done.codes) < 8194


def test_speech_longer_than_transformers_speaks() -> None:
    """Made into sound by the quickest preset, which counts codes as the others do."""
    quick = Omni.load(tiny("3b-like"), vocoder="turbo", progress=False)
    reply = quick.generate(HELLO, max_tokens=4, **(SPOKEN | {"max_audio_seconds": 84}))
    assert reply.audio is not None
    assert len(reply.audio) == 84 * 24000
    assert np.abs(reply.audio[-24000:]).max() > 0.1, "the last second sounds too"
    assert reply.timings.audio == 84
    assert reply.limits == ("text", "audio")


def test_limits_are_named(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    spoken = SPOKEN | {"max_audio_seconds": 0.2}
    assert omni.generate(HELLO, max_tokens=5, **spoken).limits == ("text", "audio")
    reply = omni.generate(HELLO, max_tokens=50, **spoken)
    assert (reply.finish_reason, reply.limits) == ("length", ("text", "audio")), "the same order whichever came first"
    assert len(reply.done.codes) == 10
    assert len(reply.done.token_ids) == 50
    decoder = omni.runtime.think.runner.decoder
    prompt = omni.runtime.request(HELLO, None, Options()).prompt.num_tokens
    monkeypatch.setattr(decoder, "config", replace(decoder.config, max_positions=prompt + 6))
    reply = omni.generate(HELLO, max_tokens=50)
    assert (reply.finish_reason, reply.limit) == ("length", "context")
    assert len(reply.done.token_ids) == 6
    monkeypatch.setattr(decoder, "config", replace(decoder.config, max_positions=prompt))
    with pytest.raises(ContextError, match=f"{prompt} tokens"):
        omni.generate(HELLO)


def test_talkers_context_is_a_limit(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    assert omni.runtime.speak
    decoder = omni.runtime.speak.runner.decoder
    prompt = omni.runtime.request(HELLO, "Chelsie", Options()).prompt.num_tokens
    monkeypatch.setattr(decoder, "config", replace(decoder.config, max_positions=prompt + 2 + 11))
    reply = omni.generate(HELLO, max_tokens=4, **(SPOKEN | {"max_audio_seconds": 60}))
    assert len(reply.done.codes) == 12  # one from the prompt, one from each row after it
    assert reply.limits == ("text", "context")


def assert_close(a: Reply, b: Reply) -> None:
    """The same sound, up to the rounding of sums in another order."""
    assert a.audio is not None and b.audio is not None
    np.testing.assert_allclose(a.audio, b.audio, atol=1e-5, rtol=0)


def scripted(omni: Omni, monkeypatch: pytest.MonkeyPatch, text: str, **options: Any) -> Reply:
    """An answer in which the thinker finds this text, byte by byte, and ends."""
    ids = iter([*text.encode(), omni.model.thinker.config.eos_ids[0]])
    with monkeypatch.context() as patch:
        patch.setattr(omni.model.thinker, "logits", lambda h: torch.eye(512)[[next(ids)]])
        return omni.generate(HELLO, **(SPOKEN | options))


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("Hello brave new world!", "brave", "Hello "),
        ("Hello brave new world!", ("world", "e n"), "Hello brav"),
        ("Hello brave new world!", "new wish", None),
        ("Hello brave new world!", "H", ""),
        ("Hello brave new world!", " world!?", None),
        ("So 😀 and on", "😀", "So "),
        ("你好 and on", "好", "你"),
        ("你好", None, None),
    ],
)
def test_stop_strings_are_neither_written_nor_spoken(
    omni: Omni, monkeypatch: pytest.MonkeyPatch, text: str, stop: Any, left: str | None
) -> None:
    cut = scripted(omni, monkeypatch, text, stop=stop)
    expected = scripted(omni, monkeypatch, text if left is None else left)
    assert cut.text == expected.text == (text if left is None else left)
    assert cut.done.codes == expected.done.codes
    assert cut.limit == expected.limit


def test_stream_in_one_window_equals_generate(omni: Omni) -> None:
    reply = omni.generate(HELLO, max_tokens=6, **SPOKEN)
    streamed = collect(omni.stream(HELLO, max_tokens=6, chunks=WHOLE, **SPOKEN), omni.sample_rate, spoken=True)
    assert streamed.text == reply.text
    assert streamed.done.codes == reply.done.codes
    np.testing.assert_array_equal(streamed.audio, reply.audio)


def test_stream_tells_everything_in_order(omni: Omni) -> None:
    events = list(omni.stream(HELLO, max_tokens=6, **(SPOKEN | {"max_audio_seconds": 2})))
    assert isinstance(events[-1], Done)
    chunks = [e for e in events if isinstance(e, AudioChunk)]
    starts = np.cumsum([0, *(len(c.samples) for c in chunks)])
    assert [c.start for c in chunks] == starts[:-1].tolist()
    assert starts[-1] == 100 * 480
    assert len(chunks) > 2
    assert isinstance(events[0], TextDelta)
    reply = omni.generate(HELLO, max_tokens=6, **(SPOKEN | {"max_audio_seconds": 2}))
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == reply.text
    assert events[-1].codes == reply.done.codes


def test_an_event_loop_hears_the_same(omni: Omni) -> None:
    async def hear(seed: int) -> Reply:
        told = omni.astream(HELLO, max_tokens=6, **(SPOKEN | {"seed": seed}))
        return collect([event async for event in told], omni.sample_rate, spoken=True)

    async def several() -> list[Reply]:
        return await asyncio.gather(*(hear(seed) for seed in range(3)))

    async def leave() -> None:
        told = omni.astream(HELLO, max_tokens=900)
        await anext(told)
        await told.aclose()

    for seed, reply in enumerate(asyncio.run(several())):
        alone = collect(omni.stream(HELLO, max_tokens=6, **(SPOKEN | {"seed": seed})), omni.sample_rate, spoken=True)
        assert (reply.text, reply.done.codes) == (alone.text, alone.done.codes)
        assert_close(reply, alone)
    asyncio.run(leave())
    omni.engine.call(lambda: None)


def test_sound_comes_before_the_text_has_ended(omni: Omni) -> None:
    kinds = [type(e) for e in omni.stream(HELLO, max_tokens=40, **SPOKEN)]
    assert kinds.index(AudioChunk) < len(kinds) - 1 - kinds[::-1].index(TextDelta)


def test_closing_a_stream_frees_everything(omni: Omni) -> None:
    stream = omni.stream(HELLO, max_tokens=900, **(SPOKEN | {"max_audio_seconds": 60}))
    for _ in range(5):
        next(stream)
    assert omni.runtime.think.runner.cache.blocks.num_free < omni.runtime.think.runner.cache.blocks.max_blocks
    stream.close()


def test_batched_equals_alone(omni: Omni) -> None:
    image = Image.effect_noise((84, 112), 60).convert("RGB")
    asked: list[list[Message]] = [
        HELLO,
        [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "What?"}]}],
        [{"role": "user", "content": "A much longer question than the others, to shift every row of the batch."}],
        [{"role": "user", "content": [{"type": "audio", "audio": (np.sin(np.arange(9000) / 9).astype(np.float32), 16000)}]}],
    ]
    options = [Options(max_tokens=3 + 4 * i, seed=i, max_audio_seconds=0.3 + 0.2 * i) for i in range(4)]
    alone = [
        collect((e for _, e in omni.engine.run([omni.runtime.request(m, "Ethan", o)])), 24000, spoken=True)
        for m, o in zip(asked, options, strict=True)
    ]
    together: list[list[Event | Failed]] = [[] for _ in asked]
    for i, event in omni.engine.run([omni.runtime.request(m, "Ethan", o) for m, o in zip(asked, options, strict=True)]):
        together[i].append(event)
    for one, events in zip(alone, together, strict=True):
        reply = collect(events, 24000, spoken=True)
        assert (reply.text, reply.done.codes) == (one.text, one.done.codes)
        assert_close(reply, one)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_dtype_sees_hears_and_speaks(dtype: str) -> None:
    mixed = Omni.load(tiny("mixed"), dtype=dtype, progress=False)
    image = Image.effect_noise((84, 112), 60).convert("RGB")
    parts: list[Any] = [
        {"type": "image", "image": image},
        {"type": "audio", "audio": (np.sin(np.arange(9000) / 9).astype(np.float32), 16000)},
    ]
    reply = mixed.generate([{"role": "user", "content": parts}], max_tokens=5, **SPOKEN)
    assert reply.audio is not None
    assert reply.audio.dtype == np.float32
    assert np.isfinite(reply.audio).all()
    assert np.abs(reply.audio).max() > 0.01
    for name, weight in mixed.model.named_parameters():
        assert weight.dtype == (torch.float32 if name.startswith("token2wav.") else getattr(torch, dtype))


def test_same_seed_same_answer(omni: Omni) -> None:
    def ask(seed: int) -> Reply:
        return omni.generate(HELLO, voice="Chelsie", temperature=1.0, max_tokens=8, seed=seed, max_audio_seconds=0.3)

    first, again, other = ask(3), ask(3), ask(4)
    assert (first.text, first.done.codes) == (again.text, again.done.codes)
    np.testing.assert_array_equal(first.audio, again.audio)
    assert other.done.codes != first.done.codes
    assert omni.generate(HELLO, max_tokens=1).done.seed != omni.generate(HELLO, max_tokens=1).done.seed


# ---- say

WORDS = "Exactly these words, and no others: 42, naïve — 你好 😀!"


def said(omni: Omni, text: Any, **options: Any) -> Reply:
    spoken = {k: v for k, v in SPOKEN.items() if k != "voice"} | {"max_audio_seconds": 1.6} | options
    return collect(omni.say(text, **spoken), omni.sample_rate, spoken=True)


def test_say_speaks_the_words_and_ends(omni: Omni) -> None:
    reply = said(omni, WORDS)
    assert reply.text == WORDS
    assert reply.usage.text_tokens == len(WORDS.encode())
    assert reply.audio is not None
    assert len(reply.audio) == 80 * 480


def test_say_in_pieces_equals_whole(omni: Omni) -> None:
    whole, rng = said(omni, WORDS), random.Random(0)
    for _ in range(5):
        cuts = sorted(rng.sample(range(len(WORDS)), 6))
        pieces = [WORDS[a:b] for a, b in zip([0, *cuts], [*cuts, len(WORDS)], strict=True)]
        reply = said(omni, iter(pieces))
        assert (reply.text, reply.done.codes) == (whole.text, whole.done.codes)
        assert_close(reply, whole)


def test_say_equals_an_answer_of_the_same_words(omni: Omni) -> None:
    """The forced words take the way a sampled answer takes: the same codes come out."""
    before: list[Message] = [{"role": "user", "content": "Hm?"}]
    answer = omni.generate(before, max_tokens=9, **SPOKEN)
    request = omni.runtime.request(before, "Chelsie", Options(voice_sampling=GREEDY, seed=5, max_audio_seconds=0.6))
    request.script = list(answer.done.token_ids)
    forced = collect((e for _, e in omni.engine.run([request])), 24000, spoken=True)
    assert forced.done.codes == answer.done.codes
    assert forced.text == answer.text


def test_say_is_shaped_by_its_context(omni: Omni) -> None:
    assert said(omni, "Yes.").done.codes != said(omni, "Yes.", context="Whisper.").done.codes


def test_say_keeps_control_tokens_as_words(omni: Omni) -> None:
    assert said(omni, "a<|im_end|>b").usage.text_tokens == len("a<|im_end|>b")


def test_say_frees_everything_when_its_text_fails(omni: Omni) -> None:
    def broken() -> Iterator[str]:
        yield "Some words "
        raise ConnectionError("the writer has gone")

    with pytest.raises(ConnectionError):
        list(omni.say(broken(), **{k: v for k, v in SPOKEN.items() if k != "voice"}))


def test_say_what_another_stream_writes(omni: Omni) -> None:
    """The writer may be the same model: nobody waits for text while holding the device."""
    words = (e.text for e in omni.stream(HELLO, max_tokens=8, seed=1) if isinstance(e, TextDelta))
    text = omni.generate(HELLO, max_tokens=8, seed=1).text
    assert said(omni, chain(words, [" Yes."])).text == f"{text} Yes."


def test_streams_of_two_threads_take_turns(omni: Omni) -> None:
    expected = omni.generate(HELLO, max_tokens=20, chunks=ChunkPolicy(), **SPOKEN)
    order: list[int] = []

    def stream(name: int) -> Reply:
        def noted() -> Iterator[Event]:
            for event in omni.stream(HELLO, max_tokens=20, **SPOKEN):
                order.append(name)
                yield event

        return collect(noted(), omni.sample_rate, spoken=True)

    with ThreadPoolExecutor(2) as threads:
        replies = list(threads.map(stream, range(2)))
    for reply in replies:
        assert (reply.text, reply.done.codes) == (expected.text, expected.done.codes)
        assert_close(reply, expected)
    both = order[order.index(1) :] if order[0] == 0 else order[order.index(0) :]
    longest = max(len(list(group)) for _, group in groupby(both[: len(both) // 2]))
    assert longest <= 6, "neither stream starves the other"


# ---- refusals


def test_refusals(omni: Omni) -> None:
    with pytest.raises(MessageError, match="no text"):
        omni.say("  ")
    with pytest.raises(OptionError, match="max_tokens"):
        omni.say("Yes.", max_tokens=3)  # type: ignore[call-arg]  # wrong on purpose
    with pytest.raises(OptionError, match="max_tokens is 0"):
        omni.generate(HELLO, max_tokens=0)
    with pytest.raises(OptionError, match="max_audio_seconds"):
        omni.generate(HELLO, max_audio_seconds=0)
    wrong: list[dict[str, Any]] = [
        {"stop": ["x", ""]}, {"stop": [1]}, {"seed": -1}, {"seed": 1.5}, {"max_tokens": 2.5}, {"max_tokens": "5"},
        {"max_tokens": None}, {"top_k": 2.5}, {"temperature": "hot"},
    ]  # fmt: skip
    for options in wrong:
        with pytest.raises(OptionError, match=f"{next(iter(options))} is "):
            omni.generate(HELLO, **options)
    with pytest.raises(VoiceError, match="Chelsie, Ethan"):
        omni.generate(HELLO, voice="Nobody")


def test_text_alone_leaves_the_voice_out() -> None:
    mute = Omni.load(tiny("7b-like"), speech=False, progress=False)
    assert mute.model.talker is None
    assert mute.generate(HELLO, max_tokens=3).audio is None
    with pytest.raises(VoiceError, match="without speech"):
        mute.generate(HELLO, voice="Chelsie")


def test_a_full_device_is_a_typed_error(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(requests: object) -> None:
        raise torch.OutOfMemoryError("4 GiB")

    monkeypatch.setattr(omni.runtime.think, "decode", full)
    with pytest.raises(CapacityError, match=r"out of memory \(4 GiB\); shorten"):
        omni.generate(HELLO, max_tokens=3)


def test_a_fault_ends_one_request_of_a_batch() -> None:
    small = Omni.load(tiny("7b-like"), cache_tokens=256, progress=False)
    long: list[Message] = [{"role": "user", "content": "x" * 300}]
    requests = [small.runtime.request(m, None, Options(max_tokens=5, seed=0)) for m in (HELLO, long, HELLO)]
    ends = {i: event for i, event in small.engine.run(requests) if not isinstance(event, TextDelta)}
    assert isinstance(ends[0], Done) and isinstance(ends[2], Done)
    assert isinstance(ends[1], Failed) and isinstance(ends[1].error, CapacityError)
    assert ends[0].token_ids == ends[2].token_ids
    assert small.runtime.think.runner.cache.blocks.num_free == 4


def test_a_full_cache_ends_only_whoever_needs_more() -> None:
    small = Omni.load(tiny("7b-like"), cache_tokens=192, progress=False)
    prompt = small.runtime.request(HELLO, None, Options()).prompt.num_tokens
    assert 64 < prompt < 128 - 5
    needy = Options(max_tokens=200 - prompt, seed=0)
    done: dict[int, Any] = dict(small.engine.run([small.runtime.request(HELLO, None, needy)]))
    assert isinstance(done[0], Failed)
    assert "rows free" in str(done[0].error)


def test_a_full_cache_is_an_error_of_one_request() -> None:
    small = Omni.load(tiny("7b-like"), cache_tokens=256, progress=False)
    stream = small.stream(HELLO, max_tokens=5)
    next(stream)
    with pytest.raises(CapacityError, match="rows free"):
        small.generate([{"role": "user", "content": "x" * 300}], max_tokens=5)
    assert isinstance(list(stream)[-1], Done)
    assert small.runtime.think.runner.cache.blocks.num_free == 4
