"""The text track of an answer: ids to text, and the strings that end it."""

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
    """

    decoding: DecodeState
    waiting: str = ""
    num_made: int = 0
    num_released: int = 0
    stopped: bool = False


@dataclass
class TextTrack:
    """Decodes ids as they come and lets no character of a stop string out."""

    decoder: StreamDecoder
    stop: Sequence[str] = ()

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
        return text + rest

    def _more(self, state: TextState, text: str) -> str:
        if state.stopped:
            return ""
        state.num_made += len(text)
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

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that begins `stop`."""
        return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
