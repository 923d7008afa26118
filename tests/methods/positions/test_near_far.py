"""Self-Extend, LM-Infinite and ALiBi against their formulas, token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, registry
from kvfrontier.methods.positions.alibi import AlibiPositions, slopes
from kvfrontier.methods.positions.lm_infinite import CeilingPositions
from kvfrontier.methods.positions.self_extend import SelfExtendPositions
from kvfrontier.methods.selection.h2o import H2OSelection
from kvfrontier.methods.selection.window import WindowSelection


def attend(reference, q: Tensor, k: Tensor, v: Tensor, distances: list[int]) -> Tensor:
    """One query [D] over keys and values [n, D], before RoPE and each at its own distance."""
    turned = reference.rope.apply(q.expand(1, 1, len(k), -1), torch.tensor(distances)[None])[0, 0]
    return ((turned * k).sum(1) * reference.SCALE).softmax(0) @ v


@pytest.mark.parametrize(("group", "window"), [(4, 16), (3, 10), (1, 7), (5, 1), (4, 200)])
def test_self_extend(reference, qkv, group: int, window: int, chunks: list[int]) -> None:
    q, k, v = qkv

    def distance(t: int, s: int) -> int:
        return t - s if t - s < window else t // group + window - window // group - s // group

    def output(h: int, g: int, t: int) -> Tensor:
        distances = [distance(t, s) for s in range(t + 1)]
        return attend(reference, q[0, h, t], k[0, g, : t + 1], v[0, g, : t + 1], distances)

    method = registry.build({"name": "self_extend", "group": group, "window": window})
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sinks", [0, 1, 5])
@pytest.mark.parametrize(("window", "ceiling"), [(16, 16), (24, 9), (9, 24), (200, 16)])
def test_lm_infinite(reference, qkv, sinks: int, window: int, ceiling: int, chunks: list[int]) -> None:
    """The first tokens and a window; no distance beyond the ceiling. A ceiling of its own is the axis' choice; there,
    once tokens have left, the distance to a sink is the one in the cache."""
    q, k, v = qkv

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if s < sinks or s > t - window]
        places = [t - s if window == ceiling or s > t - window else len(seen) - 1 - s for s in seen]
        return attend(reference, q[0, h, t], k[0, g, seen], v[0, g, seen], [min(n, ceiling) for n in places])

    if window == ceiling:
        method = registry.build({"name": "lm_infinite", "window": window, "sinks": sinks})
    else:
        method = Cached(WindowSelection(window, sinks), positions=CeilingPositions(ceiling))
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=1e-5, rtol=1e-5)


def test_groups_compose_with_a_window_and_sinks(reference, qkv) -> None:
    """What is in the cache stands at its slots, and these are grouped."""
    q, k, v = qkv
    sinks, window, near, group = 4, 30, 8, 3

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if s < sinks or s > t - window]
        last = len(seen) - 1
        far = [last // group + near - near // group - slot // group for slot in range(len(seen))]
        distances = [last - slot if last - slot < near else far[slot] for slot in range(len(seen))]
        return attend(reference, q[0, h, t], k[0, g, seen], v[0, g, seen], distances)

    method = Cached(WindowSelection(window, sinks), positions=SelfExtendPositions(group, near))
    got = reference.run(method, q, k, v, [1] * reference.T)
    torch.testing.assert_close(got, reference.by_token(output), atol=1e-5, rtol=1e-5)


def test_alibi(reference, qkv, chunks: list[int]) -> None:
    q, k, v = qkv

    def output(h: int, g: int, t: int) -> Tensor:
        m = 2 ** (-8 * (h + 1) / reference.HQ)
        logits = k[0, g, : t + 1] @ q[0, h, t] * reference.SCALE - m * torch.arange(t, -1, -1)
        return logits.softmax(0) @ v[0, g, : t + 1]

    got = reference.run(registry.build({"name": "alibi"}), q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=1e-5, rtol=1e-5)


def test_alibi_counts_distances_in_the_cache(reference, qkv, chunks: list[int]) -> None:
    """Sinks stand at the window's edge, however far back in the text they are."""
    q, k, v = qkv

    def output(h: int, g: int, t: int) -> Tensor:
        seen = [s for s in range(t + 1) if s < 3 or s > t - 12]
        distances = torch.arange(len(seen) - 1, -1, -1)
        logits = k[0, g, seen] @ q[0, h, t] * reference.SCALE - 2 ** (-8 * (h + 1) / reference.HQ) * distances
        return logits.softmax(0) @ v[0, g, seen]

    method = Cached(WindowSelection(12, 3), positions=AlibiPositions())
    got = reference.run(method, q, k, v, chunks)
    torch.testing.assert_close(got, reference.by_token(output), atol=1e-5, rtol=1e-5)


def test_alibis_slopes_where_heads_are_no_power_of_two() -> None:
    assert slopes(8) == [2.0**-h for h in range(1, 9)]
    assert slopes(3) == [2.0**-4, 2.0**-8, 2.0**-2]
    assert slopes(12) == [*slopes(8), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


def test_alibi_is_exact_a_million_tokens_on_in_sixteen_bits(reference) -> None:
    positions = AlibiPositions().at(10**6, reference.layer)
    q = torch.zeros(1, reference.HQ, 1, reference.D, dtype=torch.bfloat16)
    k = torch.zeros(1, reference.HKV, 8, reference.D, dtype=torch.bfloat16)
    none, last = torch.zeros(0), torch.tensor([10**6 - 1])
    x = (
        positions.query(q, q, none, last, reference.layer)[0, 0, 0]
        @ positions.keys(k, 10**6 - 8, reference.layer)[0, 0].T
    )
    torch.testing.assert_close(x * reference.SCALE, 2.0**-2 * torch.arange(-7.0, 1))


def test_pairs_that_make_no_sense_are_refused(reference) -> None:
    with pytest.raises(ValueError, match="no one weight for all"):
        Cached(H2OSelection(budget=24, recent=8), positions=SelfExtendPositions())
    with pytest.raises(ValueError, match="caps its logits"):
        Cached(positions=AlibiPositions()).validate(replace(reference.layer, softcap=30.0))
    with pytest.raises(ValueError, match="differ in width"):
        reference.run(Cached(positions=AlibiPositions(), backend="sdpa"), *reference.qkv(), [reference.T])
    for params in (
        {"name": "yarn", "factor": 0.5}, {"name": "ntk", "step": 0}, {"name": "ntk", "trained": 0},
        {"name": "yarn", "beta_slow": 40.0}, {"name": "self_extend", "group": 0}, {"name": "self_extend", "window": 0},
        {"name": "lm_infinite", "window": 0}, {"name": "linear_interpolation", "factor": 0.0},
    ):  # fmt: skip
        with pytest.raises(ValueError):
            registry.build(params)
