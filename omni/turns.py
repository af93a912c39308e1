"""How long a listener waits for the first sound after a turn, by the length of the turn and by how many came before."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from omni.api import Omni
from omni.encoders.media import read_audio
from omni.errors import EvaluationError
from omni.evaluate import read_set
from omni.events import AudioChunk
from omni.session import Session

RATE, PIECE = 16000, 4000
SHORT, LONG = 1.0, 20.0
ANSWER = "I see a red circle and two blue stars."
"""What is answered to every turn, so that only what was before the answer differs."""
SPOKEN = 1.5
"""Seconds of each answer's sound that are made."""
TURNS = 20
MOST = 1.15
"""How much longer the wait may be after the long turn than after the short, and after the last turn than after the first."""


@dataclass(frozen=True)
class Waits:
    """Seconds until the first sound, each the median of several."""

    short_turn: float
    long_turn: float
    first_turn: float
    last_turn: float

    @property
    def missed(self) -> list[str]:
        """Marks that were missed."""
        pairs = (("a long turn", self.long_turn, self.short_turn), ("the last turn", self.last_turn, self.first_turn))
        return [f"after {name} the wait is {a / b:.2f} times as long" for name, a, b in pairs if a > MOST * b]


def measure(omni: Omni, *, repeats: int = 5) -> Waits:
    """Spoken turns, appended a quarter of a second at a time; long and short ones take turns."""
    speech = _speech()
    waits: dict[float, list[float]] = {SHORT: [], LONG: []}
    first, last = list[float](), list[float]()
    _wait_after(_session(omni), speech[: round(SHORT * RATE)])
    for i in range(repeats):
        for seconds, found in waits.items():
            # from another place each time, so that nothing is in the cache before it is said
            wave = np.roll(speech, -i * RATE)[: round(seconds * RATE)]
            found.append(_wait_after(_session(omni), wave))
        session = _session(omni)
        turns = [_wait_after(session, np.roll(speech, -(i * TURNS + k) * 777)[: 2 * RATE]) for k in range(TURNS)]
        first.append(turns[0])
        last.append(turns[-1])
    return Waits(median(waits[SHORT]), median(waits[LONG]), median(first), median(last))


def _session(omni: Omni) -> Session:
    return omni.session(voice=omni.default_voice, seed=1, max_audio_seconds=SPOKEN)


def _speech() -> NDArray[np.float32]:
    """Questions of the packaged set, one after the other."""
    cases = read_set(None, ["hears"]).cases
    parts = [part for case in cases for turn in case.turns for part in turn.content if part["type"] == "audio"]
    waves = [read_audio(part["audio"], rate=RATE) for part in parts]
    if sum(map(len, waves)) < LONG * RATE:
        raise EvaluationError(f"the evaluation set has less than {LONG:g} s of speech; make it again")
    return np.concatenate(waves)[: round((LONG + 10) * RATE)]


def _wait_after(session: Session, wave: NDArray[np.float32]) -> float:
    """Seconds from the last sample of a turn to the first of its answer, which is then heard to its end.

    The answer is given: what the model would find itself has another length each time, which would be timed instead.
    """
    last = (len(wave) - 1) // PIECE * PIECE
    for at in range(0, last, PIECE):
        session.append_audio(wave[at : at + PIECE], RATE)
        session.settle()  # as there would be time for while somebody talks
    asked, wait = time.perf_counter(), float("nan")
    session.append_audio(wave[last:], RATE)
    for event in session.say(ANSWER):
        if isinstance(event, AudioChunk) and np.isnan(wait):
            wait = time.perf_counter() - asked
    return wait


def show(waits: Waits, console: Console) -> None:
    table = Table(title="until the first sound", title_justify="left")
    table.add_column("turn")
    table.add_column("wait", justify="right")
    for name, seconds in (
        (f"of {SHORT:g} s", waits.short_turn),
        (f"of {LONG:g} s", waits.long_turn),
        ("the first", waits.first_turn),
        (f"after {TURNS - 1} others", waits.last_turn),
    ):
        table.add_row(name, f"{seconds:.3f} s")
    console.print(table)
