"""The thinker's embedding, which is not learned: what the talker hears of a word does not wait for the thinker."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from demos.small_model.nets.sizes import HIDDEN
from demos.small_model.nets.words import UNSEEN, tokenizer, vocab_size, word_of


def text_table() -> Tensor:
    """float32 `[vocab, HIDDEN]`, RMS 1; a row follows from its word alone, so it is the same wherever the word stands."""
    known = tokenizer().get_vocab_size()
    names = [tokenizer().id_to_token(i) or "" for i in range(known)] + list(UNSEEN)
    names += [f"unused {i}" for i in range(len(names), vocab_size())]
    draws = [torch.randn(HIDDEN, generator=torch.Generator().manual_seed(zlib.crc32(name.encode()))) for name in names]
    return torch.stack(draws)[word_of()]
