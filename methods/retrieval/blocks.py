"""InfLLM's memory (Xiao et al. 2024, arXiv:2402.04617, section 3.2): what leaves, in blocks in host memory, of which a
query looks up the few that matter to it.

A block is found by its representative tokens, those to which the queries of the window pay the most attention:

    r_m = k_m . sum over local queries q_j       the `representatives` tokens with the highest r_m stand for the block
    sim(t, block) = sum over heads of q_t . (mean of the keys of its representatives)

What is looked up depends on positions alone, so that chunks do not matter. A block is made when the token after its
last one leaves; local queries are those of the last `voters` tokens before, by whole stretches of `block` tokens from
the text's beginning, the same for all keys of a block, where the paper takes the `window` queries after each key; and
each query looks up its own blocks, where the official code lets 512 share them. Keys are scored by the products above,
as in the paper, summed over the queries of a group, so that no grouped head needs keys of its own; the official code
sums the window's softmax weights, and each query head has its own representatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part, merge
from kvfrontier.methods.axes import KeysAt, Memory, Selection, arange, gather
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.patterns.gathered import attend_gathered
from kvfrontier.methods.registry import called, component
from kvfrontier.methods.retrieval.one_place import in_one_place
from kvfrontier.methods.state import Buf, Bytes, Host, State
from kvfrontier.methods.stores.dense import KV, buffer_footprint

#: Tokens that several queries look through at once.
TILE = 2048


@dataclass
class Blocks(State):
    """What has left: rest is in no block yet; host: KV of the blocks, [B, blocks, Hkv, block, D] each.

    means [B, Hkv, blocks, D] of the keys of their representatives; votes [B, Hkv, stretches + 1, D] float32: sums of
    queries, in the end those of the stretch that is not over; queries: how many were seen.
    """

    rest: KV
    host: Host
    means: Buf
    votes: Tensor
    queries: int = 0


@component("memory", "blocks")
@dataclass(frozen=True)
class BlockMemory(Memory):
    """What leaves is kept in blocks, and a query looks up those whose representatives are nearest.

    block: tokens of a block; blocks: how many a query looks up; representatives: tokens that stand for a block;
    voters: local queries that choose these.
    """

    block: int = 128
    blocks: int = 16
    representatives: int = 4
    voters: int = 4096

    join: ClassVar[Literal["softmax", "gate"] | None] = "softmax"
    bounded: ClassVar[bool] = False
    wants_queries: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("block", "blocks", "representatives", "voters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1; raise method.{name}")
        if self.representatives > self.block:
            raise ValueError(
                f"{self.representatives} representatives are more than the {self.block} tokens of a block; lower "
                "method.representatives or raise method.block"
            )

    @property
    def _stretches(self) -> int:
        return max(1, self.voters // self.block)

    def init(self, layer: Layer, batch: int) -> Blocks:
        host = KV(
            *(
                Buf.empty(batch, 0, layer.hkv, self.block, d, dim=1, dtype=layer.dtype, device="cpu")
                for d in (layer.d, layer.dv)
            )
        )
        means = Buf.empty(batch, layer.hkv, 0, layer.d, dtype=layer.dtype, device=layer.device)
        votes = torch.zeros(batch, layer.hkv, self._stretches + 1, layer.d, device=layer.device)
        return Blocks(KV.empty(layer, batch, exact=False), Host(host), means, votes)

    def slots(self) -> int:
        return 1

    def check(self, selection: Selection) -> None:
        if not selection.rolling:
            raise ValueError(
                f"a block is a stretch of the text, and {called(selection)} does not let tokens leave one by "
                "one, in order; choose method/selection=window or sinks"
            )

    def room(self, state: Any) -> int:
        # A full rest is made a block at the beginning of the next piece.
        return self.block - state.rest.k.n % self.block

    def observe(self, state: Any, q: Tensor, layer: Layer) -> None:
        if state.rest.k.n == self.block:
            self._make(state)
        q, a = q.detach().float().unflatten(1, (layer.hkv, -1)).sum(2), 0
        while a < q.shape[2]:
            b = min(q.shape[2], a + self.block - state.queries % self.block)
            over, current = state.votes[:, :, :-1], state.votes[:, :, -1:] + q[:, :, a:b].sum(2, keepdim=True)
            state.queries += b - a
            if state.queries % self.block == 0:
                over, current = torch.cat([over[:, :, 1:], current], 2), torch.zeros_like(current)
            state.votes, a = torch.cat([over, current], 2), b

    def _make(self, state: Any) -> None:
        """A block of the rest."""
        keys, host = state.rest.k.view().detach(), state.host.inner
        scores = (keys.float() * state.votes[:, :, :-1].sum(2, keepdim=True)).sum(-1)
        best = gather(keys, scores.topk(self.representatives).indices)
        state.means.append(best.float().mean(2, keepdim=True).to(keys.dtype))
        for rest, block in ((state.rest.k, host.k), (state.rest.v, host.v)):
            block.append(rest.view().unsqueeze(1).to("cpu"))
            rest.set(rest.view()[:, :, :0])

    def absorb(self, state: Any, k: Tensor, v: Tensor) -> None:
        state.rest.k.append(k)
        state.rest.v.append(v)

    def read(
        self, state: Any, q: Tensor, layer: Layer, k: Tensor, v: Tensor, counts: Tensor, keys_at: KeysAt
    ) -> Part | None:
        parts = self._looked_up(state, q, layer, keys_at) if state.means.n else []
        n = state.rest.k.n + k.shape[2]
        if n:
            keys, values = torch.cat([state.rest.k.view(), k], 2), torch.cat([state.rest.v.view(), v], 2)
            seen = arange(0, n, q) < (counts + state.rest.k.n)[:, None]
            parts.append(attend_gathered(q, in_one_place(keys, keys_at), values, seen, layer))
        return merge(parts) if parts else None

    def _looked_up(self, state: Any, q: Tensor, layer: Layer, keys_at: KeysAt) -> list[Part]:
        """Attention over the blocks of each query's choice."""
        held, n, T = state.host.inner, state.means.n, q.shape[2]
        summed = q.detach().float().unflatten(1, (layer.hkv, -1)).sum(2)
        similarity = torch.einsum("bhtd,bhnd->btn", summed, in_one_place(state.means.view(), keys_at).float())
        chosen = similarity.topk(min(self.blocks, n)).indices

        def attended(k: Tensor, v: Tensor, seen: Tensor) -> Part:
            """Over blocks [B, blocks, Hkv, block, D] in host memory."""
            k, v = (x.to(q.device).transpose(1, 2).flatten(2, 3) for x in (k, v))
            return attend_gathered(q, in_one_place(k, keys_at), v, seen, layer)

        if T == 1:
            rows, blocks = torch.arange(q.shape[0])[:, None], chosen[:, 0].to("cpu")
            return [attended(held.k.view()[rows, blocks], held.v.view()[rows, blocks], q.new_ones(1, dtype=torch.bool))]
        # Several queries choose otherwise each: all blocks pass by, under a mask.
        mask = torch.zeros(*chosen.shape[:2], n, dtype=torch.bool, device=q.device).scatter(2, chosen, True)
        step, parts = max(1, TILE // self.block), []
        for a in range(0, n, step):
            seen = mask[:, :, a : a + step].repeat_interleave(self.block, 2)[:, None, None]
            parts.append(attended(held.k.view()[:, a : a + step], held.v.view()[:, a : a + step], seen))
        return parts

    def footprint(self, layer: Layer, batch: int, gone: int) -> Footprint:
        blocks = max(0, gone - 1) // self.block
        of_block = buffer_footprint(batch, self.block * layer.kv_bytes, blocks, False)
        host = Bytes(host=of_block.held.device, host_slack=of_block.held.device_slack)
        vote = layer.hkv * layer.d * torch.float32.itemsize
        return (
            Footprint(host, min(blocks, self.blocks) * self.block * layer.kv_bytes)
            + buffer_footprint(batch, layer.kv_bytes, gone - blocks * self.block, False)
            + buffer_footprint(batch, layer.hkv * layer.d * layer.dtype.itemsize, blocks, False)
            + Footprint.of(batch * (self._stretches + 1) * vote, read=vote)
        )
