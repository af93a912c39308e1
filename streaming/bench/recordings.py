"""Recordings as a bench says them: from the first voiced sample to the last, so that a clock can begin at either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from omni.streaming.audio.turn_detection import BARGE_IN_HOPS, HOP_MS, ServerVad, TurnDetector
from omni.streaming.audio.wire import FORMATS, Samples

RATE = FORMATS["audio/pcm"].rate
PIECE_MS = 20
PIECE_LEN = RATE * PIECE_MS // 1000
"""Samples of one message of the microphone."""

VOICED_DB = -40.0
"""How loud, against the loudest piece of its recording, a piece of voice is at least: "s" and "f" are, breath is not."""
QUIET_DB = -60.0
"""What the quietest piece must be below for that to be told: in noise nobody knows where the voice ends."""

DETECTOR_LAG_MS = 128
"""Four hops, which the detector may need beyond the hops of voice that it counts: a voice begins anywhere within a hop, and
its probability takes one to three of them to rise as high as it must while the model is being heard."""
BARGE_IN_MS = BARGE_IN_HOPS * HOP_MS + DETECTOR_LAG_MS
"""The window in which a voice that does not pause is noticed while the model is being heard."""
PHASE_MS = 4
"""Steps in which the place of a voice's beginning within a hop is tried."""


@dataclass(frozen=True)
class Conversation:
    """What somebody shows and asks.

    Attributes:
        picture: as a file; None where nothing is shown.
        questions: recordings, float32 `[S]` in -1..1, mono at 24 kHz.
    """

    picture: bytes | None
    questions: tuple[Samples, ...]


def utterance_of(recording: Samples) -> Samples | None:
    """From the first voiced piece to the last, whole pieces; None where noise hides them."""
    whole = recording[: len(recording) // PIECE_LEN * PIECE_LEN].reshape(-1, PIECE_LEN)
    power = np.mean(whole.astype(np.float64) ** 2, axis=1)
    if not len(power) or not power.max():
        return None
    level = 10 * np.log10(power / power.max() + 1e-12)
    if level.min() > QUIET_DB:
        return None
    voiced = np.flatnonzero(level > VOICED_DB)
    return whole[voiced[0] : voiced[-1] + 1].reshape(-1)


def utterances_of(conversations: Sequence[Conversation]) -> list[Conversation]:
    """The same conversations, of the questions those whose voice can be told, cut to it; none without questions."""
    cut = [
        Conversation(each.picture, tuple(utterance for q in each.questions if (utterance := utterance_of(q)) is not None))
        for each in conversations
    ]
    return [each for each in cut if each.questions]


def is_steady(utterance: Samples) -> bool:
    """Whether the server's detector notices it within BARGE_IN_MS, wherever in a hop it begins: many voices pause sooner."""
    return all(_noticed(utterance, phase_ms) for phase_ms in range(0, HOP_MS, PHASE_MS))


def _noticed(utterance: Samples, phase_ms: int) -> bool:
    detector = TurnDetector(ServerVad(), RATE)
    detector.push(np.zeros(RATE * (10 * HOP_MS + phase_ms) // 1000, np.float32), True)
    return bool(detector.push(utterance[: RATE * BARGE_IN_MS // 1000], True))
