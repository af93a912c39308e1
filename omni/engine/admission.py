"""Who may run: places in the caches of all stages, for requests that come and for those that grow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from omni.engine.block_manager import CachedSequence
from omni.engine.kv_cache import KVCache
from omni.engine.request import Request
from omni.engine.stage import Stage
from omni.errors import CapacityError

GROWTH = 1
"""Blocks that must be free beside its prompt's for a request to come in, and for each that runs already."""


class Admission:
    """Shares out the blocks of the stages' caches.

    A request comes in once its prompt fits beside those that run, and there is a block for each to grow. Where one that runs
    finds none all the same, the latest of all is preempted: its rows go to the host's memory, bit for bit, and it resumes
    when there is room again.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self._stages = stages

    def check(self, request: Request) -> None:
        """Raise CapacityError for a request that would not fit if it were alone."""
        need = request.prompt.num_tokens + 1
        for cache, _ in self._held(request):
            if need > cache.blocks.max_rows:
                raise CapacityError(
                    f"the cache has {cache.blocks.max_rows} rows free when nothing runs, and {need} are needed; "
                    "shorten the prompt, or load with a larger cache"
                )

    def has_room_for(self, request: Request, num_running: int) -> bool:
        """Whether a request may come in beside so many others."""
        need = request.prompt.num_tokens + 1
        return all(self._fits(cache, need, num_running) for cache, _ in self._held(request))

    def admit(self, request: Request) -> None:
        """Take the places of its prompt's rows that it does not hold, for a request that has come in."""
        for cache, sequence in self._held(request):
            cache.reserve(sequence, max(0, request.prompt.num_tokens - sequence.length))

    def grow(self, request: Request, stage: Stage, num_rows: int, running: Collection[Request]) -> None:
        """Take the places of more rows of a request that runs; it may be preempted for them itself.

        CapacityError where no one else holds any.
        """
        cache, sequence = stage.runner.cache, stage.sequence(request)
        assert sequence
        while True:
            try:
                cache.reserve(sequence, num_rows)
                return
            except CapacityError:
                holding = [r for r in running if (held := stage.sequence(r)) and held.blocks]
                if all(r is request for r in holding):
                    raise
                latest = max(holding, key=lambda r: r.key)
                self.preempt(latest)
                if latest is request:
                    return

    def preempt(self, request: Request) -> None:
        request.saved = [cache.save(sequence) for cache, sequence in self._held(request)]

    def resume(self, request: Request, num_running: int) -> None:
        """Give a request that was preempted its rows again, if there is room beside so many others.

        Room for the whole prompt, too: without it a prompt would be preempted for its own next rows, again and again.
        """
        if request.saved is None:
            return
        held, need = list(zip(self._held(request), request.saved, strict=True)), request.prompt.num_tokens + 1
        if all(self._fits(cache, max(saved.length, need), num_running) for (cache, _), saved in held):
            for (cache, sequence), saved in held:
                cache.restore(saved, sequence)
            request.saved = None
            self.admit(request)

    def release(self, request: Request) -> None:
        request.saved = None
        for cache, sequence in self._held(request):
            cache.blocks.free(sequence)

    def _held(self, request: Request) -> Iterator[tuple[KVCache, CachedSequence]]:
        for stage in self._stages:
            if sequence := stage.sequence(request):
                yield stage.runner.cache, sequence

    @staticmethod
    def _fits(cache: KVCache, num_rows: int, num_running: int) -> bool:
        growth = GROWTH * (num_running + 1) if num_running else 0
        return cache.blocks.count(num_rows) + growth <= cache.blocks.num_free
