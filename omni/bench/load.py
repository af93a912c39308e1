"""Load: conversations that come and go at random, each with a listener, and what they got of it.

Fields are named as `vllm bench serve --omni` names them; times are a client's own.
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from omni.api import Omni
from omni.engine.scheduler import Policy, first_come_first_served, first_sound_first
from omni.errors import OmniError
from omni.evaluation.evaluate import MAX_AUDIO_SECONDS, MAX_TOKENS, Case, read_set
from omni.events import AudioChunk, Done

POLICIES: Mapping[str, Policy] = {"first sound first": first_sound_first, "fifo": first_come_first_served}
PAUSE = 1.0
"""Mean seconds, exponentially spread, between the end of an answer's sound and the next question of a session."""
SMOOTH = 0.1
"""Seconds of silence inside an answer below which it counts as continuous."""
LEAST_GAIN = 2.5
"""How many times the sound of one session the largest number of them should get out of the machine."""


@dataclass
class Answer:
    """What one question got.

    Attributes:
        ttfp: seconds from asking to the first sound; None where there was none.
        underrun: seconds in which its player had nothing to play, between the first sound and the last.
        audio, total: seconds of sound, and from asking until all of it was there.
    """

    ttfp: float | None = None
    underrun: float = 0.0
    audio: float = 0.0
    total: float = 0.0


@dataclass(frozen=True)
class Figures:
    """Of all answers of one run; milliseconds and seconds by their names."""

    policy: str
    sessions: int
    requests: int
    failed: int
    mean_audio_ttfp_ms: float
    median_audio_ttfp_ms: float
    p99_audio_ttfp_ms: float
    mean_e2el_ms: float
    mean_audio_rtf: float
    audio_underrun_s: float
    continuity_ok: float
    audio_duration_s: float
    audio_throughput: float
    request_throughput: float


