# mypy: disable-error-code="untyped-decorator"
# (the configuration skips hypothesis' types)
from __future__ import annotations

import json
import unicodedata
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

from omni.errors import CheckpointError
from omni.prompt.tokenizer import Special, StreamDecoder, Tokenizer, read_added
from tests.omni.prompt.tiny_tokenizer import (
    NAMES,
    QWEN2_5,
    QWEN3,
    WORDS_AMONG,
    added,
    library,
    specials,
    vocabulary,
    write_one,
    write_parts,
)

# letters that the cut or NFC treats in some way of their own, and words that merges know
ODD = [
    *(
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u3000",
        "\u2000",
        "\x1c",
        "\u0085",
        "\u200b",
        "a",
        "Z",
        "ſ",
        "'",
        "'s",
        "'LL",
    ),
    *(
        "’",
        "!",
        "?!",
        "，",
        "。",
        "·",
        "\u0387",
        "\u037e",
        "「",
        "<",
        "|>",
        "_",
        "-",
        "1",
        "2",
        "²",
        "Ⅷ",
        "٣",
        "é",
        "e\u0301",
    ),
    *("\u0301", "\u0327", "\u0338", "=\u0338", "\u0958", "\u0929", "\u0928\u093c", "\u09c7", "\u09be", "\u212b", "\u2126"),
    *("\u1100", "\u1161", "\u11a8", "각", "你好", "你", "ー", "\uf900", "\u2329", "😀", "👩\u200d🔬", "\u0345", "\u1e69"),
    *("hello", " hello", " the", "<|im_end|>"),
]
texts = st.lists(st.sampled_from(ODD) | st.text(max_size=3), max_size=12).map("".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_one(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.read(folder)


class Words(Tokenizer):
    """One id for each word of the cut: a wrong cut shows even where no merge spans it."""

    ids: ClassVar[dict[str, int]] = {}

    def encode(self, text: str) -> list[int]:
        words = self._words.pre_tokenizer.pre_tokenize_str(unicodedata.normalize("NFC", text))
        return [self.ids.setdefault(word, len(self.ids)) for word, _ in words]


@pytest.fixture(scope="module")
def words(folder: Path) -> Tokenizer:
    return Words.read(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path) -> tokenizers.Tokenizer:
    return library(folder)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.read(write_parts(tmp_path_factory.mktemp("parts")))


@given(text=texts)
def test_both_file_forms_encode_as_the_library_does(
    text: str, tokenizer: Tokenizer, parts: Tokenizer, theirs: tokenizers.Tokenizer
) -> None:
    assert parts.encode(text) == tokenizer.encode(text)
    assert parts.specials == tokenizer.specials == specials()
    assert parts.decode([*specials().values()]) == tokenizer.decode([*specials().values()]) == "<tool_call></tool_call>"
    if not any(name in text for name in NAMES):
        assert tokenizer.encode(text) == theirs.encode(text).ids


@pytest.mark.oracle
@pytest.mark.parametrize("names", [QWEN2_5, QWEN3])
@given(text=texts)
def test_text_families_have_the_ids_of_transformers(names: list[str], text: str) -> None:
    """Encoded and decoded; ids between the tokenizer's last and the embedding's last row are no text."""
    ours, theirs = both(tuple(names))
    ids = ours.encode(text)
    if not any(name in text for name in names):
        assert ids == theirs(text)["input_ids"], "no id before or after"
        assert ours.decode(ids) == theirs.decode(ids) == unicodedata.normalize("NFC", text)
    mixed = [*ids[:3], *ours.specials.values(), *ids[3:], 400, 511]
    assert ours.decode(mixed) == ours.decode(mixed[:-2]) == theirs.decode(mixed[:-2], skip_special_tokens=True)
    assert [ours.decode([id]) for id in specials(names).values()] == [name if name in WORDS_AMONG else "" for name in names]


@cache
def both(names: tuple[str, ...]) -> tuple[Tokenizer, Any]:
    from transformers import AutoTokenizer

    with TemporaryDirectory() as folder:
        write_one(Path(folder), names=names)
        return Tokenizer.read(Path(folder)), AutoTokenizer.from_pretrained(folder)


def test_parts_with_a_config_say_which_tokens_are_words(tmp_path: Path) -> None:
    """Published so since Qwen2: `<|fim_prefix|>` is a word, whatever it looks like."""
    write_parts(tmp_path)
    (tmp_path / "added_tokens.json").unlink()
    listed = {str(token["id"]): {key: token[key] for key in ("content", "special")} for token in added(QWEN3)}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    tokenizer = Tokenizer.read(tmp_path)
    assert tokenizer.specials == specials(QWEN3)
    assert tokenizer.decode(specials(QWEN3).values()) == "".join(name for name in QWEN3 if name in WORDS_AMONG)


@pytest.mark.parametrize("name", NAMES)
def test_encode_never_makes_a_special_token(name: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(f"a{name}b {name}")
    assert tokenizer.special(name) not in ids
    assert tokenizer.decode(ids) == f"a{name}b {name}"


def test_encode_joins_surrogates(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a\ud83d\ude00") == tokenizer.encode("a😀")
    assert tokenizer.decode(tokenizer.encode("\ude00 x\ud83d")) == "\ufffd x\ufffd"


def test_encode_runs(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_runs([Special("<|im_start|>"), "user <|im_end|>", Special("<|im_end|>")])
    assert ids == [tokenizer.special("<|im_start|>"), *tokenizer.encode("user <|im_end|>"), tokenizer.special("<|im_end|>")]


def test_special_of_no_name(tokenizer: Tokenizer) -> None:
    with pytest.raises(CheckpointError, match=r"no '<\|nothing\|>'"):
        tokenizer.special("<|nothing|>")


@given(text=texts)
def test_decode_of_encode_is_nfc(text: str, tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


IDS = st.integers(0, len(vocabulary()[0]) - 1) | st.sampled_from(sorted(specials().values())) | st.just(5000)


@given(ids=st.lists(IDS, max_size=12))
@example(ids=[0xF0, 0x9F, 0x98, 0x80])
@example(ids=[0xE2, 0x28, 0xA1, 0xF0, 0x90, 0x28, 0xBC, 0xED, 0xA0, 0x80, 0xC0, 0xAF])
def test_decode_in_pieces_equals_the_library(ids: list[int], theirs: tokenizers.Tokenizer, tokenizer: Tokenizer) -> None:
    whole = theirs.decode(ids, skip_special_tokens=True)
    decoder = StreamDecoder(tokenizer)
    state, said = decoder.start(), ""
    for id in ids:
        delta = decoder.step(state, [id])
        said += delta
        assert whole.startswith(said)
    assert said + decoder.finish(state) == whole == tokenizer.decode(ids)


def test_decode_waits_for_whole_characters(tokenizer: Tokenizer) -> None:
    decoder = StreamDecoder(tokenizer)
    state = decoder.start()
    assert [decoder.step(state, [byte]) for byte in "é😀".encode()] == ["", "é", "", "", "", "😀"]
    assert decoder.step(state, [0xF0, 0x9F]) == ""
    assert decoder.finish(state) == "\ufffd"
    assert decoder.finish(state) == ""


def test_decode_drops_control_tokens_and_keeps_added_words(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.special("<|im_end|>"), *tokenizer.encode("hello"), tokenizer.special("<tool_call>"), 151859]
    assert tokenizer.decode(ids) == "hello<tool_call>"


def test_read_says_what_is_missing(tmp_path: Path) -> None:
    for name in ("vocab.json", "merges.txt", "added_tokens.json"):
        with pytest.raises(CheckpointError, match=name):
            Tokenizer.read(tmp_path)
        (tmp_path / name).write_text("{}" if name.endswith("json") else "#version: 0.2\n")
    assert Tokenizer.read(tmp_path).specials == {}


def test_added_tokens(folder: Path, tmp_path: Path) -> None:
    added = read_added(folder)
    assert added == read_added(write_parts(tmp_path))
    assert list(added) == NAMES
    assert [name for name, token in added.items() if token.is_word] == ["<tool_call>", "</tool_call>"]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is damaged"):
        read_added(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}, "added_tokens": []}'),
        ("tokenizer.json", '{"model": {"type": "Unigram"}, "decoder": null}'),
        ("vocab.json", "[]"),
        ("merges.txt", "#version: 0.2\nno\n"),
        ("added_tokens.json", '{"<|a|>": "x"}'),
    ],
)
def test_read_says_what_is_damaged(name: str, text: str, tmp_path: Path) -> None:
    write_parts(tmp_path)
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError, match=str(tmp_path)):
        Tokenizer.read(tmp_path)


@pytest.mark.oracle
def test_encode_and_decode_as_transformers(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    for text in ["hello the  1234 'll\n\n", "e\u0301 你好，你  ", json.dumps({"a": [1, "é"]}), *ODD]:
        if text not in NAMES:
            ids = theirs(text)["input_ids"]
            assert tokenizer.encode(text) == ids
            assert tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
