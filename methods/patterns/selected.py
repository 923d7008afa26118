"""Softmax attention of queries that each chose blocks of keys: work for the chosen pairs and no others.

The pairs (query, chosen block) are sorted by block, and each block's queries are cut into tiles of `TILE`; a tile reads
its block once. How the pairs fall is data, but never how many tiles there can be, so sizes are known before.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import arange
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.patterns.gathered import attend_gathered, gather_for_heads

#: Queries of a tile.
TILE = 64


def attend_selected(q: Tensor, k: Tensor, v: Tensor, chosen: Tensor, first: int, size: int, layer: Layer) -> Part:
    """Output [B, Hq, T, Dv] in q's dtype and log-sum-exp [B, Hq, T].

    q [B, Hq, T, D], query t at position first + t; k, v [B, Hkv, S, D], from position 0. chosen [B, H, T, c]: the
    blocks of `size` tokens that a query sees, up to itself, each once; H choosers, a multiple of Hkv, each for Hq / H
    query heads. A block that begins after the query counts as none.
    """
    B, H, T, c = chosen.shape
    tile = min(TILE, T)
    of_tile, query, place = _tiles(chosen.flatten(2), -(-k.shape[2] // size), tile, c)
    token = of_tile[..., None] * size + arange(0, size, q)  # [B, H, tiles, size]
    position = torch.where(query < 0, -1, first + query).unflatten(2, (-1, tile))
    seen = token.unsqueeze(3) <= position.unsqueeze(4)
    slots = token.flatten(2).clamp(max=k.shape[2] - 1)

    def tiled(x: Tensor, rows: int) -> Tensor:
        """[B, H, tiles x rows, ...] with tiles as the batch."""
        return x.unflatten(2, (-1, rows)).flatten(0, 2)

    # The query heads of a chooser stand side by side in the last dimension while rows move.
    grouped = q.unflatten(1, (H, -1)).transpose(2, 3)
    rows = tiled(gather_for_heads(grouped.float().flatten(3), query.clamp(min=0)), tile)
    keys, values = (tiled(gather_for_heads(x, slots), size).unsqueeze(1) for x in (k, v))
    o, lse = attend_gathered(
        rows.unflatten(2, (-1, q.shape[3])).transpose(1, 2), keys, values, seen.flatten(0, 2)[:, None, None], layer
    )

    def of_pairs(x: Tensor) -> Tensor:
        """[tiles, G, tile, d] of a tile's rows -> [B, H, T, c, G, d]."""
        x = x.transpose(1, 2).flatten(2).unflatten(0, (B, H, -1)).flatten(2, 3)
        return gather_for_heads(x, place).unflatten(3, (grouped.shape[3], -1)).unflatten(2, (T, c))

    o, lse = of_pairs(o), of_pairs(lse.unsqueeze(-1))
    total = lse.logsumexp(3)
    merged = (o * torch.exp(lse - total.unsqueeze(3))).sum(3)
    return merged.transpose(2, 3).flatten(1, 2).to(q.dtype), total.squeeze(-1).transpose(2, 3).flatten(1, 2)


def _tiles(chosen: Tensor, blocks: int, tile: int, c: int) -> tuple[Tensor, Tensor, Tensor]:
    """The block of each tile [B, H, tiles], the query in each of its rows [B, H, tiles x tile] (-1: none), and the row
    of each pair [B, H, pairs], of the blocks that pairs chose; pair i is of query i // c."""
    pairs = chosen.shape[2]

    def each(n: int) -> Tensor:
        return arange(0, n, chosen).expand(*chosen.shape[:2], n).contiguous()

    if tile == 1:
        return chosen, each(pairs) // c, each(pairs)
    # A block's last tile may be unfilled.
    tiles = min(pairs, pairs // tile + blocks)
    block, order = chosen.sort(dim=-1, stable=True)
    begin = torch.searchsorted(block, each(blocks + 1))
    ends = (-(-begin.diff(dim=-1) // tile)).cumsum(-1)
    begins = torch.nn.functional.pad(ends, (1, 0))
    row = begins.gather(-1, block) * tile + each(pairs) - begin.gather(-1, block)
    query = row.new_full((*row.shape[:2], tiles * tile), -1).scatter(-1, row, order // c)
    return torch.searchsorted(ends, each(tiles), right=True), query, torch.empty_like(row).scatter(-1, order, row)
