"""What a client is told beside its answer: fields that were passed over, and what was lost of its media or words."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from contextvars import ContextVar
from dataclasses import dataclass, field
from urllib.parse import quote

log = logging.getLogger(__name__)

IGNORED, WARNINGS = "x-omni-ignored", "x-omni-warnings"
MOST_CHARS = 2000
"""Of a header; what is longer is cut, and whole in the log."""


@dataclass
class Notices:
    """Of one request.

    Attributes:
        ignored: paths of fields that nobody here knows.
        warnings: sentences.
    """

    ignored: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def headers(self) -> dict[str, str]:
        """Printable ASCII, everything else as in a URL; what comes once the headers are sent is in the log alone."""
        told = {IGNORED: ", ".join(self.ignored), WARNINGS: " | ".join(self.warnings)}
        return {
            name: quote(value, safe=" !\"#$&'()*+,-./:;<=>?@[]^_`{|}~")[:MOST_CHARS] for name, value in told.items() if value
        }


current: ContextVar[Notices | None] = ContextVar("current", default=None)
"""Of the request that is being answered; None outside of one."""


def warn(sentences: Iterable[str]) -> None:
    """Tell the client of the request that is being answered, and the log; each sentence once."""
    notices = current.get()
    for sentence in sentences:
        if notices is None or sentence not in notices.warnings:
            log.warning("%s", sentence)
            if notices is not None:
                notices.warnings.append(sentence)
