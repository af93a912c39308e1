"""Flow-matching transformer: codec ids to log-mel frames (DiT, arXiv 2212.09748; Qwen2.5-Omni report, section 2.4).

Nothing that stays the same is computed twice: the speaker is encoded once for a voice, the modulations once for a time
grid, and what codes and speaker add to the input once for a window. Only the 80 noisy channels pass the input projection at
every evaluation, and they do so once for both rows of the guidance. Of the frames before a window, the layers that look back
see the keys and values that were computed when those frames were made.

The products of the blocks may be kept in bfloat16; what is added up along the layers, norms, softmax and the solver's state
are float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.kernels import BlockMask, Segments, attend, layer_norm, rotary_table, rotate
from omni.kernels.layers import Embedding
from omni.kernels.linear import linear
from omni.kernels.replay import Replays
from omni.talker.config import DiTConfig
from omni.talker.ecapa import SpeakerEncoder
from omni.talker.flow import Solver, guide, integrate, sinusoid, stage_times, time_grid

EPS = 1e-6
ROPE_THETA = 10000.0
TIME_DIM = 256


@dataclass(frozen=True, eq=False)
class Schedule:
    """A solver's time grid, and what the network makes of each of its R times.

    Attributes:
        grid: `[num_points]`, on the host.
        blocks: `[R, L, 6, C]`, for attention, then feed-forward: shift, 1 + scale, gate.
        out: `[R, 2, C]`: 1 + scale, shift.
    """

    solver: Solver
    grid: Tensor
    blocks: Tensor
    out: Tensor


@dataclass(frozen=True, eq=False)
class Window:
    """What does not move while a window's N frames are integrated; rows 0..N are conditional, N..2N are not.

    Attributes:
        fixed: `[2, N, C]`, what speaker and codes add to the projected input.
        segments: of the 2N rows.
        cos, sin: `[2 N, D / 2]`; positions are those in the speech.
        behind: None where no window has a past, and none will be one.
    """

    fixed: Tensor
    segments: Segments
    cos: Tensor
    sin: Tensor
    behind: Behind | None = None


@dataclass(frozen=True, eq=False)
class Place:
    """Where a window stands in its speech.

    Attributes:
        first: the frame at which it begins; a block begins there.
        past: keys and values of the frames before it, as `DiT.sample_on` returned them; None at the beginning.
        next: how many frames behind `first` the next window begins, whole blocks; 0 where none follows.
    """

    first: int = 0
    past: Tensor | None = None
    next: int = 0


@dataclass(frozen=True, eq=False)
class Behind:
    """The rows of windows with those of their pasts before them, M in all, for the layers that look back; L of them.

    Attributes:
        segments: of the M rows.
        own: int64 `[2 N]`, where among them the windows' rows are.
        old: int64 `[O]`, where those of the pasts are.
        seen: `[E, L, 2, O, H, D]`, keys and values of the pasts at each evaluation.
        last: int64 `[P]`, which rows are the pasts of the windows to come.
        kept: `[E, L, 2, P, H, D]`, filled by one evaluation after the other.
    """

    segments: Segments
    own: Tensor
    old: Tensor
    seen: Tensor
    last: Tensor
    kept: Tensor

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, turn: int, layer: int) -> Tensor:
        """`[2 N, H, D]` from the windows' rows, at an evaluation, in one of the layers that look back."""
        wide = q.new_zeros(3, self.segments.num_rows, *q.shape[1:])
        wide[:, self.own] = torch.stack((q, k, v))
        wide[1:, self.old] = self.seen[turn, layer]
        self.kept[turn, layer] = wide[1:, self.last]
        return attend(wide[0], wide[1], wide[2], self.segments, block=mask)[self.own]


class TimeEmbedding(nn.Module):
    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        # the published keys number the layers as if they stood in a list, activation included
        self.time_mlp = nn.ModuleDict({"0": nn.Linear(TIME_DIM, hidden_size), "2": nn.Linear(hidden_size, hidden_size)})

    def forward(self, times: Tensor) -> Tensor:
        """`[R, C]` from times `[R]`."""
        x: Tensor = self.time_mlp["2"](F.silu(self.time_mlp["0"](sinusoid(times, TIME_DIM))))
        return x


