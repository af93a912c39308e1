"""The tokenizer: Qwen2's byte-level BPE in which every word of the world is one token, as are its forms in a sentence."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from demos.small_model.world import questions
from omni.families.qwen2_5_omni import SPEAKING
from omni.prompt.template import DEFAULT
from omni.prompt.tokenizer import WORDS

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>", "<|vision_bos|>",
    "<|vision_eos|>", "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>",
)  # fmt: skip
UNSEEN = ("tts_start", "tts_end", "tts_pad", "Chelsie", "Ethan")
"""Rows of the embedding that only the talker reads; they come after the specials and are no tokens."""
SYSTEM = "You are a helpful assistant."


def forms(word: str) -> tuple[str, ...]:
    """A word inside a text, at its start, and at the start of a sentence inside it."""
    large = word[0].upper() + word[1:]
    return tuple(dict.fromkeys((" " + word, large, word, " " + large)))


def all_words() -> list[str]:
    known = dict.fromkeys((*questions.vocabulary(), "system", "user", "assistant"))
    for word in (SYSTEM + " " + SPEAKING).replace(",", " ").replace(".", " ").split():
        if word.lower() not in known:
            known.setdefault(word)
    return list(known)


@lru_cache
def tokenizer() -> Tokenizer:
    cut = [
        pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(cut)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=1 << 16, min_frequency=1, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([form for word in all_words() for form in forms(word)], trainer)
    made.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIALS])
    return made


@lru_cache
def special(name: str) -> int:
    """Id of a special token, or of an unseen row."""
    if name in UNSEEN:
        return tokenizer().get_vocab_size() + UNSEEN.index(name)
    return tokenizer().get_vocab()[name]


def encode(text: str) -> list[int]:
    return tokenizer().encode(text, add_special_tokens=False).ids


def vocab_size() -> int:
    """Rows of the thinker's embedding, a multiple of 64."""
    return -(-(tokenizer().get_vocab_size() + len(UNSEEN)) // 64) * 64


@lru_cache
def word_of() -> list[int]:
    """For each row of the embedding, the row that it shares: all forms of a word are one."""
    rows = list(range(vocab_size()))
    for word in all_words():
        first, *others = (tokenizer().encode(form).ids for form in forms(word))
        assert len(first) == 1, word
        for other in others:
            assert len(other) == 1, word
            rows[other[0]] = first[0]
    return rows


def write_tokenizer_config(folder: Path, max_length: int) -> None:
    """tokenizer_config.json beside a tokenizer.json that holds the published special tokens."""
    named = {
        "image_token": "<|IMAGE|>",
        "audio_token": "<|AUDIO|>",
        "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    config = {
        "tokenizer_class": "Qwen2TokenizerFast",
        "processor_class": "Qwen2_5OmniProcessor",
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "model_max_length": max_length,
        "extra_special_tokens": named,
        "chat_template": DEFAULT,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
