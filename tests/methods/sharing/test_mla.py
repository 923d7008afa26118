"""Latents against the models' own attention, which expands them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kvfrontier.methods import Cached, Dense, Kivi, Layer, Layers, Method, PerLayer, Sinks, SnapKV, Step, Window
from kvfrontier.methods.sharing import latents
from kvfrontier.methods.sharing.mla import MLA, ExpandedLatents, Mla
from kvfrontier.runners.bridge import UnsupportedModel
from kvfrontier.runners.session import Session

KINDS = ["deepseek_v2", "deepseek_v3", "minicpm3"]


@pytest.mark.parametrize("chunk", [None, 17])
@pytest.mark.parametrize("method", [Dense(), MLA(), MLA("expanded"), MLA(backend="eager")], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_equal_the_models_own(text: Any, deepseek: Any, kind: str, method: Method, chunk: int | None) -> None:
    model, ids = deepseek(kind), text.tokens()
    assert text.error(model, method, ids, text.own(model, ids), chunk) < 1e-5


def test_dense_holds_the_latents_and_nothing_else(text: Any, deepseek: Any) -> None:
    with Session(deepseek("deepseek_v3"), Dense()) as session:
        session.prefill(text.tokens(2, 40))
        assert session.state_bytes().payload == 4 * 2 * 40 * (32 + 16) * 4
        assert [type(method) for method in session.methods] == [Mla] * 4
        layer = session.layers[0]
    assert (layer.hq, layer.hkv, layer.d, layer.dv, layer.latent) == (4, 4, 48, 24, (32, 16))


def test_deepseek_v3_holds_70272_bytes_a_token() -> None:
    """61 layers of 512 + 64 elements (DeepSeek-V3, arXiv:2412.19437); a planned layer has no module."""
    layer = Layer(0, 61, 128, 128, 192, 128, 1.0, latent=(512, 64), dtype=torch.bfloat16)
    assert 61 * Dense().at(layer).footprint(layer, 1, 1).held.payload == 70272
    assert 61 * Dense().at(layer).footprint(layer, 1, 1000).read == 70272 * 1000
    assert 61 * MLA().nominal(layer, 1, 1000) == 70272 * 1000


class Projection(torch.nn.Module):
    """Stands for an attention module of 4 heads: 10 + 8 elements of key, 12 of value, from latents of 20."""

    def __init__(self) -> None:
        super().__init__()
        self.kv_b_proj = torch.nn.Linear(20, 4 * (10 + 12), bias=False)


@pytest.fixture
def layer() -> Layer:
    torch.manual_seed(3)
    return Layer(0, 1, 4, 4, 18, 12, 0.3, latent=(20, 8), module=Projection().requires_grad_(False))


def run(method: Any, layer: Layer, given: tuple[Tensor, ...], chunks: list[int]) -> Tensor:
    q, c, r = given
    state, out, a = method.init_state(layer, 1), [], 0
    for n in chunks:
        b = a + n
        method.latent(c[:, :, a:b], r[:, :, a:b], state, layer)
        k, v = ExpandedLatents().expand(torch.cat([c, r], -1)[:, :, a:b], a, layer)
        out.append(method.attend(q[:, :, a:b], k, v, state, layer, Step(torch.arange(a, b)[None], a)))
        a = b
    return torch.cat(out, 2)


@pytest.fixture
def given() -> tuple[Tensor, ...]:
    """Queries, latents and shared keys of 90 tokens."""
    g = torch.Generator().manual_seed(5)
    return tuple(torch.randn(1, h, 90, d, generator=g) for h, d in ((4, 18), (1, 20), (1, 8)))


def by_the_paper(layer: Layer, given: tuple[Tensor, ...], seen: Callable[[int], list[int]]) -> Tensor:
    """Equations 10 to 16, one head and token at a time, over the tokens that `seen` gives."""
    q, c, r = given
    out = torch.zeros(1, 4, 90, 12)
    weight = layer.module.kv_b_proj.weight.view(4, 22, 20)
    for h in range(4):
        keys = [torch.cat([weight[h, :10] @ c[0, 0, s], r[0, 0, s]]) for s in range(90)]
        values = [weight[h, 10:] @ c[0, 0, s] for s in range(90)]
        for t in range(90):
            logits = torch.stack([q[0, h, t] @ keys[s] for s in seen(t)]) * layer.scale
            out[0, h, t] = logits.softmax(0) @ torch.stack([values[s] for s in seen(t)])
    return out


CHUNKS = [[90], [13, 50, 7, 20], [1] * 90]


@pytest.mark.parametrize("chunks", CHUNKS, ids=["one-shot", "chunks", "one-by-one"])
@pytest.mark.parametrize("form", ["absorbed", "expanded"])
def test_both_forms_are_the_papers(
    layer: Layer, given: tuple[Tensor, ...], form: Any, chunks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "TILE", 16)
    expected = by_the_paper(layer, given, lambda t: list(range(t + 1)))
    torch.testing.assert_close(run(MLA(form), layer, given, chunks), expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("chunks", CHUNKS, ids=["one-shot", "chunks", "one-by-one"])
def test_a_selection_drops_latents(layer: Layer, given: tuple[Tensor, ...], chunks: list[int]) -> None:
    """A window with sinks in the space of the latents is the window of every head."""
    method = Sinks(16, 4, positions="original").at(layer)
    expected = by_the_paper(layer, given, lambda t: [s for s in range(t + 1) if s < 4 or s > t - 16])
    torch.testing.assert_close(run(method, layer, given, chunks), expected, atol=3e-6, rtol=1e-5)
    assert method.footprint(layer, 1, 90).held.live == 20 * (20 + 8) * 4


@pytest.mark.parametrize("method", [Window(200), SnapKV(200, 8), Sinks(200, 4), Sinks(200, 4, "original")], ids=repr)
def test_a_selection_that_keeps_all_equals_the_models_own(text: Any, deepseek: Any, method: Cached) -> None:
    """Sinks at positions in the cache among them: the shared keys are rotated at the end of the latents."""
    model, ids = deepseek("deepseek_v3"), text.tokens()
    assert text.error(model, method, ids, text.own(model, ids)) < 1e-5


@pytest.mark.parametrize("method", [Dense(), MLA("expanded"), SnapKV(30, 8)], ids=repr)
def test_left_padded_rows_equal_each_row_alone(text: Any, deepseek: Any, method: Method) -> None:
    ids, pads = text.tokens(), (0, 23)
    mask = torch.ones(2, text.PROMPT, dtype=torch.long)
    mask[1, : pads[1]] = 0
    with Session(deepseek("deepseek_v3"), method) as session:
        alone = []
        for b, pad in enumerate(pads):
            session.reset()
            alone.append([session.prefill(ids[b : b + 1, pad : text.PROMPT])])
            alone[b] += [session.decode(ids[b : b + 1, i : i + 1]) for i in range(text.PROMPT, text.TOTAL)]
        session.reset()
        both = [session.prefill(ids[:, : text.PROMPT], chunk=10, attention_mask=mask)]
        assert session.state_bytes() == session.footprint().held
        both += [session.decode(ids[:, i : i + 1]) for i in range(text.PROMPT, text.TOTAL)]
        assert session.state_bytes() == session.footprint().held
    for got, first, second in zip(both, *alone, strict=True):
        assert (got - torch.cat([first, second])).abs().max() < 1e-4


def test_the_absorbed_form_expands_nothing(layer: Layer, given: tuple[Tensor, ...]) -> None:
    """What a decoded token makes is no larger than the latents."""
    q, c, r = given
    method, sizes = MLA(), []
    state = method.init_state(layer, 1)
    step = Step(torch.arange(90)[None], 0)
    method.latent(c, r, state, layer)
    method.attend(q, q, q, state, layer, step)

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, Tensor))
            return out

    with Watch():
        method.latent(c[:, :, :1], r[:, :, :1], state, layer)
        method.attend(q[:, :, :1], q[:, :, :1], q[:, :, :1], state, layer, replace(step, pos=step.pos[:, :1], start=90))
    expanded = 91 * 4 * (10 + 12)
    assert max(sizes) < expanded


def test_a_layer_may_have_another_method(text: Any, deepseek: Any) -> None:
    model, ids = deepseek("deepseek_v3"), text.tokens()
    method = PerLayer(Window(200), ((Layers("1-2"), Dense()), (Layers("3"), MLA("expanded"))))
    assert text.error(model, method, ids, text.own(model, ids)) < 1e-5


def test_what_cannot_be_served_is_refused(deepseek: Any, llama: Any) -> None:
    with pytest.raises(ValueError, match=r"layer 0 caches keys and values .* method=dense"), Session(llama, MLA()):
        pass
    with pytest.raises(UnsupportedModel, match="caches latents"), Session(deepseek("deepseek_v3"), Kivi(group=8)):
        pass