class CodeEmbedding(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.codec_embed = Embedding(config.num_codes + 1, config.code_dim)


class InputEmbedding(nn.Module):
    """One linear layer over [mel | speaker | code | cond], taken apart by its columns."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.widths = (config.mel_dim, config.ecapa.out_dim, config.code_dim, config.voice_dim)
        self.proj = nn.Linear(sum(self.widths), config.hidden_size)
        self.spk_encoder = SpeakerEncoder(config.ecapa)

    def moving(self, x: Tensor) -> Tensor:
        return F.linear(x, self._columns(0))

    def voice(self, ref_mel: Tensor, cond: Tensor) -> Tensor:
        """`[B, C]` from reference mels `[B, T, mel_dim]` and speaker vectors `[B, voice_dim]`; holds the bias."""
        return F.linear(self.spk_encoder(ref_mel), self._columns(1), self.proj.bias) + F.linear(cond, self._columns(3))

    def codes(self, embedded: Tensor) -> Tensor:
        return F.linear(embedded, self._columns(2))

    def _columns(self, part: int) -> Tensor:
        return self.proj.weight.split(self.widths, 1)[part]


class Modulation(nn.Module):
    """adaLN: shifts, scales and gates from the time."""

    def __init__(self, hidden_size: int, num_parts: int) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.linear = nn.Linear(hidden_size, num_parts * hidden_size)

    def forward(self, time: Tensor) -> Tensor:
        """`[R, num_parts, C]` from `[R, C]`."""
        parts: Tensor = self.linear(F.silu(time))
        return parts.unflatten(-1, (self.num_parts, -1))


class Attention(nn.Module):
    """Args:
    looking: which one of the layers that look back this is; None where it does not.
    """

    def __init__(self, config: DiTConfig, mask: BlockMask, looking: int | None) -> None:
        super().__init__()
        width = config.num_heads * config.head_dim
        self.num_heads, self.mask, self.looking = config.num_heads, mask, looking
        self.to_q = nn.Linear(config.hidden_size, width)
        self.to_k = nn.Linear(config.hidden_size, width)
        self.to_v = nn.Linear(config.hidden_size, width)
        self.to_out = nn.ModuleList([nn.Linear(width, config.hidden_size)])

    def forward(self, x: Tensor, window: Window, turn: int) -> Tensor:
        q, k, v = (to(x).unflatten(-1, (self.num_heads, -1)) for to in (self.to_q, self.to_k, self.to_v))  # [N, H, D]
        # the checkpoint was trained with positions in the first head only
        turned = rotate(torch.stack((q[:, 0], k[:, 0]), 1), window.cos, window.sin, interleaved=True)  # [N, 2, D]
        q[:, 0], k[:, 0] = turned.unbind(1)
        if window.behind is None or self.looking is None:
            y = attend(q, k, v, window.segments, block=self.mask)  # [N, H, D]
        else:
            y = window.behind.attend(q, k, v, self.mask, turn, self.looking)
        out: Tensor = self.to_out[0](y.flatten(1))
        return out


class LinearGelu(nn.Linear):
    """A linear layer with GELU by tanh behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias, gelu=True)


