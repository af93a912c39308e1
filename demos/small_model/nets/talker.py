"""The talker for training: batches that share a prompt, tables made of factors, attention that can be looked at.

The published tables have a row for every codec id. Here an id is a cluster of sound and a counter, each with a row of its
own, and the published row is their sum; so what is learned of one id holds for all that share its cluster or counter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from demos.small_model.nets.passes import initialise, norm, turn, unstacked
from demos.small_model.speech.codec import CLUSTERS, COUNTER, code_ids
from omni.models.config import DecoderConfig
from omni.models.decoder import STACKS, Decoder, Layer
from omni.talker.config import TalkerConfig

IGNORED = -100
START, PAD = CLUSTERS, CLUSTERS + 1
"""Rows of the input clusters that stand for the codec's start and pad ids; their counter is `NO_COUNTER`."""
NO_COUNTER = COUNTER
END, END_COUNTER = CLUSTERS, COUNTER
"""Output classes of the codec's end id."""
INDEX_LAYER, GUIDED_LAYER = 1, 2
"""The layer whose result tells a text row's index, and the layer whose first two heads find rows by it."""
PACE_LAYER, PACES = 3, 32
"""The layer whose result tells how many codes of a unit were and are to come, and the classes of both."""
CODE_SCALE, CODE_WIDTH = 4.0, 72
SHARPER = 2.5
"""How many times steeper the published logits are: transformers draws codes at temperature 0.9, at which words blur."""
UNLIKELY = -15.0
"""Logit below which ids that stand for no code are kept; the others' log-sum-exp is kept near 0."""


