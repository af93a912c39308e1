"""Which device and dtype a model runs in."""

from __future__ import annotations

import torch

from omni.errors import DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_devices(names: str) -> tuple[torch.device, torch.device]:
    """Where the thinker runs and where the voice does: one name for both, or two with a comma, "cuda:0,cuda:1".

    DeviceError when one is not there.
    """
    first, comma, second = names.partition(",")
    thinker = pick_device(first.strip())
    return thinker, pick_device(second.strip()) if comma else thinker


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU where there is one. DeviceError when it is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise DeviceError(f"{name!r} is no device; give 'auto', 'cpu', 'cuda' or 'cuda:1'") from e
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            found = f"{count} GPU{'s' * (count != 1)} found" if count else "torch finds no GPU"
            raise DeviceError(
                f"{name} was asked for, but {found}; use device='cpu' or 'auto', or install a CUDA build of torch"
            )
    elif device.type != "cpu":
        raise DeviceError(f"{name} is not supported; omni runs on 'cpu' and 'cuda'")
    return device


def pick_dtype(name: str, stored: str, device: torch.device) -> torch.dtype:
    """The dtype of that name; "auto" is the stored one where the device is fast at it, and float32 where it is not."""
    if name == "auto":
        dtype = DTYPES.get(stored, torch.float32)
        return dtype if is_fast_in(dtype, device) else torch.float32
    if name not in DTYPES:
        raise DeviceError(f"{name!r} is no dtype; give 'auto', {', '.join(map(repr, DTYPES))}")
    return DTYPES[name]


def is_fast_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device has products of that dtype in hardware."""
    return device.type == "cuda" or dtype == torch.float32 or (dtype == torch.bfloat16 and has_fast_bfloat16())


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    can = torch.cpu.get_capabilities()
    return bool(can.get("amx_bf16") or can.get("avx512_bf16"))
