"""A short text of random queries, keys and values, on which methods are compared with their papers' formulas.

A reference is written from the paper, as loops over tokens and heads: `reference.by_token(output)` calls
`output(h, g, t)` for query head h, its key/value head g and token t, and returns what `reference.run` should.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Layer, Method, Step

HQ, HKV, D, T, PROMPT = 4, 2, 16, 90, 70
SCALE = 0.35
CHUNKS = [[PROMPT] + [1] * (T - PROMPT), [13, 50, 7, 20], [1] * T]


class Rotary:
    """RoPE with base 100, written with complex numbers."""

    trained = 32
    frequencies = 100.0 ** -(torch.arange(D // 2) / (D // 2))

    def apply(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.rotate(x, positions[..., None] * self.frequencies)

    def rotate(self, x: Tensor, angles: Tensor, factor: float = 1.0) -> Tensor:
        half = x.shape[-1] // 2
        z = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), angles)[:, None]
        return torch.cat([z.real, z.imag], -1) * factor

    def invert(self, x: Tensor, positions: Tensor) -> Tensor:
        return self.apply(x, -positions)


class Reference:
    """Sizes, the layer, and how a method is run over the text: q, k, v are before RoPE; the prompt ends after `PROMPT`
    tokens."""

    HQ, HKV, D, T, PROMPT, SCALE = HQ, HKV, D, T, PROMPT, SCALE
    rope = Rotary()
    layer = Layer(index=0, count=1, hq=HQ, hkv=HKV, d=D, dv=D, scale=SCALE, rope=rope)

    @staticmethod
    def qkv(seed: int = 7, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed)
        q, k, v = (torch.randn(batch, h, T, D, generator=g) for h in (HQ, HKV, HKV))
        return q, k, v

    @staticmethod
    def rotate(x: Tensor) -> Tensor:
        return Rotary().apply(x, torch.arange(x.shape[2])[None])

    def run(
        self, method: Method, q: Tensor, k: Tensor, v: Tensor, chunks: Sequence[int], layer: Layer | None = None
    ) -> Tensor:
        """The method's output [B, Hq, T, D] over the chunks; those that begin after the prompt are decoded."""
        layer = layer or self.layer
        state, out, a = method.init_state(layer, q.shape[0]), [], 0
        qr, kr = self.rotate(q), self.rotate(k)
        for n in chunks:
            at = slice(a, a + n)
            if a == PROMPT:
                method.seal(state, layer)
                method.seal(state, layer)
            step = Step(
                torch.arange(a, a + n)[None].expand(q.shape[0], -1), a, "prefill" if a < PROMPT else "decode",
                unrotated=lambda at=at: (q[:, :, at], k[:, :, at]),
            )  # fmt: skip
            out.append(method.attend(qr[:, :, at], kr[:, :, at], v[:, :, at], state, layer, step))
            a += n
        return torch.cat(out, 2)

    @staticmethod
    def attend(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Softmax attention of one query [D] over keys [n, D] and values [n, D]."""
        return (keys @ q * SCALE).softmax(0) @ values

    @staticmethod
    def by_token(output: Callable[[int, int, int], Tensor], n: int = T) -> Tensor:
        """[1, Hq, n, D] from output(query head, its key/value head, token)."""
        rows = [torch.stack([output(h, h * HKV // HQ, t) for t in range(n)]) for h in range(HQ)]
        return torch.stack(rows)[None]


@pytest.fixture(scope="session")
def reference() -> Reference:
    return Reference()


@pytest.fixture
def qkv(reference: Reference) -> tuple[Tensor, Tensor, Tensor]:
    """q and k before RoPE, and v; one sequence."""
    return reference.qkv()


@pytest.fixture(params=CHUNKS, ids=["one-shot", "chunks", "one-by-one"])
def chunks(request: pytest.FixtureRequest) -> list[int]:
    """The prompt in one call and then token by token; in pieces; token by token from the start."""
    return request.param
