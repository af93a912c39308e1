"""The text track of an answer: ids to text, the strings that end it, and what of it is not for the ear."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from omni.prompt.tokenizer import DecodeState, StreamDecoder


@dataclass
class TextState:
    """Attributes:
    decoding: bytes of a character that is not whole yet.
    waiting: text that may turn out to begin a stop string.
    num_made, num_released: characters decoded, and let out.
    opening: text that may turn out to begin what is not spoken.
    num_audible: characters before that.
    muted: it has begun.
    """

    decoding: DecodeState
    waiting: str = ""
    num_made: int = 0
    num_released: int = 0
    opening: str = ""
    num_audible: int = 0
    muted: bool = False
    stopped: bool = False


@dataclass
class TextTrack:
    """Decodes ids as they come and lets no character of a stop string out.

    Attributes:
        mute: from this string on, a token or written letter by letter, the text is read and not spoken; empty for none.
    """

    decoder: StreamDecoder
    stop: Sequence[str] = ()
    mute: str = ""

    def start(self) -> TextState:
        return TextState(self.decoder.start())

    def step(self, state: TextState, token_id: int) -> str:
        """Text that one more id lets out; `state.stopped` tells that a stop string was met."""
        return self._more(state, self.decoder.step(state.decoding, [token_id]))

    def finish(self, state: TextState) -> str:
        """The rest; nothing after a stop string."""
        text = self._more(state, self.decoder.finish(state.decoding))
        rest, state.waiting = ("" if state.stopped else state.waiting), ""
        state.num_released += len(rest)
        if not state.muted:
            state.num_audible, state.opening = state.num_made, ""
        return text + rest

    def num_spoken(self, state: TextState) -> int:
        """Characters that have been let out and are for the ear."""
        return min(state.num_released, state.num_audible)

    def _more(self, state: TextState, text: str) -> str:
        if state.stopped:
            return ""
        state.num_made += len(text)
        self._listen(state, text)
        text = state.waiting + text
        hits = [at for at in (text.find(s) for s in self.stop) if at >= 0]
        if hits:
            state.stopped = True
            out, state.waiting = text[: min(hits)], ""
        else:
            keep = max((self._overlap(text, s) for s in self.stop), default=0)
            out, state.waiting = text[: len(text) - keep], text[len(text) - keep :]
        state.num_released += len(out)
        return out

    def _listen(self, state: TextState, text: str) -> None:
        """See how much of more text is for the ear."""
        if state.muted:
            return
        text = state.opening + text
        at = text.find(self.mute) if self.mute else -1
        state.muted = at >= 0
        audible = at if state.muted else len(text) - self._overlap(text, self.mute)
        state.num_audible += audible
        state.opening = text[audible:]

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that begins `stop`."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