class FeedForward(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width = config.ff_mult * config.hidden_size
        # numbered as in a list with activation and dropout
        self.ff = nn.ModuleDict({"0": LinearGelu(config.hidden_size, width), "3": nn.Linear(width, config.hidden_size)})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.ff["3"](self.ff["0"](x))
        return y


class Block(nn.Module):
    def __init__(self, config: DiTConfig, mask: BlockMask, looking: int | None) -> None:
        super().__init__()
        self.attn_norm = Modulation(config.hidden_size, 6)
        self.attn = Attention(config, mask, looking)
        self.ff = FeedForward(config)

    def forward(self, x: Tensor, modulation: Tensor, window: Window, turn: int) -> Tensor:
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.unbind()
        kept = self.ff.ff["0"].bias.dtype  # of the products
        y = self.attn(layer_norm(x, scale_a, shift_a, EPS).to(kept), window, turn)
        x = torch.addcmul(x, gate_a, y.to(x.dtype))
        y = self.ff(layer_norm(x, scale_f, shift_f, EPS).to(kept))
        return torch.addcmul(x, gate_f, y.to(x.dtype))


class DiT(nn.Module):
    inv_freq: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.time_embed = TimeEmbedding(config.hidden_size)
        self.text_embed = CodeEmbedding(config)
        self.input_embed = InputEmbedding(config)
        masks = [config.block_mask(i) for i in range(config.num_layers)]
        back = [i for i, mask in enumerate(masks) if mask.back]
        self.num_looking, self.reach = len(back), max((mask.back for mask in masks), default=0) * config.block_size
        self.transformer_blocks = nn.ModuleList(
            Block(config, mask, back.index(i) if mask.back else None) for i, mask in enumerate(masks)
        )
        self.norm_out = Modulation(config.hidden_size, 2)
        self.proj_out = nn.Linear(config.hidden_size, config.mel_dim)
        powers = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu") / config.head_dim
        self.register_buffer("inv_freq", 1 / ROPE_THETA**powers, persistent=False)

    def voice(self, ref_mel: Tensor, cond: Tensor) -> Tensor:
        """What a voice adds to the projected input, and what its absence adds.

        Args:
            ref_mel: `[T, mel_dim]`.
            cond: `[voice_dim]`.

        Returns:
            `[2, C]`. Absence is a reference of zeros, which the speaker encoder does not map to zero.
        """
        mels, conds = (torch.stack((x, torch.zeros_like(x))) for x in (ref_mel, cond))
        return self.input_embed.voice(mels, conds)

    def schedule(self, solver: Solver) -> Schedule:
        """The modulations of every layer at every time that the solver visits."""
        grid = time_grid(solver)
        time = self.time_embed(stage_times(grid, solver.rule).to(self.inv_freq.device))  # [R, C]
        blocks = torch.stack([block.attn_norm(time) for block in self.transformer_blocks], 1)
        out = self.norm_out(time)  # scale and shift the other way round than in the blocks
        blocks[:, :, 1::3] += 1
        out[:, 0] += 1
        return Schedule(solver, grid, blocks, out)

    def past_size(self, solver: Solver) -> int:
        """Numbers that one speech keeps between two windows, see `sample_on`."""
        return solver.num_evaluations * self.num_looking * 4 * self.reach * self.config.num_heads * self.config.head_dim

    def window(
        self, codes: Tensor, voices: Tensor, lens: Sequence[int], places: Sequence[Place] = (), num_turns: int = 0
    ) -> Window:
        """For B sequences of `lens` codes each, packed: codes int64 `[sum(lens)]`, voices `[B, 2, C]`.

        Args:
            places: of each in its speech; none where every one is a whole speech.
            num_turns: evaluations to come; needed with places.
        """
        repeats, device = self.config.repeats, codes.device
        frames = [repeats * n for n in lens]
        # without conditioning every code is replaced by code 0
        embedded = self.text_embed.codec_embed(torch.stack((codes, torch.zeros_like(codes))))
        added = self.input_embed.codes(embedded).repeat_interleave(repeats, 1)  # [2, N, C]
        spoken = voices.repeat_interleave(torch.tensor(frames, device=device), 0, output_size=sum(frames))  # [N, 2, C]
        firsts = [place.first for place in places] or [0] * len(frames)
        where = [torch.arange(first, first + n) for first, n in zip(firsts, frames, strict=True)]
        positions = torch.cat(where * 2)[None].to(device)  # [1, 2 N]
        axes = torch.zeros(len(self.inv_freq), dtype=torch.int64, device=device)
        cos, sin = rotary_table(positions, self.inv_freq, axes, torch.float32)
        behind = self._behind(frames, places, num_turns) if any(p.next or p.past is not None for p in places) else None
        return Window(added + spoken.transpose(0, 1), Segments.of(frames * 2, device), cos, sin, behind)

    def _behind(self, frames: Sequence[int], places: Sequence[Place], num_turns: int) -> Behind:
        like = self.transformer_blocks[0].attn.to_k.bias
        shape = (num_turns, self.num_looking, 2, 0, self.config.num_heads, self.config.head_dim)
        pasts = [like.new_empty(shape) if p.past is None else p.past[:, :, :, row] for row in (0, 1) for p in places]
        own, old, last = list[Tensor](), list[Tensor](), list[Tensor]()
        at = 0
        for past, n, place in zip(pasts, [*frames] * 2, [*places] * 2, strict=True):
            known = past.shape[3]
            old.append(torch.arange(at, at + known))
            own.append(torch.arange(at + known, at + known + n))
            stop = at + known + place.next
            last.append(torch.arange(max(at, stop - self.reach), stop if place.next else at))
            at += known + n
        segments = Segments.of([past.shape[3] + n for past, n in zip(pasts, [*frames] * 2, strict=True)], like.device)
        rows = [torch.cat(x).to(like.device) for x in (own, old, last)]
        kept = like.new_empty(*shape[:3], len(rows[2]), *shape[4:])
        return Behind(segments, rows[0], rows[1], torch.cat(pasts, 3), rows[2], kept)

    def forward(self, x: Tensor, window: Window, schedule: Schedule, time: int, turn: int = 0) -> Tensor:
        """Velocities with and without conditioning.

        Args:
            x: `[N, mel_dim]`.
            time: index of one of the schedule's times.
            turn: which of the solver's evaluations this is; some times have two.

        Returns:
            `[2, N, mel_dim]`.
        """
        h = (self.input_embed.moving(x) + window.fixed).flatten(0, 1)  # [2 N, C]
        for block, modulation in zip(self.transformer_blocks, schedule.blocks[time], strict=True):
            h = block(h, modulation, window, turn)
        scale, shift = schedule.out[time]
        v: Tensor = self.proj_out(layer_norm(h, scale, shift, EPS))
        return v.unflatten(0, (2, -1))  # [2, N, mel_dim]

    def sample(self, codes: Tensor, noise: Tensor, voices: Tensor, lens: Sequence[int], schedule: Schedule) -> Tensor:
        """Log-mel frames of B windows at once, packed; none sees another.

        Args:
            codes: int64 `[sum(lens)]`.
            noise: float32 `[N, mel_dim]`, `repeats` frames for each code.
            voices: `[B, 2, C]`, as `voice` gives them.
            lens: codes in each window, every one at least 1.

        Returns:
            `[N, mel_dim]`.
        """
        return self.sample_on(codes, noise, voices, lens, schedule, [Place()] * len(lens))[0]

    def sample_on(
        self,
        codes: Tensor,
        noise: Tensor,
        voices: Tensor,
        lens: Sequence[int],
        schedule: Schedule,
        places: Sequence[Place],
        replays: Replays | None = None,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """As `sample`, for windows that go on where others of their speeches ended.

        replays: records the whole solve for windows of these lengths.

        Returns:
            The frames, and for each window the past of the one that follows it, or None where none does: keys and values
            `[E, L, 2, 2, P, H, D]` of its last P frames before `Place.next`, with and without conditioning.
        """
        solver = schedule.solver
        window = self.window(codes, voices, lens, places, solver.num_evaluations)
        behind = window.behind

        def solve(x: Tensor, fixed: Tensor, cos: Tensor, sin: Tensor, *seen: Tensor) -> Sequence[Tensor]:
            here = replace(window, fixed=fixed, cos=cos, sin=sin, behind=replace(behind, seen=seen[0]) if behind else None)
            turns = count()

            def velocity(time: int, x: Tensor) -> Tensor:
                conditional, unconditional = self(x, here, schedule, time, next(turns))
                return guide(conditional, unconditional, solver.guidance)

            mel = integrate(velocity, x, schedule.grid, solver.rule)
            return (mel, behind.kept) if behind else (mel,)

        inputs = (noise, window.fixed, window.cos, window.sin, *((behind.seen,) if behind else ()))
        known = [0 if p.past is None else p.past.shape[4] for p in places]
        if replays:
            name = solver, tuple(lens), tuple(known), tuple(p.next for p in places)
            mel, *kept = replays(name, solve, *inputs)
        else:
            mel, *kept = solve(*inputs)
        if not kept:
            return mel, [None] * len(lens)
        nums = [min(self.reach, num + p.next) if p.next else 0 for num, p in zip(known, places, strict=True)]
        halves = kept[0].unflatten(3, (2, -1)).split(nums, 4)
        # clones, or each would keep those of all
        return mel, [half.clone() if num else None for half, num in zip(halves, nums, strict=True)]
