"""Text to token ids and back, for the byte-level BPE of the Qwen family."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from omni.errors import CheckpointError
from omni.loading.json import is_there, read_json

WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Qwen2's cut of a text into words, each of which BPE encodes by itself."""


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level vocabularies write for the 256 bytes (GPT-2): themselves where they print."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_letters()


@dataclass(frozen=True)
class Special:
    """A special token of a prompt, by its name."""

    name: str


Run: TypeAlias = Special | str
"""A piece of a prompt: a special token, or text that holds none whatever it looks like."""


@dataclass(frozen=True)
class AddedToken:
    """A token beside the vocabulary.

    is_word: of the model's own language, such as `<tool_call>`, and shown in text; else a control token, which never is.
    """

    id: int
    is_word: bool


class Tokenizer:
    """Encodes text as text: strings that look like control tokens get no special id, `special` is the one way to those.

    Attributes:
        specials: every added token -> its id, also those that are ordinary words to a model (`<tool_call>`).
    """

    def __init__(self, words: tokenizers.Tokenizer, added: Mapping[str, AddedToken]) -> None:
        """`words` knows no added tokens."""
        self.specials = {name: token.id for name, token in added.items()}
        self._words = words
        self._bytes_of = {token.id: name.encode() if token.is_word else b"" for name, token in added.items()}

    @classmethod
    def read(cls, folder: Path) -> Tokenizer:
        """From `tokenizer.json`, or else `vocab.json`, `merges.txt` and `added_tokens.json`; or CheckpointError."""
        path = folder / "tokenizer.json"
        try:
            return cls._from_one(path) if is_there(path) else cls._from_parts(folder)
        except (CheckpointError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as e:  # the library raises bare Exception, and of a panic in it not even that
            raise CheckpointError(f"the tokenizer in {folder} is damaged ({type(e).__name__}: {e}); fetch it again") from e

    @classmethod
    def _from_one(cls, path: Path) -> Tokenizer:
        data = dict(read_json(path))
        if "pre_tokenizer" not in data:  # of a GGUF, which names Qwen2's
            pieces = data["model"]
            return cls(_built(models.BPE(pieces["vocab"], pieces["merges"])), _added(data["added_tokens"]))
        if data["model"]["type"] != "BPE" or "ByteLevel" not in json.dumps(data["decoder"]):
            raise CheckpointError(
                f"{path} holds no byte-level BPE, the only kind that omni reads; take a checkpoint with it"
            )
        # without its added tokens the library cannot find them in a text
        words = tokenizers.Tokenizer.from_str(json.dumps(data | {"added_tokens": [], "truncation": None, "padding": None}))
        return cls(words, _added(data["added_tokens"]))

    @classmethod
    def _from_parts(cls, folder: Path) -> Tokenizer:
        vocab, merges = folder / "vocab.json", folder / "merges.txt"
        for path in (vocab, merges):
            if not path.exists():
                raise CheckpointError(f"{folder} holds neither tokenizer.json nor {path.name}; fetch it again")
        return cls(_built(models.BPE(*models.BPE.read_file(str(vocab), str(merges)))), read_added(folder))

    @property
    def last(self) -> dict[str, int]:
        """The words with the largest ids, in the vocabulary and beside it."""
        vocab = self._words.get_vocab(with_added_tokens=False)
        return dict(max(words.items(), key=lambda item: item[1]) for words in (vocab, self.specials) if words)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, in which no control token can be written."""
        try:
            text.encode()
        except UnicodeEncodeError:  # half a surrogate pair, as JSON can carry; pairs are joined, halves become U+FFFD
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        # alone in a batch, so that a long text does not keep all other threads waiting
        return self._words.encode_batch_fast([text], add_special_tokens=False)[0].ids

    def encode_runs(self, runs: Iterable[Run]) -> list[int]:
        """Ids of a prompt (`Template.render`)."""
        ids: list[int] = []
        for run in runs:
            ids += [self.special(run.name)] if isinstance(run, Special) else self.encode(run)
        return ids

    def special(self, name: str) -> int:
        """Id of an added token."""
        if name not in self.specials:
            raise CheckpointError(f"the tokenizer has no {name!r}, which the model needs; are all files of one checkpoint?")
        return self.specials[name]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids; see `StreamDecoder`."""
        decoder = StreamDecoder(self)
        state = decoder.start()
        return decoder.step(state, ids) + decoder.finish(state)

    def bytes_of(self, id: int) -> bytes:
        """UTF-8 of one token: maybe a part of a character, nothing for a control token.

        Nothing too for an id without an entry, though the embedding has a row for it: the model's head can draw one (it has
        152 064 rows for 151 665 entries), and an answer under way must not break on that.
        """
        if id in self._bytes_of:
            return self._bytes_of[id]
        letters = self._words.id_to_token(id)
        if letters is None:
            return b""
        if not BYTE_OF.keys() >= set(letters):  # no byte-level entry, but a string as it is
            return letters.encode()
        return bytes(BYTE_OF[letter] for letter in letters)


@dataclass
class DecodeState:
    """`tail`: bytes of a character that is not whole yet."""

    tail: bytes = b""


class StreamDecoder:
    """Text as its ids arrive: only whole characters, and none that a later id could change.

    Control tokens are dropped; bytes that are no UTF-8 become U+FFFD, as soon as that is certain.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def bytes_of(self, id: int) -> bytes:
        """The bytes that one id stands for, maybe a part of a character."""
        return self._tokenizer.bytes_of(id)

    def start(self) -> DecodeState:
        return DecodeState()

    def step(self, state: DecodeState, ids: Iterable[int]) -> str:
        """The text that these ids complete."""
        return self._decode(state, b"".join(map(self._tokenizer.bytes_of, ids)), final=False)

    def finish(self, state: DecodeState) -> str:
        """What is left: U+FFFD for a character cut off in the middle, else nothing."""
        return self._decode(state, b"", final=True)

    def _decode(self, state: DecodeState, data: bytes, final: bool) -> str:
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        text = utf8.decode(state.tail + data, final)
        state.tail = utf8.getstate()[0]
        return text


def _built(model: models.BPE) -> tokenizers.Tokenizer:
    """Qwen2's way with text around its BPE."""
    words = tokenizers.Tokenizer(model)
    words.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(tokenizers.Regex(WORDS), behavior="isolated")
    words.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    words.decoder = decoders.ByteLevel()
    return words


def read_added(folder: Path) -> dict[str, AddedToken]:
    """The added tokens of the tokenizer in a folder by name, without reading the rest of it."""
    whole, config = folder / "tokenizer.json", folder / "tokenizer_config.json"
    path = whole if is_there(whole) else config
    try:
        if is_there(whole):
            return _added(read_json(whole)["added_tokens"])
        if config.exists() and (listed := read_json(config).get("added_tokens_decoder")):
            return _added([{"id": int(id), **item} for id, item in listed.items()])
        path = folder / "added_tokens.json"
        # this one does not say which of them are words; by the family's custom `<|...|>` are not
        return {name: AddedToken(int(id), not re.fullmatch(r"<\|.*\|>", name)) for name, id in read_json(path).items()}
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        raise CheckpointError(f"{path} is damaged ({type(e).__name__}: {e}); fetch it again") from e


def _added(items: Iterable[Mapping[str, Any]]) -> dict[str, AddedToken]:
    return {item["content"]: AddedToken(item["id"], not item["special"]) for item in items}
