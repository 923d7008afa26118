"""The four axes of `cached` in pairs: every two choices work together, or are refused with the reason."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Cached, Layer, Step, registry
from kvfrontier.methods.state import measure
from kvfrontier.runners.conformance import drawn, layer_for

#: Small enough that each choice bites within 64 tokens: by the name of a field, and by that of a choice.
SMALL: dict[str, Any] = {
    "window": 12, "budget": 20, "segment": 16, "recent": 8, "sinks": 2, "kernel": 3, "block": 8, "blocks": 2,
    "representatives": 2, "page": 4, "pages": 3, "skip_layers": 0, "future": 16, "queries": 8, "residual": 32,
    "group": 16, "rank": 8, "rate": 2, "compressed": 6, "over": 10, "decay": 0.9, "ceiling": 20, "step": 8,
}  # fmt: skip
SMALL_FOR: dict[str, dict[str, Any]] = {"self_extend": {"group": 4}}

PROMPT, NEW = 52, 12
ONE_BY_ONE = [PROMPT, *[1] * NEW]
PIECES = [13, 1, PROMPT - 14, 7, NEW - 7]


@functools.cache
def small(axis: str, name: str) -> Any:
    """A choice of an axis at small sizes, or at its defaults where it does not take these."""
    factory = registry.components(axis)[name]
    sizes = {**SMALL, **SMALL_FOR.get(name, {})}
    try:
        return factory(**{field: sizes[field] for field in registry.defaults(factory) if field in sizes})
    except ValueError:
        return factory()


@pytest.fixture(scope="module")
def layer(reference) -> Layer:
    """One attention layer of a tiny model, with a rotation."""
    rope = type(reference.rope)()
    rope.frequencies = 100.0 ** -(torch.arange(16) / 16)
    return replace(layer_for(Cached()), rope=rope)


def pairs() -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """Every two choices of different axes."""
    for a, b in itertools.combinations(registry.AXES, 2):
        for x, y in itertools.product(registry.components(a), registry.components(b)):
            yield (a, x), (b, y)


def companies(*chosen: tuple[str, str]) -> Iterator[dict[str, str]]:
    """The chosen, with the usual choices of the other axes; then with all others."""
    fixed = dict(chosen)
    usual = registry.get(registry.COMPOSED).parameters
    others = [axis for axis in registry.AXES if axis not in fixed]
    yield {**fixed, **{axis: usual[axis] for axis in others}}
    for names in itertools.product(*(registry.components(axis) for axis in others)):
        yield {**fixed, **dict(zip(others, names, strict=True))}


def compose(names: dict[str, str], layer: Layer) -> Cached | str:
    """The method, or the reason why there is none."""
    try:
        method = Cached(**{axis: small(axis, name) for axis, name in names.items()})
        method.validate(layer)
    except ValueError as error:
        return str(error)
    return method


def run(method: Cached, at: Layer, chunks: list[int]) -> Tensor:
    """Outputs over a text whose prompt is sealed. After every call the state is as large as its closed form says."""
    q, k, v = drawn(at, PROMPT + NEW, torch.Generator().manual_seed(2))
    assert at.rope is not None
    state, out, a, prompt = method.init_state(at, 1), [], 0, 0

    def expect_bytes() -> None:
        live, analytic = measure(state), method.footprint(at, 1, prompt, a - prompt, state.sealed).held
        assert live == analytic, f"after {a} tokens the state holds {live}, its footprint says {analytic}"

    for n in chunks:
        piece, pos = slice(a, a + n), torch.arange(a, a + n)[None]
        pre = q[:, :, piece], k[:, :, piece]
        step = Step(pos, a, "prefill" if a < PROMPT else "decode", unrotated=lambda pre=pre: pre)
        q_at, k_at = (at.rope.apply(x, pos) for x in pre)
        out.append(method.attend(q_at, k_at, v[:, :, piece], state, at, step))
        a, prompt = a + n, min(PROMPT, a + n)
        expect_bytes()
        if a == PROMPT:
            method.seal(state, at)
            expect_bytes()
    return torch.cat(out, 2)


@pytest.mark.parametrize("pair", list(pairs()), ids=lambda pair: "+".join(name for _, name in pair))
def test_every_pair_of_choices_works_or_is_refused_with_the_reason(layer: Layer, pair: Any) -> None:
    reasons = []
    for names in companies(*pair):
        method = compose(names, layer)
        if isinstance(method, str):
            reasons.append(method)
            continue
        with torch.random.fork_rng():
            torch.manual_seed(0)
            at = replace(layer, params=method.module(layer))
        with torch.no_grad():
            one_by_one, pieces = (run(method, at, chunks) for chunks in (ONE_BY_ONE, PIECES))
        assert one_by_one.isfinite().all(), names
        if method.chunk_invariant:
            torch.testing.assert_close(pieces, one_by_one, atol=1e-4, rtol=1e-4)
        return
    # In no company do the two go together: one of them says why.
    names = [registry.called(small(*choice)) for choice in pair]
    assert any(name in reason for name in names for reason in reasons), reasons[0]


def test_every_composition_is_taken_or_refused_in_words(layer: Layer) -> None:
    """All four axes at once; only made, not run."""
    refused = 0
    for names in itertools.product(*(registry.components(axis) for axis in registry.AXES)):
        reason = compose(dict(zip(registry.AXES, names, strict=True)), layer)
        if isinstance(reason, str):
            refused += 1
            assert len(reason.split()) > 5, reason
    assert refused
