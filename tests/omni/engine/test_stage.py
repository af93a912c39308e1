"""The loop knows stages by their protocol alone, and the voice's stage a talker by its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from omni import AudioChunk, Done, Omni, Options, TextDelta
from omni.engine import scheduler
from omni.engine.loop import Engine
from omni.engine.request import Request
from omni.engine.runner import ModelRunner
from omni.engine.scheduler import Kind
from omni.prompt.reader import Message
from omni.talker.voice import Talker, Vocoder
from tests.oracle.tiny import tiny

HELLO: list[Message] = [{"role": "user", "content": "Say hello, and then something that is rather longer than that."}]


class Bell:
    """Rings once the text has ended."""

    kinds = frozenset({Kind.VOCODE})
    num_opening_rows = 0

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.rung: set[int] = set()

    def sequence(self, request: Request) -> None:
        return None

    def begin(self, request: Request) -> None:
        pass

    def ready(self, request: Request) -> Mapping[Kind, int]:
        return {Kind.VOCODE: 1} if request.text_ended and request.key not in self.rung else {}

    def run(self, kind: Kind, parts: Sequence[tuple[Request, int]]) -> None:
        for request, _ in parts:
            self.rung.add(request.key)
            request.outbox.put(request.key, AudioChunk(np.ones(3, np.float32), 8000, 0))

    def is_over(self, request: Request) -> bool:
        return request.key in self.rung


def test_a_stage_more_is_asked_like_the_others() -> None:
    omni = Omni.load(tiny("7b-like"), speech=False, progress=False)
    engine = Engine((omni.runtime.think, Bell(omni.runtime.think.runner)))
    requests = [omni.runtime.request(HELLO, None, Options(max_tokens=3 + i, seed=i)) for i in range(2)]
    told: list[list[Any]] = [[], []]
    for i, event in engine.run(requests):
        told[i].append(event)
    for events in told:
        *texts, ring, done = events
        assert all(isinstance(event, TextDelta) for event in texts)
        assert isinstance(ring, AudioChunk) and isinstance(done, Done)


@pytest.fixture(scope="module")
def omni() -> Omni:
    return Omni.load(tiny("7b-like"), dtype="float32", progress=False)


def test_talker_and_vocoder_are_what_the_protocols_ask_for(omni: Omni) -> None:
    talker: Talker | None = omni.model.talker
    vocoder: Vocoder | None = omni.model.token2wav
    assert talker and vocoder
    assert omni.runtime.speak and omni.sample_rate == vocoder.sample_rate
    assert omni.runtime.engine.pace == scheduler.Pace(
        vocoder.frames_per_second, vocoder.longest_chunk, vocoder.longest_window
    )


def read_by_talker(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    """Rows and positions of a prompt and the opening, as the talker reads them in pieces."""
    assert omni.runtime.speak
    rows, positions = list[Tensor](), list[Tensor]()
    for stage in omni.engine.stages:
        omni.engine.call(stage.runner.cache.blocks.forget)
    with monkeypatch.context() as patch:
        runner = omni.runtime.speak.runner
        advance = runner.advance

        def noted(sequences: Any, new: Any, at: Any) -> Any:
            rows.append(new[0])
            positions.append(at[0])
            return advance(sequences, new, at)

        patch.setattr(runner, "advance", noted)
        patch.setattr("omni.engine.speak.OPENING_CHUNK", 16)
        patch.setattr(scheduler, "CHUNK", 20)
        patch.setattr(scheduler, "MIN_CHUNK", 20)
        omni.generate(HELLO, voice="Chelsie", max_tokens=2, max_audio_seconds=0.02, seed=1)
    assert len(rows) > 2
    return torch.cat(rows), torch.cat(positions, 1)


def test_a_talker_may_hear_a_part_of_the_prompt(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    assert omni.model.talker
    rows, positions = read_by_talker(omni, monkeypatch)
    num = omni.runtime.request(HELLO, "Chelsie", Options()).prompt.num_tokens
    assert len(rows) == num + 2
    parts = [range(3, 25), range(28, 31), range(50, num - 5)]
    monkeypatch.setattr(omni.model.talker, "hears", lambda ids: parts)
    for _ in range(2):  # nor is anything of it found where whole prompts are
        some, at = read_by_talker(omni, monkeypatch)
        kept = [*(i for part in parts for i in part), num, num + 1]
        torch.testing.assert_close(some, rows[kept], atol=1e-5, rtol=0)
        assert torch.equal(at, positions[:, kept])


def test_a_talker_may_hear_nothing_of_what_is_read_ahead(omni: Omni, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = omni.runtime
    prompt = runtime.request([{"role": "user", "content": "word " * 200}], None, Options()).prompt
    monkeypatch.setattr(omni.model.talker, "hears", lambda ids: [])
    ahead = runtime.reading(prompt, runtime.block_keys(prompt), "Chelsie", Options())
    assert ahead
    (done,) = runtime.run(ahead)
    assert isinstance(done, Done)