@dataclass
class _Run:
    """One policy at one number of sessions."""

    omni: Omni
    cases: Sequence[Case]
    sessions: int
    questions: int
    seed: int
    answers: list[Answer] = field(default_factory=list)
    errors: list[OmniError] = field(default_factory=list)

    def go(self) -> float:
        """Seconds that it took until all sessions had their answers."""
        started = time.perf_counter()
        threads = [threading.Thread(target=self._session, args=(Random(f"{self.seed} {i}"),)) for i in range(self.sessions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _session(self, rng: Random) -> None:
        for _ in range(self.questions):
            time.sleep(rng.expovariate(1 / PAUSE))
            case = rng.choice(self.cases)
            try:
                answer, left = self._ask(case, rng.randrange(2**32))
            except OmniError as e:
                self.errors.append(e)
                continue
            self.answers.append(answer)
            time.sleep(left)

    def _ask(self, case: Case, seed: int) -> tuple[Answer, float]:
        """An answer, and seconds of its sound that are still to be played."""
        answer, asked, played_out = Answer(), time.perf_counter(), 0.0
        for event in self.omni.stream(
            [{"role": "user", "content": case.turns[0].content}],
            voice=case.voice,
            seed=seed,
            max_tokens=MAX_TOKENS,
            max_audio_seconds=MAX_AUDIO_SECONDS,
        ):
            now = time.perf_counter()
            match event:
                case AudioChunk():
                    if answer.ttfp is None:
                        answer.ttfp = now - asked
                    else:
                        answer.underrun += max(0.0, now - played_out)
                    seconds = len(event.samples) / event.sample_rate
                    played_out = max(now, played_out) + seconds
                    answer.audio += seconds
                case Done():
                    answer.total = now - asked
        return answer, max(0.0, played_out - time.perf_counter())


def measure(
    omni: Omni, sessions: Sequence[int], *, questions: int = 8, seed: int = 0, notes: Console | None = None
) -> list[Figures]:
    """Figures of every policy at every number of sessions, after a round to warm up; policies take turns.

    OmniError: what the model said where nobody got an answer in that round, such as that it does not hear.
    """
    cases = [case for case in read_set(None, ["speaks"]).cases if case.turns and case.voice]
    first = _Run(omni, cases, max(sessions), 1, seed - 1)
    first.go()
    if not first.answers:
        raise first.errors[0]
    out = []
    for count in sessions:
        for name, policy in POLICIES.items():
            omni.engine.policy = policy
            run = _Run(omni, cases, count, questions, seed)
            seconds = run.go()
            out.append(_figures(name, run, seconds))
            if notes:
                notes.print(f"{count} sessions, {name}: {seconds:.0f} s", style="dim", highlight=False)
    omni.engine.policy = first_sound_first
    return out


def _figures(policy: str, run: _Run, seconds: float) -> Figures:
    answers = run.answers
    first = sorted(a.ttfp for a in answers if a.ttfp is not None) or [float("nan")]
    spoken = [a for a in answers if a.audio] or [Answer(audio=float("nan"))]
    audio = sum(a.audio for a in answers)
    return Figures(
        policy=policy,
        sessions=run.sessions,
        requests=len(answers),
        failed=len(run.errors),
        mean_audio_ttfp_ms=1000 * mean(first),
        median_audio_ttfp_ms=1000 * first[len(first) // 2],
        p99_audio_ttfp_ms=1000 * first[min(len(first) - 1, int(0.99 * len(first)))],
        mean_e2el_ms=1000 * mean(a.total for a in spoken),
        mean_audio_rtf=mean(a.total / a.audio for a in spoken),
        audio_underrun_s=sum(a.underrun for a in answers),
        continuity_ok=mean(a.underrun < SMOOTH for a in spoken),
        audio_duration_s=audio,
        audio_throughput=audio / seconds,
        request_throughput=len(answers) / seconds,
    )


def gain(figures: Sequence[Figures]) -> float:
    """Seconds of sound a second at the most sessions, over that at the fewest, by the first policy."""
    own = [f for f in figures if f.policy == next(iter(POLICIES))]
    return max(own, key=lambda f: f.sessions).audio_throughput / min(own, key=lambda f: f.sessions).audio_throughput


def missed(figures: Sequence[Figures]) -> list[str]:
    """Marks that were missed."""
    out = [f"{f.failed} requests failed at {f.sessions} sessions" for f in figures if f.failed]
    if (reached := gain(figures)) < LEAST_GAIN:
        out.append(f"the most sessions got {reached:.2f} times the sound of the fewest; it should be {LEAST_GAIN}")
    ours, fifo = ([f for f in figures if f.policy == name] for name in POLICIES)
    if ours[-1].p99_audio_ttfp_ms > fifo[-1].p99_audio_ttfp_ms:
        out.append("first sound came later than first come first served would have it")
    return out


def show(figures: Sequence[Figures], console: Console) -> None:
    title = "seconds to the first sound (p50, p99), of silence inside answers, of sound for each second"
    table = Table(title=title, title_justify="left")
    for name in ("n", "policy", "p50", "p99", "factor", "silent", "smooth", "sound"):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for f in figures:
        table.add_row(
            str(f.sessions),
            f.policy,
            f"{f.median_audio_ttfp_ms / 1000:.2f}",
            f"{f.p99_audio_ttfp_ms / 1000:.2f}",
            f"{f.mean_audio_rtf:.2f}",
            f"{f.audio_underrun_s:.1f}",
            f"{100 * f.continuity_ok:.0f} %",
            f"{f.audio_throughput:.2f}",
        )
    console.print(table)


def write(figures: Sequence[Figures], omni: Omni, path: Path) -> None:
    tree: dict[str, Any] = {
        "versions": {"omni": version("omni-runtime"), "torch": torch.__version__, "python": platform.python_version()},
        "device": str(omni.engine.device),
        "threads": torch.get_num_threads(),
        "rtf": "seconds from asking until the last sound was there, over seconds of sound, as the client sees them",
        "figures": [asdict(f) for f in figures],
        "gain": gain(figures),
    }
    path.write_text(json.dumps(tree, indent=1) + "\n")
