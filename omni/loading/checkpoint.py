"""A published checkpoint's files, and the one strict way its weights enter a model.

Files are read in plain pieces, not mapped: mapped pages count as resident memory, and a loader that maps 22 GB beside the
22 GB it fills needs 44.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from io import FileIO
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from omni.errors import CheckpointError, DeviceError
from omni.loading.gguf import Form, is_gguf, read_header
from omni.loading.gguf_blocks import dequantise
from omni.loading.gguf_files import published_name
from omni.loading.json import check_file

NEEDED_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "spk_dict.pt"]
PIECE = 64 << 20
"""Bytes read at a time, and all the memory that loading needs beside the weights."""
MAX_HEADER = 32 << 20
"""Bytes; a published file of 28,000 tensors has 4 million."""
MAX_DIMS = 8
DEQUANTISED = 1 << 18
"""Values of blocks that become floats at once, to stay in a cache."""
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


BUNDLED = Path(__file__).parents[1] / "bundled"
"""The small model that ships with the package."""


def find(path_or_hub_id: str | Path | None) -> Path:
    """A checkpoint's folder or GGUF: the path itself, or a download of the hub id's files, unless they are cached.

    None is the model that ships with the package.
    """
    path_or_hub_id = BUNDLED if path_or_hub_id is None else path_or_hub_id
    path, name = Path(path_or_hub_id).expanduser(), str(path_or_hub_id)
    if path.is_dir():
        for file in path.iterdir():
            if any(fnmatchcase(file.name, pattern) for pattern in NEEDED_FILES):
                check_file(file)
        return path
    if is_gguf(path):
        return path
    if path.is_file():
        raise CheckpointError(f"{name} is a file and no .gguf; give the folder that holds it")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name):
        raise CheckpointError(f"{name} is no folder, and no hub id such as 'Qwen/Qwen2.5-Omni-7B' either")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=NEEDED_FILES))
    except Exception as e:  # the hub's client lets its HTTP library's errors through, and has changed that library before
        reason = str(e).strip().partition("\n")[0]
        raise CheckpointError(
            f"{name} is no folder here and could not be fetched from the hub ({type(e).__name__}: {reason}); "
            "check the name and the connection, or give the folder of a checkpoint that is already here"
        ) from e


@dataclass(frozen=True)
class Entry:
    """One tensor of a checkpoint: `nbytes` bytes from `start` of `file`.

    form: how a GGUF stores it in blocks; it then is read as float32.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    start: int
    form: Form | None = None

    @property
    def nbytes(self) -> int:
        return self._nbytes_of(math.prod(self.shape))

    @property
    def raw(self) -> Entry:
        """The same as the bytes that are stored, a row for each of its rows."""
        return Entry((*self.shape[:-1], self._nbytes_of(self.shape[-1])), torch.uint8, self.file, self.start)

    def _nbytes_of(self, num: int) -> int:
        """Of so many values, in whole blocks."""
        return num // self.form.values * self.form.nbytes if self.form else num * self.dtype.itemsize

    def pieces(self, num: int, most_bytes: int) -> Iterator[tuple[int, int]]:
        """Values and bytes of each piece to read the first `num` values in."""
        most = most_bytes // self.dtype.itemsize
        if self.form:  # whole blocks of any form; their floats take memory too
            most = max(self.form.values, min(most, DEQUANTISED) // 256 * 256)
        for first in range(0, num, most):
            some = min(most, num - first)
            yield some, self._nbytes_of(some)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a checkpoint by name, known from the headers of its files; no weight has been read."""

    entries: Mapping[str, Entry]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Read the headers of `model.safetensors`, or of every shard that `model.safetensors.index.json` names.

        CheckpointError names the file that is missing, damaged or at odds with the index. The index's `total_size` is not
        read: in the published checkpoints it is wrong.
        """
        if is_gguf(folder):
            return cls(_gguf_entries(folder))
        whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
        if whole.exists():
            return cls(_read_header(whole))
        if not index.exists():
            raise CheckpointError(f"{folder} holds neither {whole.name} nor {index.name}; is it a checkpoint's folder?")
        place_of = _read_index(index)
        shards = {file: _read_header(folder / file) for file in sorted(set(place_of.values()))}
        for name, file in place_of.items():
            if name not in shards[file]:
                raise CheckpointError(f"{index} places {name} in {file}, which does not hold it; fetch both files again")
        # a shard may hold more than the index knows; whether a model can use it is for plan() to say
        entries = {name: entry for header in shards.values() for name, entry in header.items()}
        return cls(entries | {name: shards[file][name] for name, file in place_of.items()})

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self.entries.values())


