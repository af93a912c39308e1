"""What media look like to the thinker, kept for as long as there is room: who shows a picture twice is not kept waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from omni.encoders.features import Medium
from omni.recent import Recent

MAX_BYTES = 256 * 2**20


class FeatureCache:
    """Rows of media by the digest of their content.

    Args:
        max_bytes: that all rows may take together; 0 keeps none.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._rows = Recent[Tensor](max_bytes)

    @property
    def num_bytes(self) -> int:
        """That the rows take now."""
        return self._rows.num_bytes

    def has(self, media: Sequence[Medium]) -> bool:
        """Whether the rows of all are here."""
        return all(medium.digest in self._rows for medium in media)

    def get(self, media: Sequence[Medium], encode: Callable[[Sequence[Medium]], list[Tensor]]) -> list[Tensor]:
        """Rows `[n, C]` of each medium; those that are not here are encoded, all at once."""
        rows = {m.digest: self._rows.get(m.digest) for m in media}
        new = {m.digest: m for m in media if rows[m.digest] is None}
        made = zip(new, encode(list(new.values())) if new else [], strict=True)
        found = {digest: r for digest, r in rows.items() if r is not None}
        for digest, r in made:
            found[digest] = r.clone()  # not a view that keeps all that was encoded with it
            self._rows.put(digest, found[digest], r.nbytes)
        return [found[medium.digest] for medium in media]

    def forget(self) -> None:
        self._rows.forget()