@dataclass(frozen=True)
class Batch:
    """Utterances after one prompt; rows of an utterance: who speaks, then one row per code and one for the end.

    Attributes:
        prompt: thinker rows `[P, E]`.
        text: thinker rows `[B, T, E]`.
        cluster, counter: the code that is read at each row, int64 `[B, T]`.
        next_cluster, next_counter: classes to be predicted, int64 `[B, T]`, or IGNORED.
        looks: rows that the two guided heads look at, int64 `[B, 2, T]`, or IGNORED.
        index: a text row's index modulo COUNTER, int64 `[B, T]`, or IGNORED.
        paces: codes of the next code's unit before it and after it, int64 `[B, 2, T]`, or IGNORED.
        phones: of each cluster, int64 `[CLUSTERS]`.
    """

    prompt: Tensor
    text: Tensor
    cluster: Tensor
    counter: Tensor
    next_cluster: Tensor
    next_counter: Tensor
    looks: Tensor
    index: Tensor
    paces: Tensor
    phones: Tensor

    def to(self, device: str) -> Batch:
        return Batch(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class Losses:
    """Means over rows, and the shares of rows whose likeliest class is right."""

    cluster: Tensor
    phone: Tensor
    counter: Tensor
    looks: Tensor
    index: Tensor
    pace: Tensor
    level: Tensor
    cluster_right: Tensor
    phone_right: Tensor
    counter_right: Tensor


class TalkerNet(nn.Module):
    def __init__(self, config: TalkerConfig, decoder: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.embedding_size, config.hidden_size
        self.decoder = Decoder(decoder)
        self.thinker_to_talker_proj = nn.Linear(width, hidden)
        self.cluster_in = nn.Parameter(torch.empty(CLUSTERS + 2, width))
        self.counter_in = nn.Parameter(torch.empty(COUNTER, width))
        self.cluster_out = nn.Parameter(torch.randn(CLUSTERS + 1, hidden) * hidden**-0.5)
        self.counter_out = nn.Parameter(torch.randn(COUNTER + 1, hidden) * hidden**-0.5)
        self.unused_out = nn.Parameter(torch.zeros(hidden))
        self.probe = nn.Linear(hidden, COUNTER)
        self.pace = nn.Linear(hidden, 2 * PACES)
        initialise(self.decoder, decoder.num_layers)
        self._part_tracks()

    @torch.no_grad()
    def _part_tracks(self) -> None:
        """Start with codes in directions where words are small: the two tracks are summed before anything can part them."""
        turned = torch.linalg.qr(torch.randn(self.cluster_in.shape[1], self.cluster_in.shape[1])).Q
        own = turned[-CODE_WIDTH:]
        for table in (self.cluster_in, self.counter_in):
            table.copy_(torch.randn(len(table), CODE_WIDTH) @ own)
        turned[-CODE_WIDTH:] /= CODE_SCALE
        self.thinker_to_talker_proj.weight.copy_(turned)
        self.thinker_to_talker_proj.bias.zero_()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Hidden rows `[B, T, C]` after the final norm, losses of the guided heads, of the index and of the paces."""
        b, t = batch.cluster.shape
        p = len(batch.prompt)
        counters = F.pad(self.counter_in, (0, 0, 0, 1))
        codes = F.embedding(batch.cluster, self.cluster_in) + F.embedding(batch.counter, counters)
        x = self.thinker_to_talker_proj(torch.cat((batch.prompt, (batch.text + CODE_SCALE * codes).flatten(0, 1)))).float()
        device = x.device
        angle = torch.arange(p + t, device=device)[:, None] * self.decoder.inv_freq
        angle = torch.cat((angle[:p], angle[p:].repeat(b, 1)))[:, None]  # [P + B T, 1, D / 2]
        cos, sin = angle.cos(), angle.sin()
        later = torch.full((t, t), -1e4, device=device).triu(1)
        later = torch.cat((torch.zeros(t, p, device=device), later), 1)  # [T, P + T]
        before = torch.full((p, p), -1e4, device=device).triu(1)
        looks = index = pace = x.new_zeros(())
        for i, layer in enumerate(self.decoder.layers):
            assert isinstance(layer, Layer)
            attn, groups = layer.self_attn, self.decoder.config.num_kv_heads
            x_in = norm(x, layer.input_layernorm.weight)
            q, k, v = attn.qkv_proj(x_in).unflatten(-1, (sum(attn.heads), -1)).split(attn.heads, 1)
            q, k = turn(q, cos, sin) * q.shape[-1] ** -0.5, turn(k, cos, sin)
            q, k = q.to(v.dtype), k.to(v.dtype)
            q = q.unflatten(1, (groups, -1))  # [P + B T, K, H / K, D]
            first_k, first_v = k[:p].transpose(0, 1), v[:p].transpose(0, 1)  # [K, P, D]
            scores = (q[:p].permute(1, 2, 0, 3).flatten(1, 2) @ first_k.mT).unflatten(1, (-1, p)) + before.to(q.dtype)
            y = (scores.softmax(-1).flatten(1, 2) @ first_v).unflatten(1, (-1, p))
            first = y.permute(2, 0, 1, 3)  # [P, K, H / K, D]

            q = q[p:].unflatten(0, (b, t)).permute(2, 0, 3, 1, 4).flatten(2, 3)  # [K, B, H / K T, D]
            k, v = (y[p:].unflatten(0, (b, t)).permute(2, 0, 1, 3) for y in (k, v))  # [K, B, T, D]
            to_prompt = (q.flatten(1, 2) @ first_k.mT).unflatten(1, (b, -1))
            scores = torch.cat((to_prompt, q @ k.mT), -1).unflatten(2, (-1, t))  # [K, B, H / K, T, P + T]
            scores = scores + later.to(q.dtype)
            if i == GUIDED_LAYER:
                looks = F.nll_loss(
                    scores[0, :, :2].float().log_softmax(-1).flatten(0, 2),
                    torch.where(batch.looks == IGNORED, IGNORED, batch.looks + p).flatten(),
                )
            weights = scores.softmax(-1).flatten(2, 3)
            y = weights[..., p:] @ v + (weights[..., :p].flatten(1, 2) @ first_v).unflatten(1, (b, -1))
            y = y.unflatten(2, (-1, t)).permute(1, 3, 0, 2, 4).flatten(0, 1)  # [B T, K, H / K, D]
            x = x + attn.o_proj(torch.cat((first, y)).flatten(1))
            gate, up = layer.mlp.gate_up_proj(norm(x, layer.post_attention_layernorm.weight)).chunk(2, -1)
            x = x + layer.mlp.down_proj(F.silu(gate) * up)
            if i == INDEX_LAYER:
                known = batch.index.flatten()
                rows = norm(x[p:][known != IGNORED], torch.ones(x.shape[1], device=device))
                index = F.cross_entropy(self.probe(rows).float(), known[known != IGNORED])
            if i == PACE_LAYER:
                known = batch.paces.transpose(1, 2).flatten(0, 1)  # [B T, 2]
                real = known[:, 0] != IGNORED
                rows = norm(x[p:][real], torch.ones(x.shape[1], device=device))
                pace = F.cross_entropy(self.pace(rows).float().unflatten(1, (2, PACES)).flatten(0, 1), known[real].flatten())
        return norm(x[p:], self.decoder.norm.weight).unflatten(0, (b, t)), looks, index, pace

    def losses(self, batch: Batch) -> Losses:
        hidden, looks, index, pace = self(batch)
        real = batch.next_cluster != IGNORED
        rows, cluster, counter = hidden[real], batch.next_cluster[real], batch.next_counter[real]
        clusters, counters = (F.linear(rows, w).float() for w in (self.cluster_out, self.counter_out))
        of_all = clusters.logsumexp(-1) + counters.logsumexp(-1)
        unused = rows.float() @ self.unused_out
        phone_of = torch.cat((batch.phones, batch.phones.max()[None] + 1))  # the end is a phone of its own
        phones = clusters.new_zeros(len(rows), int(phone_of[-1]) + 1).index_add(1, phone_of, clusters.softmax(-1))
        phone = phone_of[cluster]
        return Losses(
            F.cross_entropy(clusters, cluster),
            F.nll_loss(phones.clamp(min=1e-9).log(), phone),
            F.cross_entropy(counters, counter),
            looks,
            index,
            pace,
            # the penalty for repeated ids depends on the level of the logits, which the softmax leaves open
            of_all.square().mean() + F.relu(unused - UNLIKELY).square().mean(),
            (clusters.argmax(-1) == cluster).float().mean(),
            (phones.argmax(-1) == phone).float().mean(),
            (counters.argmax(-1) == counter).float().mean(),
        )

    @torch.no_grad()
    def published(self) -> dict[str, Tensor]:
        """Weights by the names of a published checkpoint, without `talker.`."""
        c, decoder = self.config, self.decoder.config
        ids = code_ids(torch.arange(CLUSTERS)[:, None], torch.arange(COUNTER)).flatten()
        codes = self.cluster_in.new_zeros(c.vocab_size, c.embedding_size)
        codes[ids] = (self.cluster_in[:CLUSTERS, None] + self.counter_in).flatten(0, 1)
        codes[c.codec_start_id], codes[c.codec_pad_id] = self.cluster_in[START], self.cluster_in[PAD]
        head = self.unused_out.repeat(c.vocab_size, 1)
        head[ids] = (self.cluster_out[:CLUSTERS, None] + self.counter_out[:COUNTER]).flatten(0, 1)
        head[c.codec_end_id] = self.cluster_out[END] + self.counter_out[END_COUNTER]
        query, key, mlp = decoder.num_heads, decoder.num_kv_heads, decoder.intermediate_size
        heads = [n * decoder.head_dim for n in (query, key, key)]
        widths = dict(zip(STACKS, (heads, (mlp, mlp)), strict=True))
        names = {f"model.{n}": w for n, w in unstacked(self.decoder.state_dict(), STACKS, widths).items()}
        projection = {f"thinker_to_talker_proj.{n}": w for n, w in self.thinker_to_talker_proj.state_dict().items()}
        tables = {"model.embed_tokens.weight": CODE_SCALE * codes, "codec_head.weight": SHARPER * head}
        return {n: w.detach().cpu().float().clone() for n, w in (names | projection | tables).items()}

    @torch.no_grad()
    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from weights that were `published`; how an id's row parts into cluster and counter is chosen anew."""
        c = self.config
        ids = code_ids(torch.arange(CLUSTERS)[:, None], torch.arange(COUNTER))
        codes, head = weights["model.embed_tokens.weight"] / CODE_SCALE, weights["codec_head.weight"] / SHARPER
        by_counter = [table[ids].mean(0) - table[ids].mean((0, 1)) for table in (codes, head)]
        opening, none = codes[[c.codec_start_id, c.codec_pad_id]], head.new_zeros(1, head.shape[1])
        state = self.state_dict()
        state["cluster_in"], state["counter_in"] = torch.cat((codes[ids].mean(1), opening)), by_counter[0]
        state["cluster_out"] = torch.cat((head[ids].mean(1), head[c.codec_end_id][None]))
        state["counter_out"] = torch.cat((by_counter[1], none))
        state["unused_out"] = head[CLUSTERS * COUNTER + 1]
        for name in state:
            parts = next((STACKS[s] for s in STACKS if s in name), None)
            published = name.replace("decoder.", "model.", 1)
            if parts:
                stack = next(s for s in STACKS if s in name)
                state[name] = torch.cat([weights[published.replace(stack, part)] for part in parts])
            elif published in weights:
                state[name] = weights[published]
        self.load_state_dict(state)
