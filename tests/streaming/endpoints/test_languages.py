"""Names of languages, as clients spell them."""

from __future__ import annotations

import pytest

from omni.streaming.endpoints.languages import NAMES, code_of


@pytest.mark.parametrize(
    ("said", "code"),
    [
        *[(name, "en") for name in ("en", "EN", "en-US", "en_us", "English", " english ")],
        ("Deutsch".lower()[:2], "de"),
        ("zh-Hans-CN", "zh"),
        ("yue", "yue"),
        ("auto", None),
        (" ", None),
        ("und", None),
    ],
)
def test_spellings(said: str, code: str | None) -> None:
    assert code_of(said) == code


@pytest.mark.parametrize("said", ["a language", "e", "klingonese", "en US", "12"])
def test_what_is_no_language(said: str) -> None:
    with pytest.raises(ValueError, match="code"):
        code_of(said)


def test_the_table() -> None:
    assert len(NAMES) > 95 and all(2 <= len(code) <= 3 for code in NAMES.values())
