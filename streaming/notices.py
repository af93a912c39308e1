"""What a client is told beside its answer: fields that were passed over, and what was lost of its media or words."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import quote

from omni.streaming.problems import Problem

log = logging.getLogger(__name__)

IGNORED, WARNINGS = "x-omni-ignored", "x-omni-warnings"
MOST_TOLD, MOST_PATH = 32, 200
"""Fields that one request is told of, and characters of each."""
MORE = "..."
MOST_CHARS = 2000
"""Of a header; what is longer is cut, and whole in the log."""


@dataclass
class Notices:
    """Of one request.

    Attributes:
        ignored: paths of fields that nobody here knows.
        warnings: sentences.
        strict: a field that nobody here knows is refused.
    """

    ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    strict: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """Printable ASCII, everything else as in a URL; what comes once the headers are sent is in the log alone."""
        told = {IGNORED: ", ".join(self.ignored), WARNINGS: " | ".join(self.warnings)}
        return {
            name: quote(value, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~")[:MOST_CHARS] for name, value in told.items() if value
        }


current: ContextVar[Notices | None] = ContextVar("current", default=None)
"""Of the request that is being answered; None outside of one."""


def ignore(paths: Iterable[str]) -> None:
    """Tell the client of fields that nobody here knows, each once, and the log; Problem where the server is strict."""
    notices, new = current.get() or Notices(), list[str]()
    for path in (path[:MOST_PATH] for path in paths):
        if notices.strict:
            raise Problem(f"{path} is not known here; leave it out", param=path, code="unsupported_parameter")
        if path not in notices.ignored and MORE not in notices.ignored:
            new.append(path if len(notices.ignored) < MOST_TOLD else MORE)
            notices.ignored.append(new[-1])
    if new:
        log.warning("passed over, as nobody here knows it: %s", ascii(new)[1:-1])


def warn(sentences: Iterable[str]) -> None:
    """Tell the client of the request that is being answered, and the log; each sentence once."""
    notices = current.get()
    for sentence in sentences:
        if notices is None or sentence not in notices.warnings:
            log.warning("%s", sentence)
            if notices is not None:
                notices.warnings.append(sentence)
