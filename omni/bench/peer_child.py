"""llama.cpp timed, in the Python that has its package (llama-cpp-python): no torch, nothing of omni.

    python peer_child.py MODEL.gguf THREADS CONTEXT PROMPT [ROUNDS]

With ROUNDS it prints all times as JSON; without, it runs `decode` or `prefill` for each such line of its input, and prints
the seconds that it took.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from statistics import median

import llama_cpp as api

IDS = 1000
"""Ids that are read, in turn."""


class Model:
    """A model with its context; a step is taken back after it was timed, so that each sees the same rows."""

    def __init__(self, path: str, threads: int, context: int, prompt: int) -> None:
        api.llama_backend_init()
        self._model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        params = api.llama_context_default_params()
        params.n_ctx = -(-(max(context, prompt) + 1) // 256) * 256
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = threads
        params.no_perf = True
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise SystemExit("llama.cpp makes no context of that size")
        self._memory = api.llama_get_memory(self._context)
        self._size, self._prompt, self._held = context, prompt, 0

    def decode(self) -> float:
        """Seconds of a token behind the context, with its logits."""
        if self._held != self._size:
            self._clear()
            for first in range(0, self._size, 512):
                self._advance(first, min(512, self._size - first))
            self._held = self._size
        took = self._advance(self._size, 1)
        if not api.llama_memory_seq_rm(self._memory, 0, self._size, -1):
            raise SystemExit("llama.cpp does not take a token back")
        return took

    def prefill(self) -> float:
        """Seconds of the prompt, with the logits of its last token."""
        self._clear()
        return self._advance(0, self._prompt)

    def _clear(self) -> None:
        api.llama_memory_clear(self._memory, True)
        self._held = 0

    def _advance(self, first: int, num: int) -> float:
        tokens = (ctypes.c_int32 * num)(*((first + i) % IDS + IDS for i in range(num)))
        start = time.perf_counter()
        # positions follow what the memory holds, and only the last token's logits are made
        code = api.llama_decode(self._context, api.llama_batch_get_one(tokens, num))
        api.llama_synchronize(self._context)
        took = time.perf_counter() - start
        if code:
            raise SystemExit(f"llama.cpp fails to read {num} tokens (code {code})")
        return took


def times(run: Callable[[], float], rounds: int) -> dict[str, object]:
    run()
    all_of_them = [run() for _ in range(rounds)]
    return {"seconds": all_of_them, "best": min(all_of_them), "median": median(all_of_them)}


def _told(level: int, text: bytes, _: object) -> None:
    if level >= 4:  # errors: why a model cannot be loaded
        sys.stderr.write(text.decode(errors="replace"))


def main() -> None:
    path, *numbers = sys.argv[1:]
    threads, context, prompt, *rounds = map(int, numbers)
    log = api.llama_log_callback(_told)
    api.llama_log_set(log, ctypes.c_void_p())
    model = Model(path, threads, context, prompt)
    runs = {"decode": model.decode, "prefill": model.prefill}
    if rounds:
        print(json.dumps({name: times(run, rounds[0]) for name, run in runs.items()}))
        return
    print(json.dumps({"version": api.__version__}), flush=True)
    for line in sys.stdin:
        print(runs[line.strip()](), flush=True)


if __name__ == "__main__":
    main()
