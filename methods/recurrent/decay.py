"""One recurrence for linear attention and all that forgets by decay,

    S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,     o_t = S_t^T q_t,     g_t <= 0,

with no decay (linear attention, cosFormer), one constant a head (RetNet), one a token (SSD) or one a token and channel
(GLA). In blocks, with G the sum of g from the block's first token on (Yang et al. 2023, arXiv:2312.06635, section 4):

    o_t = S_before^T (q_t exp(G_t)) + sum over s <= t in the block of (sum_f q_tf k_sf exp(G_tf - G_sf)) v_s
    S_after = diag(exp(G_last)) S_before + sum over s of (k_s exp(G_last - G_s)) v_s^T

Only differences of G that are at most zero are exponentiated, so that no decay, however strong, overflows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kvfrontier.methods.recurrent.blocks import (
    LEAST,
    PART,
    falloff,
    in_spans,
    join_queries,
    length,
    split,
    split_queries,
)

#: Weights that sum to less are not brought up to one: a gradient would blow up.
LEAST_MASS = 1e-6


def decayed(q: Tensor, k: Tensor, v: Tensor, S: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, G, T, V] and the state after them.

    q [B, H, G, T, F], k [B, H, T, F], v [B, H, T, V], S [B, H, F, V]; g: log-decays [B, H, T, F], or 1 in place of any
    dimension but T along which they are the same; None: no decay.
    """
    g = k.new_zeros(1, 1, k.shape[2], 1) if g is None else g.clamp(min=LEAST)
    return _token(q, k, v, g, S) if k.shape[2] == 1 else in_spans(_span, (q, k, v, g), S)


def weighing(v: Tensor) -> Tensor:
    """Values with a column of ones, whose weighted sum is the weights' own (linear attention's z)."""
    return F.pad(v, (0, 1), value=1.0)


def divided(out: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs for values that are `weighing`, divided by their mass, the last column; and that mass [B, H, G, T]. A
    query without mass gets nothing."""
    mass = out[..., -1]
    return out[..., :-1] / mass.clamp(min=LEAST_MASS).unsqueeze(-1), mass


def normalised(q: Tensor, k: Tensor, v: Tensor, S: Tensor, g: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`decayed` with weights that sum to one; S is [B, H, F, V + 1]."""
    out, S = decayed(q, k, weighing(v), S, g)
    return divided(out)[0], S


def _token(q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the recurrence itself."""
    S = g.exp().transpose(-1, -2) * S + k.transpose(-1, -2) * v
    return (q.squeeze(3) @ S).unsqueeze(3), S


def _span(q: Tensor, k: Tensor, v: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    T = k.shape[2]
    c = length(T)
    q, k, v = split_queries(q, c), split(k, c), split(v, c)
    G = split(g, c).cumsum(-2)
    weights = _by_channel(q, k, G) if G.shape[-1] > 1 else _by_token(q, k, G)
    inside = weights.flatten(3, 4) @ v
    added = (k * (G[..., -1:, :] - G).exp()).transpose(-1, -2) @ v
    kept = G[..., -1, :].exp().unsqueeze(-1).expand(*added.shape[:3], -1, -1)
    before = []
    for n in range(added.shape[2]):
        before.append(S)
        S = kept[:, :, n] * S + added[:, :, n]
    read = (q * G.exp().unsqueeze(3)).flatten(3, 4) @ torch.stack(before, 2)
    return join_queries((inside + read).unflatten(3, (-1, c)), T), S


def _by_token(q: Tensor, k: Tensor, G: Tensor) -> Tensor:
    """Weights [B, H, N, G, c, c] inside blocks where all channels decay alike."""
    products = q.flatten(3, 4) @ k.transpose(-1, -2)
    return products.unflatten(3, q.shape[3:5]) * falloff(G).squeeze(-1).unsqueeze(3)


def _by_channel(q: Tensor, k: Tensor, G: Tensor) -> Tensor:
    """Weights [B, H, N, G, c, c] inside blocks where every channel has its own decay.

    A block falls into m parts. Between parts the decay is split at the beginning of the query's part, which keeps both
    factors at most one and makes a product of matrices of it; within a part it is taken for each pair of tokens.
    """
    c, part = k.shape[-2], min(PART, k.shape[-2])
    m = c // part
    q, inner = q.unflatten(-2, (m, part)).transpose(3, 4), G.unflatten(-2, (m, part))
    begin = F.pad(inner[..., :-1, -1, :], (0, 0, 1, 0))
    near = falloff(inner) * k.unflatten(-2, (m, part)).unsqueeze(-3)
    near = torch.einsum("bhnmgtf,bhnmtsf->bhnmgts", q, near)
    if m > 1:
        since = begin.unsqueeze(-2) - G.unsqueeze(-3)
        s = torch.arange(c, device=k.device)
        beyond = s >= torch.arange(0, c, part, device=k.device)[:, None]
        keys = k.unsqueeze(-3) * since.masked_fill(beyond.unsqueeze(-1), float("-inf")).exp()
        queries = q * (inner - begin.unsqueeze(-2)).exp().unsqueeze(4)
        far = (queries.flatten(4, 5) @ keys.transpose(-1, -2)).unflatten(-2, queries.shape[4:6])
        own = torch.eye(m, device=k.device, dtype=k.dtype)[:, None, None, :, None]
        near = (far.unflatten(-1, (m, part)) + near.unsqueeze(-2) * own).flatten(-2)
    return near.transpose(3, 4).flatten(4, 5)
