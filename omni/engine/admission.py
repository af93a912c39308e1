"""Who may run: places in the caches of thinker and talker, for requests that come and for those that grow."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from omni.engine.request import Request
from omni.errors import CapacityError
from omni.models.kv_store import CachedSequence, PagePool

GROWTH = 1
"""Pages that must be free beside its prompt's for a request to come in, and for each that runs already."""


class Room:
    """Shares out the pages of two pools.

    A request comes in once its prompt fits beside those that run, and there is a page for each to grow. Where one that runs
    finds none all the same, the latest of all is set aside: its rows go to the host's memory, bit for bit, and come back
    when there is room again.
    """

    def __init__(self, thinker: PagePool, talker: PagePool | None) -> None:
        self._thinker, self._talker = thinker, talker

    def check(self, request: Request) -> None:
        """Raise CapacityError for a request that would not fit if it were alone."""
        need = request.prompt.num_tokens + 1
        for pool, _ in self._held(request):
            if need > pool.max_pages * pool.page_size:
                raise CapacityError(
                    f"the cache has {pool.max_pages * pool.page_size} rows free when nothing runs, and {need} are needed; "
                    "shorten the prompt, or load with a larger cache"
                )

    def has_room_for(self, request: Request, num_running: int) -> bool:
        """Whether a request may come in beside so many others."""
        growth = GROWTH * (num_running + 1) if num_running else 0
        return all(
            self._pages(pool, request.prompt.num_tokens + 1) + growth <= pool.num_free for pool, _ in self._held(request)
        )

    def take(self, request: Request) -> None:
        """The places of its prompt's rows that it has not found in the cache, for a request that has come in."""
        for pool, sequence in self._held(request):
            pool.reserve(sequence, request.prompt.num_tokens - sequence.length)

    def make(self, request: Request, pool: PagePool, num_rows: int, running: Collection[Request]) -> None:
        """The places of more rows of a request that runs; it may be set aside for them itself.

        CapacityError where no one else holds any.
        """
        sequence = next(sequence for p, sequence in self._held(request) if p is pool)
        while True:
            try:
                pool.reserve(sequence, num_rows)
                return
            except CapacityError:
                holding = [r for r in running if any(p is pool and s.pages for p, s in self._held(r))]
                latest = max(holding, key=lambda r: r.key)
                if holding == [request]:
                    raise
                self._set_aside(latest)
                if latest is request:
                    return

    def _set_aside(self, request: Request) -> None:
        request.saved = [pool.save(sequence) for pool, sequence in self._held(request)]

    def bring_back(self, request: Request, num_running: int) -> None:
        """Give a request that was set aside its rows again, if there is room beside so many others."""
        if request.saved is None:
            return
        growth = GROWTH * (num_running + 1) if num_running else 0
        held = list(zip(self._held(request), request.saved, strict=True))
        if all(self._pages(pool, saved.length) + growth <= pool.num_free for (pool, _), saved in held):
            for (pool, sequence), saved in held:
                pool.restore(saved, sequence)
            request.saved = None

    def release(self, request: Request) -> None:
        request.saved = None
        for pool, sequence in self._held(request):
            pool.release(sequence)

    def _held(self, request: Request) -> Iterator[tuple[PagePool, CachedSequence]]:
        yield self._thinker, request.cache
        if self._talker and request.speech:
            yield self._talker, request.speech.cache

    @staticmethod
    def _pages(pool: PagePool, num_rows: int) -> int:
        return -(-num_rows // pool.page_size)
