"""How long a listener waits for the first sound after a turn, and what reading ahead while somebody talks costs the host.

The wait is told by the length of the turn and by how many came before. Host time is what passes inside `append_audio`,
on the thread that calls it: checking, resampling, log-mel, digests, prompt, positions, keys of blocks, and handing the
engine what is to be read. Each piece is appended once the engine has done with the one before, so neither its steps (towers,
thinker, talker) nor waiting for them are in it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from omni.api import Omni
from omni.encoders.waves import read_audio
from omni.errors import EvaluationError
from omni.evaluation.evaluate import read_set
from omni.events import AudioChunk
from omni.session import Session

RATE, PIECE = 16000, 4000
SHORT, LONG = 1.0, 20.0
ANSWER = "I see a red circle and two blue stars."
"""What is answered to every turn, so that only what was before the answer differs."""
SPOKEN = 1.5
"""Seconds of each answer's sound that are made."""
TURNS = 20
LIVE_SHORT, LIVE_LONG, LIVE_PIECE = 70.0, 280.0, 2.0
"""Seconds of the sounds that are read ahead, and of each of their pieces."""
LIVE_TRIES = 3
"""Of which the quickest counts: whatever else a machine does only adds."""
MOST_HOST, MOST_GROWTH = 1.0, 5.0
"""Seconds of host time for the long sound, and how much more of it than for the short one."""
MOST = 1.15
"""How much longer the wait may be after the long turn than after the short, and after the last turn than after the first."""


@dataclass(frozen=True)
class Waits:
    """Seconds until the first sound, in pairs measured one right after the other.

    Attributes:
        turns: after a short turn, and after a long one.
        sessions: in the first turn, and after many.
        host: seconds of host time to read a short sound ahead, and a long one.
    """

    turns: tuple[tuple[float, float], ...]
    sessions: tuple[tuple[float, float], ...]
    host: tuple[float, float]

    @property
    def missed(self) -> list[str]:
        """Marks that were missed."""
        pairs = (("a long turn", self.turns), ("many turns", self.sessions))
        waits = [f"after {name} the wait is {ratio(of):.2f} times as long" for name, of in pairs if ratio(of) > MOST]
        short, long = self.host
        if long > MOST_HOST:
            waits.append(f"reading {LIVE_LONG:g} s ahead takes {long:.2f} s of host time")
        if long > MOST_GROWTH * short:
            waits.append(
                f"reading {LIVE_LONG / LIVE_SHORT:g} times as much ahead takes {long / short:.1f} times the host time"
            )
        return waits


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """Of the second to the first, the median."""
    return median(b / a for a, b in pairs)


def measure(omni: Omni, *, repeats: int = 9) -> Waits:
    """Spoken turns, appended a quarter of a second at a time; what is compared takes turns."""
    speech = _speech()
    _wait_after(_session(omni), speech[: round(SHORT * RATE)])
    turns = []
    for i in range(repeats):
        # from another place each time, so that nothing is in the cache before it is said
        wave = np.roll(speech, -i * RATE)
        short, long = (_wait_after(_session(omni), wave[: round(seconds * RATE)]) for seconds in (SHORT, LONG))
        turns.append((short, long))
    session, sessions = _session(omni), []
    for k in range(TURNS - 1 + repeats):
        wave = np.roll(speech, -k * 777)[: 2 * RATE]
        wait = _wait_after(session, wave)
        if k >= TURNS - 1:
            sessions.append((_wait_after(_session(omni), np.roll(speech, -k * 777 - 333)[: 2 * RATE]), wait))
    hosts = []
    for i in range(min(repeats, LIVE_TRIES)):
        wave = np.roll(speech, -i * RATE)
        hosts.append([_host_time(_session(omni), wave, seconds) for seconds in (LIVE_SHORT, LIVE_LONG)])
    short, long = (min(of) for of in zip(*hosts, strict=True))
    return Waits(tuple(turns), tuple(sessions), (short, long))


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


def _host_time(session: Session, speech: NDArray[np.float32], seconds: float) -> float:
    """Of reading so many seconds of a turn ahead."""
    wave, size, host = np.resize(speech, round(seconds * RATE)), round(LIVE_PIECE * RATE), 0.0
    for at in range(0, len(wave), size):
        started = time.perf_counter()
        session.append_audio(wave[at : at + size], RATE)
        host += time.perf_counter() - started
        session.settle()
    return host


def show(waits: Waits, console: Console) -> None:
    table = Table(title="seconds until the first sound, medians", title_justify="left")
    for name in ("turn", "wait", "turn", "wait", "times as long"):
        table.add_column(name, justify="left" if name == "turn" else "right")
    for names, pairs in (
        ((f"of {SHORT:g} s", f"of {LONG:g} s"), waits.turns),
        (("the first", f"after {TURNS - 1} others"), waits.sessions),
    ):
        first, second = (median(of) for of in zip(*pairs, strict=True))
        table.add_row(names[0], f"{first:.3f}", names[1], f"{second:.3f}", f"{ratio(pairs):.2f}")
    console.print(table)
    short, long = waits.host
    console.print(
        f"host time of reading ahead in pieces of {LIVE_PIECE:g} s: {short:.3f} s for {LIVE_SHORT:g} s of sound, "
        f"{long:.3f} s for {LIVE_LONG:g} s, {long / short:.2f} times as long"
    )