def _read_index(path: Path) -> Mapping[str, str]:
    try:
        place_of = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        valid = all(Path(file).name == file for file in place_of.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CheckpointError(f"{path} is damaged ({type(e).__name__}: {e}); fetch it again") from e
    if not valid:
        raise CheckpointError(f"{path} names a shard outside its folder; fetch it again")
    return dict(place_of)


def _gguf_entries(path: Path) -> dict[str, Entry]:
    """Entries of a GGUF, by their published names."""
    tensors, entries = read_header(path).tensors, dict[str, Entry]()
    for name, tensor in tensors.items():
        plain = DTYPES.get(tensor.form.name)
        form = None if plain else tensor.form
        entries[published_name(name)] = Entry(tensor.shape, plain or torch.float32, path, tensor.start, form)
    if len(entries) < len(tensors):
        raise CheckpointError(f"{path} holds two tensors that mean the same; fetch it again")
    return entries


def _read_header(path: Path) -> dict[str, Entry]:
    """Entries of one safetensors file: a u64 length, that many bytes of JSON, then the data."""
    check_file(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER):
                raise CheckpointError(f"{path} is cut short or no safetensors file ({size} bytes); fetch it again")
            header = json.loads(file.read(length))
            entries, places = {}, []
            for name, item in header.items():
                if name == "__metadata__":
                    continue
                first, last = map(_whole, item["data_offsets"])
                shape = tuple(map(_whole, item["shape"]))
                entries[name] = Entry(shape, DTYPES[item["dtype"]], path, 8 + length + first)
                if len(shape) > MAX_DIMS or entries[name].nbytes != last - first:
                    raise ValueError(f"{name} has {last - first} bytes for {item['dtype']}{list(shape[: MAX_DIMS + 1])}")
                places.append((first, last, name))
            end = _end_of(places)
    except OSError as e:
        raise CheckpointError(f"{path} cannot be read ({e.strerror}); fetch it again") from e
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise CheckpointError(f"{path} has a damaged header ({type(e).__name__}: {e}); fetch it again") from e
    if size != 8 + length + end:
        raise CheckpointError(f"{path} has {size} bytes, but its header says {8 + length + end}; fetch it again")
    return entries


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _end_of(places: list[tuple[int, int, str]]) -> int:
    """Where the last tensor ends; ValueError where two share bytes."""
    end = 0
    for first, last, name in sorted(places):
        if first < end:
            raise ValueError(f"{name} begins at byte {first}, within another tensor")
        end = last
    return end


def check_values(checkpoint: Checkpoint, most_bytes: int = PIECE) -> None:
    """Raise CheckpointError where the first bytes of a tensor are no finite numbers, which is how damage begins to show.

    Loading looks at all of them; this is for who only wants to know whether it would.
    """
    piece = torch.empty(most_bytes, dtype=torch.uint8, device="cpu")
    with ExitStack() as stack:
        files = {entry.file: stack.enter_context(FileIO(entry.file)) for entry in checkpoint.entries.values()}
        for entry in checkpoint.entries.values():
            few = next((values for values, _ in entry.pieces(math.prod(entry.shape), most_bytes)), 0)
            for _ in _fill(torch.empty(few, dtype=entry.dtype, device="cpu"), entry, files[entry.file], piece):
                pass


@dataclass(frozen=True)
class Layout:
    """Where a model's parameters lie in a checkpoint, as plain tables.

    Attributes:
        prefixes: (ours, theirs), leading parts of names; the longest match is replaced, others stay.
        stacks: our module's last names -> the checkpoint's modules whose rows, stacked, make up our weight (and bias).
        zeros: checkpoint keys that may be absent and then are zeros, one for each row of the weight beside them.
        unused: checkpoint keys that are known and not needed.

    `zeros` and `unused` are fnmatch patterns; those of `zeros` match from any dot on, those of `unused` whole keys.
    """

    prefixes: tuple[tuple[str, str], ...] = ()
    stacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    zeros: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def keys(self, name: str) -> tuple[str, ...]:
        """Checkpoint keys whose rows make up our parameter, in order."""
        ours, theirs = max(
            ((o, t) for o, t in self.prefixes if name.startswith(o)), key=lambda p: len(p[0]), default=("", "")
        )
        module, dot, leaf = (theirs + name.removeprefix(ours)).rpartition(".")
        suffix = max((s for s in self.stacks if f".{module}".endswith(f".{s}")), key=len, default=None)
        if suffix is None:
            return (module + dot + leaf,)
        return tuple(module.removesuffix(suffix) + part + dot + leaf for part in self.stacks[suffix])

    def may_lack(self, key: str) -> bool:
        return any(fnmatchcase(f".{key}", f"*.{pattern}") for pattern in self.zeros)

    def leaves(self, key: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in self.unused)


@dataclass(frozen=True)
class Part:
    """Rows of a parameter: a tensor of the checkpoint, or zeros where `entry` is None."""

    key: str
    shape: tuple[int, ...]
    entry: Entry | None

    def __str__(self) -> str:
        kind = f" {str(self.entry.dtype).removeprefix('torch.')}" if self.entry else ""
        return f"{self.key} {list(self.shape)}{kind}"


@dataclass(frozen=True)
class Plan:
    """What `load` will do.

    Attributes:
        parts: our parameter -> its rows, in the order in which the files hold them.
        shared: our parameter -> the one whose tensor it shares.
    """

    parts: Mapping[str, tuple[Part, ...]]
    shared: Mapping[str, str]

    @property
    def read_bytes(self) -> int:
        return sum(part.entry.nbytes for parts in self.parts.values() for part in parts if part.entry)

    def sizes(
        self, dtype_of: Callable[[str], torch.dtype], packed: Mapping[str, int] = MappingProxyType({})
    ) -> dict[str, int]:
        """Bytes of the loaded parameters, by the first word of their names.

        packed: modules whose parameters, except a bias, give way to so many bytes.
        """
        sizes: dict[str, int] = {}
        for module, size in packed.items():
            top = module.partition(".")[0]
            sizes[top] = sizes.get(top, 0) + size
        for name, parts in self.parts.items():
            top = name.partition(".")[0]
            owner = name.partition(".parts.")[0] if ".parts." in name else name.removesuffix(".weight")
            if owner in packed:
                continue
            values = sum(math.prod(part.shape) for part in parts)
            sizes[top] = sizes.get(top, 0) + values * dtype_of(name).itemsize
        return sizes


def plan(model: nn.Module, checkpoint: Checkpoint, layout: Layout) -> Plan:
    """Match a model's parameters, which may be on meta, with a checkpoint; no weight is read.

    CheckpointError names every key that is missing, left over or of another shape than the model's.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    entries = checkpoint.entries
    found: dict[str, tuple[Part, ...]] = {}
    shared: dict[str, str] = {}
    missing: list[str] = []
    misshapen: list[str] = []
    used: set[str] = set()
    owner: dict[nn.Parameter, str] = {}
    for name, parameter in parameters.items():
        keys = layout.keys(name)
        used.update(keys)
        if (other := owner.setdefault(parameter, name)) != name:  # the model was built with the two tied
            shared[name] = other
            continue
        parts = [_part(key, entries, layout, raw=parameter.dtype == torch.uint8) for key in keys]
        missing += [key for key, part in zip(keys, parts, strict=True) if part is None]
        found[name] = tuple(part for part in parts if part is not None)
        if len(found[name]) == len(keys) and not _fits(found[name], parameter):
            misshapen.append(f"{' + '.join(map(str, found[name]))} for {name} {list(parameter.shape)}")
    unused = [key for key in entries if key not in used and not layout.leaves(key)]
    if missing or unused or misshapen:
        lists = (_some("missing", missing), _some("not used", unused), _some("of another shape", misshapen))
        told = "; ".join(filter(None, lists))
        raise CheckpointError(f"the checkpoint does not fit its config: {told}; fetch both again from one place")
    return Plan(dict(sorted(found.items(), key=_place)), shared)


def _part(key: str, entries: Mapping[str, Entry], layout: Layout, *, raw: bool) -> Part | None:
    """raw: wanted are the bytes of its blocks."""
    if key in entries:
        entry = entries[key].raw if raw and entries[key].form else entries[key]
        return Part(key, entry.shape, entry)
    weight = entries.get(key.rpartition(".")[0] + ".weight")
    if weight is None or not layout.may_lack(key):
        return None
    return Part(key, weight.shape[:1], None)


def _fits(parts: Sequence[Part], parameter: Tensor) -> bool:
    shape = parts[0].shape
    if len(parts) > 1:
        if any(len(part.shape) != len(shape) or part.shape[1:] != shape[1:] for part in parts):
            return False
        shape = (sum(part.shape[0] for part in parts), *shape[1:])
    floating = all(part.entry is None or part.entry.dtype.is_floating_point for part in parts)
    return shape == tuple(parameter.shape) and floating == parameter.is_floating_point()


def _some(what: str, names: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} {what} ({', '.join(names[:limit])}{more})" if names else ""


def _place(item: tuple[str, tuple[Part, ...]]) -> tuple[str, int]:
    entry = next((part.entry for part in item[1] if part.entry), None)
    return (str(entry.file), entry.start) if entry else ("", 0)


def load(
    model: nn.Module,
    checkpoint: Checkpoint,
    layout: Layout,
    *,
    dtype_of: Callable[[str], torch.dtype],
    device_of: Callable[[str], torch.device],
    progress: Callable[[int, int], None] | None = None,
    arrived: Callable[[str], None] | None = None,
) -> None:
    """Give a model that was built on meta its weights, one parameter at a time.

    Args:
        dtype_of, device_of: our parameter's name -> the dtype to keep it in, and where.
        progress: told (bytes read, bytes to read) every PIECE.
        arrived: told the name of each parameter when the model has it, and may then replace it.

    Parameters are frozen; integers keep the dtype that the model gives them. Buffers are computed tables: they move as they
    are. Needs PIECE bytes of host memory beside the weights. CheckpointError as `plan`, before any weight is read;
    DeviceError when the device is full.
    """
    todo = plan(model, checkpoint, layout)
    on_gpu = any(device_of(name).type == "cuda" for name in todo.parts)
    piece = torch.empty(PIECE, dtype=torch.uint8, device="cpu", pin_memory=on_gpu)
    done, total = 0, todo.read_bytes
    with ExitStack() as stack:
        files: dict[Path, FileIO] = {}
        for name, parts in todo.parts.items():
            given = model.get_parameter(name)
            kept = dtype_of(name) if given.is_floating_point() else given.dtype
            try:
                weight = torch.empty(given.shape, dtype=kept, device=device_of(name))
            except torch.OutOfMemoryError as e:
                gib = sum(todo.sizes(dtype_of).values()) / 2**30
                raise DeviceError(f"{device_of(name)} is full; the weights alone need {gib:.1f} GiB") from e
            rows = weight.view(-1)
            for part in parts:
                row, rows = rows[: math.prod(part.shape)], rows[math.prod(part.shape) :]
                if part.entry is None:
                    row.zero_()
                    continue
                if part.entry.file not in files:
                    files[part.entry.file] = stack.enter_context(FileIO(part.entry.file))
                for length in _fill(row, part.entry, files[part.entry.file], piece):
                    done += length
                    if progress is not None:
                        progress(done, total)
            _set(model, name, nn.Parameter(weight, requires_grad=False))
            del weight, rows, row  # whoever packs it is the only one to hold it
            if arrived is not None:
                arrived(name)
    for name, other in todo.shared.items():
        _set(model, name, model.get_parameter(other))
    for name, buffer in list(model.named_buffers(remove_duplicate=False)):
        assert not buffer.is_meta, f"{name} is a table that was left on meta"
        _set(model, name, buffer.to(device_of(name)))


def _fill(row: Tensor, entry: Entry, file: FileIO, piece: Tensor) -> Iterator[int]:
    """Read an entry into a flat tensor of its length, through `piece`; yields the bytes of each read."""
    file.seek(entry.start)
    at = 0
    for num, nbytes in entry.pieces(row.numel(), piece.numel()):
        target, raw = row[at : at + num], piece[:nbytes]
        at += num
        left = raw.numpy().data
        while left:
            count = file.readinto(left)
            if not count:
                raise CheckpointError(f"{entry.file} became shorter while it was read; fetch it again")
            left = left[count:]
        values = dequantise(raw, entry.form) if entry.form else raw.view(entry.dtype)
        if not _is_finite(values):
            raise CheckpointError(f"{entry.file} holds weights that are no finite numbers; fetch it again")
        target.copy_(values)
        yield raw.numel()


def _is_finite(values: Tensor) -> bool:
    if not values.is_floating_point():
        return True
    if values.element_size() == 1:
        values = values.float()
    # a sum is read at the speed of memory, and is finite but for a bad value or very large ones
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _set(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, tensor)
