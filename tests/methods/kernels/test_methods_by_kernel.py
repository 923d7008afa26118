"""Methods that ask for a kernel decode as they do without it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from kvfrontier.methods import Layer, Method, Step, kernels, registry

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
missing = kernels.why_not("split_decode", DEVICE)
LAYER = Layer(index=2, count=3, hq=4, hkv=2, d=32, dv=32, scale=0.2, device=DEVICE)
#: A method that asks for a kernel, and what differs without.
PAIRS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"name": "kivi", "bits": 4, "residual": 32, "kernel": "triton"}, {"kernel": "eager"}),
    ({"name": "kivi", "bits": 2, "residual": 64, "kernel": "triton"}, {"kernel": "eager"}),
    ({"name": "quantized", "bits": 8, "key_axis": "token", "residual": 16, "kernel": "triton"}, {"kernel": "eager"}),
    ({"name": "paged", "block": 16, "kernel": "triton"}, {"kernel": "eager"}),
    ({"name": "dense", "backend": "triton"}, {"backend": "eager"}),
    ({"name": "cached", "selection": {"name": "quest", "page": 8, "pages": 4}, "backend": "triton"},
     {"backend": "eager"}),
    ({"name": "cached", "selection": {"name": "adakv", "budget": 40, "window": 8}, "store": {"name": "ragged"},
      "backend": "triton"}, {"backend": "eager"}),
]  # fmt: skip


def decoded(method: Method, prompt: int = 150, new: int = 12) -> Tensor:
    """Outputs of a prompt in two chunks and of tokens decoded one by one."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, h, prompt + new, 32, generator=generator).to(DEVICE) for h in (4, 2, 2))
    state, out, a = method.init_state(LAYER, 1), [], 0
    for n in [100, prompt - 100] + [1] * new:
        if a == prompt:
            method.seal(state, LAYER)
        at = slice(a, a + n)
        step = Step(torch.arange(a, a + n, device=DEVICE)[None], a, "prefill" if a < prompt else "decode")
        out.append(method.attend(q[:, :, at], k[:, :, at], v[:, :, at], state, LAYER, step))
        a += n
    return torch.cat(out, 2)


@pytest.mark.skipif(bool(missing), reason=missing or "it runs")
@pytest.mark.parametrize(("asked", "instead"), PAIRS, ids=lambda p: p.get("name", ""))
def test_a_kernel_changes_nothing(asked: dict[str, Any], instead: dict[str, Any]) -> None:
    with torch.no_grad():
        found = decoded(registry.build(registry.complete(asked)))
        expected = decoded(registry.build(registry.complete({**asked, **instead})))
    torch.testing.assert_close(found, expected, atol=3e-5, rtol=3e-5)


@pytest.mark.parametrize(
    ("asked", "extra"),
    [({"name": "kivi", "kernel": "triton"}, "triton"), ({"name": "paged", "kernel": "triton"}, "triton"),
     ({"name": "dense", "backend": "triton"}, "triton"), ({"name": "gla", "kernel": "fla"}, "fla"),
     ({"name": "deltanet", "kernel": "fla"}, "fla")],
)  # fmt: skip
def test_a_kernel_whose_package_is_missing_is_named(
    asked: dict[str, Any], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=rf"needs a package that is not installed: pip install 'kvfrontier\[{extra}\]'"
    ):
        registry.build(registry.complete(asked))


@pytest.mark.skipif(bool(missing), reason=missing or "it runs")
def test_what_a_kernel_cannot_read_is_refused() -> None:
    with pytest.raises(ValueError, match="reads no sinks in full"):
        registry.build(registry.complete({"name": "quantized", "sinks": 4, "kernel": "triton"}))
