"""What media look like to the thinker, kept for as long as there is room: who shows a picture twice is not kept waiting."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

from omni.encoders.features import Picture, Sound

MAX_BYTES = 256 * 2**20


class FeatureCache:
    """Rows of media by the digest of their content; the least recently used go first.

    Args:
        max_bytes: that all rows may take together; 0 keeps none.

    Attributes:
        num_bytes: that they take now.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._rows: OrderedDict[bytes, Tensor] = OrderedDict()

    def has(self, media: Sequence[Sound | Picture]) -> bool:
        """Whether the rows of all are here."""
        return all(medium.digest in self._rows for medium in media)

    def get(
        self, media: Sequence[Sound | Picture], encode: Callable[[Sequence[Sound | Picture]], list[Tensor]]
    ) -> list[Tensor]:
        """Rows `[n, C]` of each medium; those that are not here are encoded, all at once."""
        new = {m.digest: m for m in media if m.digest not in self._rows}
        made = dict(zip(new, encode(list(new.values())) if new else [], strict=True))
        for digest, rows in made.items():
            self._rows[digest] = rows = rows.clone()  # not a view that keeps all that was encoded with it
            self.num_bytes += rows.nbytes
        found = []
        for medium in media:
            self._rows.move_to_end(medium.digest)
            found.append(self._rows[medium.digest])
        while self.num_bytes > self.max_bytes:
            _, rows = self._rows.popitem(last=False)
            self.num_bytes -= rows.nbytes
        return found

    def forget(self) -> None:
        self._rows.clear()
        self.num_bytes = 0
