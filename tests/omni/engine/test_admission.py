"""Who may run; what the loop makes of it is tested with the loop."""

from __future__ import annotations

from omni import Omni, Options
from omni.engine.admission import Admission
from omni.engine.block_manager import CachedSequence
from tests.oracle.tiny import tiny


def test_a_prompt_resumes_with_room_for_the_rows_that_it_has_still_to_read() -> None:
    """Else it finds none, is preempted for itself and resumes, and nobody else has a turn."""
    omni = Omni.load(tiny("7b-like"), speech=False, cache_tokens=64 * 8, progress=False)
    think, prompt = omni.runtime.think, [{"role": "user", "content": "word " * 60}]
    admission, request, cache = Admission([think]), omni.runtime.request(prompt, None, Options()), think.runner.cache
    need = cache.blocks.count(request.prompt.num_tokens)
    assert 4 <= need <= 6
    admission.admit(request)
    request.cache.length = 64  # as far as it was read
    admission.preempt(request)
    assert request.is_preempted and not request.cache.blocks
    other = CachedSequence()
    cache.reserve(other, 64 * 4)
    admission.resume(request, 1)
    assert request.is_preempted, "its first block would fit, and no more"
    cache.blocks.free(other)
    admission.resume(request, 0)
    assert (request.saved, request.cache.length, len(request.cache.blocks)) == (None, 64, need)
    admission.release(request)
    assert cache.blocks.num_used == 0
