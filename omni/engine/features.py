"""What media look like to the thinker, kept for as long as there is room: who shows a picture twice is not kept waiting."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from omni.encoders.features import Medium
from omni.recent import Recent

MAX_BYTES = 256 * 2**20


class FeatureCache:
    """Rows of media by the digest of their content, and the salt of whoever may find them there.

    Args:
        max_bytes: that all rows may take together; 0 keeps none.
    """

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._rows = Recent[Tensor](max_bytes)

    @property
    def num_bytes(self) -> int:
        """That the rows take now."""
        return self._rows.num_bytes

    def has(self, media: Sequence[Medium], salt: bytes = b"") -> bool:
        """Whether the rows of all are here."""
        return all(salt + medium.digest in self._rows for medium in media)

    def get(
        self, media: Sequence[Medium], encode: Callable[[Sequence[Medium]], list[Tensor]], salts: Sequence[bytes] = ()
    ) -> list[Tensor]:
        """Rows `[n, C]` of each medium; those that are not here are encoded, all at once.

        salts: one for each medium, or none.
        """
        keys = [salt + m.digest for salt, m in zip(salts or [b""] * len(media), media, strict=True)]
        rows = {key: self._rows.get(key) for key in keys}
        new = {key: m for key, m in zip(keys, media, strict=True) if rows[key] is None}
        made = zip(new, encode(list(new.values())) if new else [], strict=True)
        found = {key: r for key, r in rows.items() if r is not None}
        for key, r in made:
            found[key] = r.clone()  # not a view that keeps all that was encoded with it
            self._rows.put(key, found[key], r.nbytes)
        return [found[key] for key in keys]

    def forget(self) -> None:
        self._rows.forget()
