"""Where text is cut, and that nothing of it is lost."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni.script.sentences import SentenceCutter, has_words, plain


def cut(text: str, longest: int = 300) -> list[str]:
    cutter = SentenceCutter(longest)
    state = cutter.start()
    return cutter.step(state, text) + cutter.finish(state)


WRAPPED = "This line was broken where the window of its writer ended, and\nit goes on."
TABLE = [
    "I see a red circle. |I see a blue star.",
    "I see a red circle.\n|I see a blue star.\n",
    "i see a red circle. |i see a blue star! |and you?",
    "milk\n|eggs\n|two loaves of bread",
    "One.\r\n|Two.\r\n|\r\nThree.",
    "Shopping:\n|- milk\n|- eggs\n|* bread",
    "1. Take it.\n|2. Eat it.\n|3) Go.",
    "a) One.\n|b) Two.",
    "First part\n|\nSecond part",
    WRAPPED,
    WRAPPED.replace("and\nit", "and.\n|It"),
    "Dr. Smith met J. R. R. Tolkien and Prof. Lee at 3.30 p.m. in St. Ives. |They ate 2.5 kg.",
    "It is at 3 p.m. |Come.",
    "Version 1.2.3 costs $3.50! |Really? |Yes.",
    "See e.g. this one, i.e. No. 5 on p. 7 of vol. 2. |No. |Never.",
    "The U.S. Army left. |It is so.",
    "So do I. |And you?",
    'He said: "Stop! |Now." |Then he left. |(It was late.) |OK... fine, then.',
    '"Why?" she asked. |"Because." |He went.',
    "Yahoo! is a firm. |Is it?! |Yes!!! |Hm… |Well.",
    "Visit https://example.com/a.b?c=d. |Or www.foo.org/x! |Mail me@foo.org.",
    "Mr.\nSmith is here.",
    "Das ist z.B. gut. |Das kostet 3,5 Mio. Euro. |Am 3. Mai kam er. |Er blieb 5. |Dann ging er.",
    "¿Qué? |¡No! |El Sr. Ruiz llegó.",
    "你好。|我是学生！|你呢？|他说：“走吧。”|然后走了。",
    "これは本です。|「はい。」|そうです！",
    "यह एक वाक्य है। |दूसरा वाक्य।",
    "مرحبا؟ |كيف حالك؟ |أنا بخير.",
    "Это т.е. ул. Мира. |Он ушёл.",
    "Բարև։ |Լավ է։",
    "...",
    "   \n ",
    "",
    "Node.js and foo.bar() run.Fine",
    "Is it 5? |6 is more. |I have 5. |You have 6.",
    "😀! |Good.",
]


@pytest.mark.parametrize("marked", TABLE)
def test_where_sentences_end(marked: str) -> None:
    assert cut(marked.replace("|", "")) == [piece for piece in marked.split("|") if piece]


LONG = [
    ("one two, three four five six seven", 20, "one two, |three four five six |seven"),
    ("one two three four five six", 10, "one two |three |four five |six"),
    ("我喜欢苹果，我喜欢香蕉和橘子", 8, "我喜欢苹果，|我喜欢香蕉和橘子"),
    ("我喜欢苹果我喜欢香蕉", 4, "我喜欢苹|果我喜欢|香蕉"),
    ("我用OMNI说话", 4, "我用|OMNI|说话"),
    ("เด็กเล่นน้ำ", 5, "เด็ก|เล่น|น้ำ"),
    ("x" * 25, 10, "x" * 10 + "|" + "x" * 10 + "|" + "x" * 5),
    ("ab👍🏻cd", 3, "ab|👍🏻|cd"),
]


@pytest.mark.parametrize(("text", "longest", "marked"), LONG)
def test_long_sentences_are_cut_where_it_hurts_least(text: str, longest: int, marked: str) -> None:
    pieces = cut(text, longest)
    assert pieces == marked.split("|")
    assert "".join(pieces) == text and max(map(len, pieces)) <= longest


ALPHABET = "aB1. .!?\n\r \t,;-\"'”(。！، 你เก็é\u0301😀🏻\u200dIMr|"
texts = st.one_of(
    st.text(ALPHABET, max_size=80),
    st.text(max_size=40),
    st.lists(
        st.sampled_from(["Mr. ", "I. ", "No. ", "5", ". ", "\n", "\r\n", "- ", "word ", "Word", "! ", "e.g. ", "。"])
    ).map("".join),
)


@given(texts, st.integers(1, 40), st.randoms(use_true_random=False))
def test_pieces_are_cut_as_the_whole_and_nothing_is_lost(text: str, longest: int, rng: random.Random) -> None:
    whole = cut(text, longest)
    assert "".join(whole) == text and all(whole)
    assert max(map(len, (piece.strip() for piece in whole)), default=0) <= longest + 1
    cutter = SentenceCutter(longest)
    state, came, at = cutter.start(), list[str](), 0
    while at < len(text):
        step = rng.randrange(1, 9)
        came += cutter.step(state, text[at : at + step])
        at += step
    assert came + cutter.finish(state) == whole


@pytest.mark.parametrize(
    ("text", "sure"),
    [
        ("Hello", 0), ("Hello.", 0), ("Hello. ", 0), ("Hello. I", 1), ("Hello.\n", 1), ("Mr. ", 0), ("Mr.\n", 0),
        ("milk\n", 1), ("你好。", 0), ("你好。我", 1), ("Hello. (\"", 0), ("Hello. (\"I", 1),
    ],
)  # fmt: skip
def test_a_sentence_is_told_as_soon_as_it_is_sure(text: str, sure: int) -> None:
    cutter = SentenceCutter(300)
    assert len(cutter.step(cutter.start(), text)) == sure


def test_long_texts_are_cut_in_linear_time() -> None:
    pieces = cut("I see a red circle. " * 20000)
    assert len(pieces) == 20000


@pytest.mark.parametrize(
    ("sentence", "read"),
    [
        ("  I  see\n it. ", "I see it."),
        ("- milk\n", "milk"),
        ("• milk", "milk"),
        ("-5 degrees", "-5 degrees"),
        ("1. Go", "1. Go"),
        (" \n", ""),
    ],
)
def test_white_space_and_bullets_are_not_read(sentence: str, read: str) -> None:
    assert plain(sentence) == read


@pytest.mark.parametrize(("text", "there_are"), [("...", False), (" - \n", False), ("😀", False), ("5", True), ("好", True)])
def test_whether_there_is_anything_to_say(text: str, there_are: bool) -> None:
    assert has_words(text) == there_are
