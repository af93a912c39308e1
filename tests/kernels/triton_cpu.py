"""Triton's interpreter, made as strict as a GPU: kernels run on CPU tensors, program after program, in numpy.

Left alone it hides three kinds of mistake. `install` makes it show them:

- bfloat16. The interpreter keeps it as uint16, does arithmetic on the bit patterns, and cuts off where a GPU rounds. Here
  casts round to nearest even, `tl.dot` multiplies true values, and all other arithmetic on bfloat16 raises.
- Memory. An address outside the tensors that a launch was given raises, masked-out lanes aside.
- Races. Programs run one after another, so order never shows. Here it raises when two programs, or two lanes of one store,
  write the same element, and when a program reads an element that the same launch writes, but for a program that reads
  before it writes itself. Atomics are exempt.

TRITON_INTERPRET is read when `@triton.jit` decorates, Triton's own functions included, so a process either interprets or
compiles. `tests/conftest.py` sets it for the process of the tests where there is no GPU; `aot.py` compiles in another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter


class Launch:
    """What the programs of one launch may touch, and what they touched."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        spans = sorted((x.data_ptr(), x.data_ptr() + _extent(x)) for x in tensors if x.numel())
        merged: list[list[int]] = []
        for first, last in spans:
            if merged and first <= merged[-1][1]:
                merged[-1][1] = max(last, merged[-1][1])
            else:
                merged.append([first, last])
        self.first, self.last = np.array(merged or [[0, 0]], dtype=np.uint64).T
        self.program = -1
        self.clock = 0
        self.loads: list[tuple[int, int, Any]] = []  # (program, clock, addresses)
        self.stores: list[tuple[int, int, Any]] = []

    def check(self, pointers: Any, mask: Any) -> Any:
        """The addresses of the lanes that are not masked out."""
        at = np.broadcast_to(pointers.data, mask.data.shape)[mask.data].astype(np.uint64)
        width = np.uint64(max(1, pointers.get_element_ty().primitive_bitwidth // 8))
        span = np.searchsorted(self.first, at, side="right")
        inside = (span > 0) & (at + width <= self.last[np.maximum(span, 1) - 1])
        if not inside.all():
            raise MemoryError(f"program {self.program}: {int((~inside).sum())} of {inside.size} lanes outside every tensor")
        return at

    def load(self, pointers: Any, mask: Any) -> None:
        self.clock += 1
        self.loads.append((self.program, self.clock, self.check(pointers, mask)))

    def store(self, pointers: Any, mask: Any) -> None:
        self.clock += 1
        at = self.check(pointers, mask)
        if np.unique(at).size != at.size:
            raise RuntimeError(f"race: two lanes of program {self.program} write one element")
        self.stores.append((self.program, self.clock, at))

    def finish(self) -> None:
        if not self.stores:
            return
        program, clock, at = _flat(self.stores)
        order = np.lexsort((clock, at))
        program, clock, at = program[order], clock[order], at[order]
        if ((at[1:] == at[:-1]) & (program[1:] != program[:-1])).any():
            raise RuntimeError("race: two programs write one element")
        if not self.loads:
            return
        reader, when, where = _flat(self.loads)
        found = np.minimum(np.searchsorted(at, where), at.size - 1)  # the first write of that element
        hit = at[found] == where
        if (hit & ((program[found] != reader) | (clock[found] < when))).any():
            raise RuntimeError("race: a program reads an element that this launch writes")


def _extent(x: torch.Tensor) -> int:
    """Bytes from a tensor's first element to the end of its last."""
    return (sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) + 1) * x.element_size()


def _flat(touched: list[tuple[int, int, Any]]) -> tuple[Any, Any, Any]:
    sizes = [at.size for *_, at in touched]
    program, clock = (np.repeat([entry[i] for entry in touched], sizes) for i in (0, 1))
    return program, clock, np.concatenate([at for *_, at in touched])


_launch: Launch | None = None


def _up(bits: Any) -> Any:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _down(x: Any) -> Any:
    """float32 to the bits of bfloat16, to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32).reshape(np.shape(x))
    rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def _is_bf16(handle: Any) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def _refuse(name: str) -> None:
    """Make an operation of the interpreter raise on bfloat16."""
    old: Callable[..., Any] = getattr(interpreter.InterpreterBuilder, name)

    @functools.wraps(old)
    def strict(self: Any, *args: Any) -> Any:
        if any(isinstance(x, interpreter.TensorHandle) and _is_bf16(x) for x in args):
            raise TypeError(f"{name} on bfloat16: convert to float32 right after the load")
        return old(self, *args)

    setattr(interpreter.InterpreterBuilder, name, strict)


def _honest_bf16() -> None:
    builder = interpreter.InterpreterBuilder
    old_dot, old_cast = builder.create_dot, builder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        a, b = (interpreter.TensorHandle(_up(x.data), tl.float32) if _is_bf16(x) else x for x in (a, b))
        return old_dot(self, a, b, *rest)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        source, target = src.dtype.scalar, dst_type.scalar
        if tl.bfloat16 not in (source, target) or source == target:
            return old_cast(self, src, dst_type)
        if (source, target) == (tl.bfloat16, tl.float32):
            return interpreter.TensorHandle(_up(src.data), tl.float32)
        if (source, target) == (tl.float32, tl.bfloat16):
            return interpreter.TensorHandle(_down(src.data), tl.bfloat16)
        raise TypeError(f"cast from {source} to {target}: go through float32")

    builder.create_dot, builder.cast_impl = create_dot, cast_impl
    for name in ("binary_op", "unary_op", "create_fma", "create_clampf", "create_rsqrt", "create_erf", "create_fp_to_fp"):
        _refuse(name)

    old_apply = interpreter.ReduceScanOpInterface.apply

    def apply(self: Any, x: Any) -> Any:  # reductions take numpy's short cuts past binary_op
        if any(_is_bf16(part.handle) for part in (x if isinstance(x, tuple) else (x,))):
            raise TypeError("reduction of bfloat16: convert to float32 right after the load")
        return old_apply(self, x)

    interpreter.ReduceScanOpInterface.apply = apply


def _watch_memory() -> None:
    builder, executor = interpreter.InterpreterBuilder, interpreter.GridExecutor
    old_load, old_store = builder.create_masked_load, builder.create_masked_store
    old_rmw, old_cas = builder.create_atomic_rmw, builder.create_atomic_cas
    old_set, old_args, old_call = builder.set_grid_idx, executor._init_args_hst, executor.__call__

    def create_masked_load(self: Any, ptrs: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        assert _launch is not None
        _launch.load(ptrs, mask)
        return old_load(self, ptrs, mask, *rest, **named)

    def create_masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **named: Any) -> Any:
        assert _launch is not None
        _launch.store(ptrs, mask)
        return old_store(self, ptrs, value, mask, *rest, **named)

    def create_atomic_rmw(self: Any, op: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
        assert _launch is not None
        _launch.check(ptr, mask)
        return old_rmw(self, op, ptr, val, mask, *rest)

    def create_atomic_cas(self: Any, ptr: Any, *rest: Any) -> Any:
        assert _launch is not None
        _launch.check(ptr, interpreter.TensorHandle(np.ones_like(ptr.data, dtype=bool), tl.int1))
        return old_cas(self, ptr, *rest)

    def set_grid_idx(self: Any, x: int, y: int, z: int) -> None:
        assert _launch is not None
        _launch.program += 1
        old_set(self, x, y, z)

    def init_args(self: Any, args: Any, kwargs: Any) -> Any:
        global _launch
        args, kwargs = old_args(self, args, kwargs)
        _launch = Launch(list(_tensors((*args, *kwargs.values()))))
        return args, kwargs

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        global _launch
        try:
            with np.errstate(all="ignore"):  # a GPU overflows in silence
                old_call(self, *args, **kwargs)
            assert _launch is not None
            _launch.finish()
        finally:
            _launch = None

    builder.create_masked_load, builder.create_masked_store = create_masked_load, create_masked_store
    builder.create_atomic_rmw, builder.create_atomic_cas = create_atomic_rmw, create_atomic_cas
    builder.set_grid_idx, executor._init_args_hst, executor.__call__ = set_grid_idx, init_args, call


def _tensors(args: tuple[Any, ...]) -> list[torch.Tensor]:
    """The tensors among arguments; a tuple's and a descriptor's too."""
    found: list[torch.Tensor] = []
    for x in args:
        if isinstance(x, torch.Tensor):
            found.append(x)
        elif isinstance(x, tuple):
            found.extend(_tensors(x))
        elif hasattr(x, "base"):
            found.extend(_tensors((x.base,)))
    return found


@functools.cache
def install() -> None:
    """Make this process's interpreter strict, once."""
    assert triton.knobs.runtime.interpret, "TRITON_INTERPRET must be set before triton is imported"
    _honest_bf16()
    _watch_memory()
