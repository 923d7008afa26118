"""The delta rule: a key's old value is taken out before the new one is written, so that the matrix learns online to
give v_t for k_t with learning rate beta_t, and may forget as well,

    S_t = exp(g_t) S_{t-1} + beta_t k_t (v_t - exp(g_t) S_{t-1}^T k_t)^T,     o_t = S_t^T q_t.

In blocks (Yang et al. 2024, arXiv:2406.06484 and 2412.06464): what is written at the tokens of a block, as rows of N,
solves a triangular system that holds the block's own keys (the UT transform of the WY representation). With G the sum
of g from the block's first token on and D_ts = exp(G_t - G_s) for s <= t,

    (I + tril(beta K K^T * D, -1)) N = beta (V - exp(G) K S_before)
    O = exp(G) Q S_before + (Q K^T * D) N
    S_after = exp(G_last) S_before + (exp(G_last - G) K)^T N

The system is solved for all blocks at once, N = U - W S_before; from block to block there are two products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.recurrent.blocks import (
    LEAST,
    falloff,
    in_spans,
    join_queries,
    length,
    split,
    split_queries,
)


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, S: Tensor, g: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, G, T, V] and the state after them.

    q [B, H, G, T, F], k [B, H, T, F], v [B, H, T, V], beta [B, H, T, 1], S [B, H, F, V]; g: log-decays [B, H, T, 1];
    None: no decay. The rule is stable where beta |k|^2 is at most 2.
    """
    g = torch.zeros_like(beta) if g is None else g.clamp(min=LEAST)
    return _token(q, k, v, beta, g, S) if k.shape[2] == 1 else in_spans(_span, (q, k, v, beta, g), S)


def _token(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """One token: the recurrence itself."""
    S = g.exp() * S
    S = S + k.transpose(-1, -2) * (beta * (v - k @ S))
    return (q.squeeze(3) @ S).unsqueeze(3), S


def _span(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    T = k.shape[2]
    c = length(T)
    q, k, v, beta = split_queries(q, c), split(k, c), split(v, c), split(beta, c)
    G = split(g, c).cumsum(-2)
    D = falloff(G).squeeze(-1)
    system = beta * (k @ k.transpose(-1, -2)) * D
    wanted = beta * torch.cat([v, G.exp() * k], -1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    U, W = solved.split([v.shape[-1], k.shape[-1]], -1)
    kept, writes = G[..., -1:, :].exp(), (k * (G[..., -1:, :] - G).exp()).transpose(-1, -2)
    before, written = [], []
    for n in range(k.shape[2]):
        before.append(S)
        written.append(U[:, :, n] - W[:, :, n] @ S)
        S = kept[:, :, n] * S + writes[:, :, n] @ written[-1]
    weights = (q.flatten(3, 4) @ k.transpose(-1, -2)).unflatten(3, q.shape[3:5]) * D.unsqueeze(3)
    read = (q * G.exp().unsqueeze(3)).flatten(3, 4) @ torch.stack(before, 2)
    out = read + weights.flatten(3, 4) @ torch.stack(written, 2)
    return join_queries(out.unflatten(3, (-1, c)), T), S
