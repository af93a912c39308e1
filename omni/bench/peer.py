"""llama.cpp beside ours, by turns: random weights of the same shapes in a GGUF, read by a process of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from struct import pack as packed
from typing import Any, BinaryIO

import numpy as np
import torch

from omni.bench.case import Case, Setting, distinct_of, name_of, normal, weights
from omni.bench.models import both, head_of, linears, pack
from omni.bench.think import step
from omni.engine.block_manager import CachedSequence
from omni.engine.runner import ModelRunner
from omni.errors import OptionError
from omni.models.config import DecoderConfig, ThinkerConfig

CHILD = Path(__file__).with_name("peer_child.py")
BLOCKS = {"q4_0": (2, 32, 18, 4.6), "q8_0": (8, 32, 34, 73.9), "bf16": (30, 1, 2, 1.0)}
"""By form: its number in a GGUF, values and bytes of a block, and the spread of its values at a scale of one."""
OURS = {"q4_0": "int4", "q8_0": "int8", "bf16": "auto"}
F32 = 0
ALIGNMENT = 32
POOL = 1 << 16
"""Blocks that all weights are taken from, each from its own place on: to draw more takes longer than to write them."""
NAMES = 33, 700
"""Characters from and to which the first tokens are named: those of all bytes as GPT-2 writes them are among them."""


def cases(setting: Setting, *, form: str, python: str) -> Iterator[Case]:
    """A step and a prompt through all layers and the head, ours in the weights that come nearest to theirs."""
    s, config = setting, setting.shape.config.thinker
    if s.device.type != "cpu" or s.shape.folder:
        raise OptionError("llama.cpp is timed on a CPU, in random weights; leave --device out and give --shape 3b or 7b")
    pair = both(s.shape, "thinker.decoder.", *head_of(s.shape), dtype=s.dtype, device=s.device, distinct=s.sizes.distinct)
    ours, found, kept = pair.ours.thinker, linears(pair.ours, "thinker."), OURS[form]
    body, head = weights(ours.decoder), ours.lm_head.weight
    nbytes = pack(pair.ours, found, kept) + (0 if "thinker.lm_head" in found else head.nbytes)
    runner = ModelRunner(ours.decoder, max(s.sizes.context, s.sizes.prompt) + 512)
    taken = step(runner, None, s.sizes.context, config.decoder.hidden_size, s)
    rows = normal(s.sizes.prompt, config.decoder.hidden_size, s=s)
    positions = torch.arange(s.sizes.prompt).expand(3, -1)

    def read() -> object:
        sequence = CachedSequence()
        hidden = runner.advance([sequence], [rows], [positions])[0]
        runner.cache.blocks.free(sequence)
        return ours.logits(hidden[-1:])

    name = kept if kept != "auto" else name_of(s.dtype)
    told = f"{name}, llama.cpp {form.upper()}, {config.decoder.num_layers} layers{distinct_of(s, config.decoder.num_layers)}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{form}.gguf"
        their_bytes = write(path, config, form)
        with child(python, path, torch.get_num_threads(), s.sizes.context, s.sizes.prompt) as run:
            cache = runner.cache.store.bytes_per_row * s.sizes.context
            yield Case(
                f"decode {name}",
                f"{told}, a token at context {s.sizes.context}",
                lambda: ours.logits(taken.ours()),
                partial(run, "decode"),
                s.dtype,
                moved=nbytes + cache,
                their_moved=their_bytes + cache,
                operations=2 * (body.products + head.numel()),
                compare=False,
            )
            yield Case(
                f"prefill {name}",
                f"{told}, {s.sizes.prompt} tokens",
                read,
                partial(run, "prefill"),
                s.dtype,
                operations=2 * (body.products * s.sizes.prompt + head.numel()),
                compare=False,
            )


def stages(python: str) -> Mapping[str, Callable[[Setting], Iterator[Case]]]:
    """What `omni bench stages` times against llama.cpp, by the form of its weights.

    python: an interpreter that has llama-cpp-python.
    """
    return {form: partial(cases, form=form, python=python) for form in BLOCKS}


@contextmanager
def child(python: str, path: Path, threads: int, context: int, prompt: int) -> Iterator[Callable[[str], None]]:
    """Runs `decode` or `prefill` in a process that holds the model."""
    command = [python, str(CHILD), str(path), *map(str, (threads, context, prompt))]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as e:
        raise OptionError(f"{python} cannot be run ({e.strerror}); give --peer-python one that has llama-cpp-python") from e

    def ask(what: str = "") -> None:
        assert process.stdin and process.stdout
        if what:
            print(what, file=process.stdin, flush=True)
        if not process.stdout.readline():
            raise OptionError(f"llama.cpp ended with code {process.wait()}; {python} must have llama-cpp-python")

    with process:
        try:
            ask()  # it tells that the model is there
            yield ask
        finally:
            process.terminate()


def write(path: Path, config: ThinkerConfig, form: str, seed: int = 0) -> int:
    """A model of Qwen2's architecture with random weights of a form of `BLOCKS`; the bytes that a token reads of it.

    Packed bytes are drawn as they are, with scales that keep rows the size of those of a trained model.
    """
    shapes = _shapes(config)
    kinds = {name: (form if len(shape) > 1 else None) for name, shape in shapes.items()}
    sizes = {name: _nbytes(shape, kinds[name]) for name, shape in shapes.items()}
    ends = list(accumulate(-(-size // ALIGNMENT) * ALIGNMENT for size in sizes.values()))
    metadata = _metadata(config)
    random = np.random.default_rng(seed)
    with path.open("wb") as file:
        file.write(b"GGUF" + packed("<IQQ", 3, len(shapes), len(metadata)))
        for key, value in metadata.items():
            file.write(_text(key) + _value(value))
        for (name, shape), start in zip(shapes.items(), [0, *ends], strict=False):
            kind = kinds[name]
            number = BLOCKS[kind][0] if kind else F32
            file.write(_text(name) + packed(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), number, start))
        _pad(file)
        pools = {width: _pool(form, width, random) for width in {shape[-1] for shape in shapes.values() if len(shape) > 1}}
        for name, shape in shapes.items():
            if len(shape) == 1:
                file.write(np.full(shape, float("norm" in name), "<f4").tobytes())
            else:
                _write_from(pools[shape[-1]], sizes[name], file, random)
            _pad(file)
    return sum(sizes.values()) - sizes["token_embd.weight"]


def _shapes(config: ThinkerConfig) -> dict[str, tuple[int, ...]]:
    """Outputs first, as torch has them."""
    c: DecoderConfig = config.decoder
    width, q, kv = c.hidden_size, c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (config.vocab_size, width)}
    for i in range(c.num_layers):
        layer = {
            "attn_norm.weight": (width,),
            "attn_q.weight": (q, width), "attn_q.bias": (q,),
            "attn_k.weight": (kv, width), "attn_k.bias": (kv,),
            "attn_v.weight": (kv, width), "attn_v.bias": (kv,),
            "attn_output.weight": (width, q),
            "ffn_norm.weight": (width,),
            "ffn_gate.weight": (c.intermediate_size, width), "ffn_up.weight": (c.intermediate_size, width),
            "ffn_down.weight": (width, c.intermediate_size),
        }  # fmt: skip
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return shapes | {"output_norm.weight": (width,), "output.weight": (config.vocab_size, width)}


def _metadata(config: ThinkerConfig) -> dict[str, Any]:
    c, first = config.decoder, [chr(i) for i in range(*NAMES)]
    return {
        "general.architecture": "qwen2",
        "general.alignment": ALIGNMENT,
        "qwen2.block_count": c.num_layers,
        "qwen2.context_length": c.max_positions,
        "qwen2.embedding_length": c.hidden_size,
        "qwen2.feed_forward_length": c.intermediate_size,
        "qwen2.attention.head_count": c.num_heads,
        "qwen2.attention.head_count_kv": c.num_kv_heads,
        "qwen2.attention.layer_norm_rms_epsilon": c.rms_norm_eps,
        "qwen2.rope.freq_base": float(c.rope_theta),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": first + [f"<{i}>" for i in range(len(first), config.vocab_size)],
        "tokenizer.ggml.token_type": [1] * config.vocab_size,
        "tokenizer.ggml.merges": ["! !"],
        "tokenizer.ggml.eos_token_id": config.vocab_size - 1,
    }


def _value(value: Any) -> bytes:
    """A value with its kind; whole numbers are u32, and i32 in lists, as llama.cpp wants them."""
    if isinstance(value, str):
        return packed("<I", 8) + _text(value)
    if isinstance(value, float):
        return packed("<If", 6, value)
    if isinstance(value, int):
        return packed("<II", 4, value)
    kind, items = (8, map(_text, value)) if isinstance(value[0], str) else (5, (packed("<i", each) for each in value))
    return packed("<IIQ", 9, kind, len(value)) + b"".join(items)


def _text(text: str) -> bytes:
    data = text.encode()
    return packed("<Q", len(data)) + data


def _nbytes(shape: tuple[int, ...], form: str | None) -> int:
    _, values, size, _ = BLOCKS[form] if form else (0, 1, 4, 1.0)
    if shape[-1] % values:
        raise OptionError(f"rows of {shape[-1]} are no whole blocks of {values}")
    return int(np.prod(shape)) // values * size


def _pool(form: str, width: int, random: np.random.Generator) -> np.ndarray:
    """Blocks of weights for rows of that width, as bytes [POOL, size of one]."""
    _, values, size, spread = BLOCKS[form]
    std = width**-0.5
    if values == 1:
        normals = std * random.standard_normal(32 * POOL, np.float32)
        return (normals.view("<u4") >> 16).astype("<u2").view(np.uint8).reshape(-1, size)
    blocks = random.integers(0, 256, (POOL, size), np.uint8)
    blocks[:, :2] = np.array([std / spread], "<f2").view(np.uint8)
    return blocks


def _write_from(pool: np.ndarray, nbytes: int, file: BinaryIO, random: np.random.Generator) -> None:
    data, left = pool[random.integers(len(pool) // 2) :].reshape(-1), nbytes
    while left:
        left -= file.write(data[:left].data)


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def version(python: str) -> str:
    """Of llama-cpp-python in another interpreter; OptionError where it has none."""
    code = "import json, llama_cpp; print(json.dumps(llama_cpp.__version__))"
    try:
        return str(json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout))
    except (OSError, ValueError, subprocess.CalledProcessError) as e:
        raise OptionError(f"{python} has no llama-cpp-python; install it there, or give another by --peer-python") from e
