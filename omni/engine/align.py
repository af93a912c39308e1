"""When each token of an answer is spoken, or was heard: attention to thoughts, or to the rows of a sound, followed in order.

Whisper times words so (its `timing.py`), with heads found by hand. Here they are found in a whole speech: those whose
attention tells most about time, by the mutual information of code and thought along the best monotone path. In a speech that
was broken off early, heads that look at the newest thought would seem to tell most: text runs ahead of sound. What was heard
is whole, so its heads are found each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from omni.events import Word

NUM_HEADS = 3
"""Heads whose evidence is added up."""
FLOOR = 1e-6


def join_words(pieces: Sequence[str], times: Sequence[float]) -> list[Word]:
    """Words of the texts of tokens, which begin at `times`; one time more says when the last has ended."""
    words: list[Word] = []
    for piece, start, end in zip(pieces, times[:-1], times[1:], strict=True):
        if words and not (piece[:1].isspace() or words[-1].text[-1:].isspace()):
            words[-1] = Word(words[-1].text + piece, words[-1].start, end)
        elif piece:
            words.append(Word(piece, start, end))
    return words


def telling_heads(scores: Tensor) -> list[int]:
    """The heads that tell most about time in a whole speech.

    scores: `[heads, T, n]`, of T codes to n text rows, -inf at rows that come later.
    """
    return np.argsort(-_best_path(_evidence(scores))[1])[:NUM_HEADS].tolist()


def token_starts(scores: Tensor) -> list[int]:
    """The code at which each text row begins to be spoken; the number of codes for those that are not reached.

    scores: `[heads, T, n]`, of heads that tell.
    """
    num_codes, num_rows = scores.shape[1:]
    if not num_codes or not num_rows:
        return [num_codes] * num_rows
    path = _best_path(_evidence(scores).sum(0, keepdims=True))[0][0]
    return [int(np.searchsorted(path, row)) for row in range(num_rows)]


def heard_rows(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> list[tuple[int, int]]:
    """The first row of a sound that each id of its transcript was heard in, and the one behind the last.

    None where there are more ids than rows.

    Args:
        queries: of each layer, of the rows that found the ids, turned: `[n, H, D]`.
        keys: of each layer, of the sound's rows: `[R, K, D]`.
    """
    num_ids, num_rows = len(queries[0]), len(keys[0])
    if not 0 < num_ids <= num_rows:
        return []
    best: list[tuple[float, NDArray[np.float64]]] = []
    for q, k in zip(queries, keys, strict=True):  # all heads of a large model at once would take gigabytes
        k = k.float().repeat_interleave(q.shape[1] // k.shape[1], 1)
        scores = torch.einsum("thd,nhd->htn", q.float(), k) * q.shape[-1] ** -0.5
        evidence = _evidence(scores).transpose(0, 2, 1)  # [H, R, n]
        told = _best_path(evidence, whole=True)[1]
        best = sorted([*best, *zip(told, evidence, strict=True)], key=lambda head: -head[0])[:NUM_HEADS]
    path = _best_path(np.sum([evidence for _, evidence in best], 0)[None], whole=True)[0][0]
    ends = np.searchsorted(path, np.arange(num_ids + 1)).tolist()
    return list(pairwise(ends))


def _evidence(scores: Tensor) -> NDArray[np.float64]:
    attention = scores.float().softmax(-1).clamp(min=FLOOR)
    # how much likelier than over the whole speech: who always looks at the same row says nothing about when
    return (attention / attention.mean(1, keepdim=True)).log().cpu().numpy().astype(np.float64)


def _best_path(evidence: NDArray[np.float64], *, whole: bool = False) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each of `[heads, T, n]` the row of every code, never going back and leaving none out, and what it adds up to.

    whole: it ends at the last row.
    """
    heads, num_codes, num_rows = evidence.shape
    total = np.full((heads, num_rows), -np.inf)
    total[:, 0] = evidence[:, 0, 0]
    went_on = np.zeros((num_codes, heads, num_rows), bool)
    for t in range(1, num_codes):
        before = np.concatenate((np.full((heads, 1), -np.inf), total[:, :-1]), 1)
        went_on[t] = before > total
        total = np.maximum(before, total) + evidence[:, t]
    row = np.full(heads, num_rows - 1) if whole else total.argmax(1)
    best = total[np.arange(heads), row]
    path = np.empty((heads, num_codes), np.int64)
    for t in range(num_codes - 1, -1, -1):
        path[:, t] = row
        row = row - went_on[t, np.arange(heads), row]
    return path, best


def attention_scores(queries: list[Tensor], keys: list[Tensor], first: int, num_rows: int) -> Tensor:
    """Scores `[layers * H, T, num_rows]` of rows from `first` on to the text rows among them, each of them in its place.

    Args:
        queries, keys: of each layer, turned: `[N, H, D]`, `[N, K, D]`.
    """
    out = []
    for q, k in zip(queries, keys, strict=True):
        q, k = q[first:].float(), k[first : first + num_rows].float()
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        scores = torch.einsum("thd,nhd->htn", q, k) * q.shape[-1] ** -0.5
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(1)
        out.append(scores.masked_fill(later, -torch.inf))
    return torch.cat(out)
