"""What a client is told beside its answer."""

from __future__ import annotations

import pytest

from omni.streaming.notices import IGNORED, MORE, MOST_CHARS, MOST_TOLD, WARNINGS, Notices, current, ignore, warn


def test_headers_are_printable_whatever_was_said() -> None:
    notices = Notices(["messages[0].extra"], ["a word, \u201cna\u00efve\u201d, has no sound\r\nx: y", "100 % lost"])
    headers = notices.headers
    assert headers[IGNORED] == "messages[0].extra"
    assert headers[WARNINGS].isascii()
    assert headers[WARNINGS].isprintable()
    assert headers[WARNINGS].endswith(" | 100 %25 lost")
    assert Notices().headers == {}
    assert len(Notices([], ["x" * 10 * MOST_CHARS]).headers[WARNINGS]) == MOST_CHARS


def test_a_warning_is_told_once() -> None:
    notices = Notices()
    token = current.set(notices)
    try:
        warn(["one", "two", "one"])
        warn(["two"])
    finally:
        current.reset(token)
    assert notices.warnings == ["one", "two"]
    warn(["outside of a request it is only logged"])


def test_a_field_is_told_once_and_of_many_some(caplog: pytest.LogCaptureFixture) -> None:
    notices = Notices()
    token = current.set(notices)
    try:
        ignore(["a", "b\n", "a"])
        ignore(["a"])
        assert notices.ignored == ["a", "b\n"]
        (line,) = [record.getMessage() for record in caplog.records]
        assert line.endswith(r": 'a', 'b\n'")
        for i in range(3):
            ignore(f"{i}.{j}" for j in range(100))
    finally:
        current.reset(token)
    assert len(notices.ignored) == MOST_TOLD + 1 and notices.ignored[-1] == MORE
    assert len(caplog.records) == 2
