"""Softmax attention over q, k, v, one function a backend, all with one signature.

    attend(q, k, v, *, scale, causal, window=None, softcap=None, lse=True) -> (o, lse)

q       [B, Hq, T, D]
k, v    [B, Hkv, S, D] and [B, Hkv, S, Dv], S >= 1; Hq is a multiple of Hkv and k, v are never repeated
causal  True: the queries stand at the end of the keys, query t sees keys 0 .. S - T + t. False: it sees all S
window  with causal, a query sees its last `window` keys, its own included
softcap logits become softcap * tanh(logits / softcap)
o       [B, Hq, T, Dv] in q's dtype
lse     [B, Hq, T] float32, log of the sum of exponentials, by which parts are merged (`merge`). A caller that
        needs none says lse=False; what then stands in its place is undefined.

`eager` is the oracle. A backend that was asked for by name and cannot serve raises; nothing falls back in silence.
`auto` is a stated rule, not a fallback: see `choose`.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kvfrontier.methods.layer import Layer

Part = tuple[Tensor, Tensor]
Attend = Callable[..., Part]

BACKENDS = (
    "eager", "sdpa", "sdpa_efficient", "sdpa_cudnn", "sdpa_math", "flex", "flash_attn", "flash_attn_3", "flash_attn_4",
    "xformers", "triton",
)  # fmt: skip


class NoBackend(ImportError, ValueError):
    """A backend that does not exist, or whose package is not installed: so whatever the method and the model are."""


def check(name: str) -> None:
    """Raise NoBackend where `name` is none, or where what it needs is not installed."""
    if name == "auto":
        return
    if name not in BACKENDS:
        raise NoBackend(f"unknown backend {name!r}; choose one of auto, {', '.join(BACKENDS)}")
    importlib.import_module(f"{__name__}.{name}").check()


def why_not(name: str, device: torch.device | str) -> str:
    """Why a backend does not run on this device, in words; empty where it does."""
    try:
        check(name)
    except NoBackend as missing:
        return str(missing)
    return "" if name == "auto" else importlib.import_module(f"{__name__}.{name}").why_not(torch.device(device))


def needs_cuda(device: torch.device, least: tuple[int, int] = (0, 0)) -> str:
    """Why kernels for CUDA of at least this compute capability do not run on the device; empty where they do."""
    if device.type != "cuda":
        return f"its kernels are for CUDA, and this is {device.type}"
    has = torch.cuda.get_device_capability(device)
    needs, there = (".".join(map(str, x)) for x in (least, has))
    return "" if has >= least else f"its kernels need compute capability {needs}, and this device has {there}"


def choose(name: str, layer: Layer, needs_grad: bool = False) -> Attend:
    """The function of a backend.

    `auto` takes sdpa where its kernels can serve the layer, and eager elsewhere: for soft-capped logits, values of
    another width than keys, while a gradient is needed (the kernels' log-sum-exp has none), and for float32 on CUDA.
    """
    if name == "auto":
        device = torch.device(layer.device).type
        kernel = device == "cpu" or (device == "cuda" and layer.dtype in (torch.float16, torch.bfloat16))
        name = "sdpa" if kernel and layer.softcap is None and layer.d == layer.dv and not needs_grad else "eager"
    return function(name)


@functools.cache
def function(name: str) -> Attend:
    """The `attend` of a backend, whatever the layer."""
    # Kept, since a decoded token asks once a layer.
    return importlib.import_module(f"{__name__}.{name}").attend


def special(attend: Attend, name: str) -> Attend | None:
    """What a backend brings beside `attend`: attend_slots(q, k, v, slots, ...) reads single slots [B, Hkv, m] of k and
    v, attend_ragged(q, k, v, lengths, ...) heads of unequal length, both for one query; or None."""
    return getattr(sys.modules.get(getattr(attend, "__module__", ""), None), name, None)


def needs_grad(*tensors: Tensor) -> bool:
    """Whether autograd records what is done to these tensors."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def merge(parts: Sequence[Part]) -> Part:
    """Attention over the union of disjoint sets of keys, from attention over each: sum of o exp(lse - total)."""
    if len(parts) == 1:
        return parts[0]
    lse = torch.stack([part[1] for part in parts])
    total = lse.logsumexp(0)
    weights = torch.exp(lse - total).unsqueeze(-1)
    o = sum(part[0] * weight for part, weight in zip(parts, weights, strict=True))
    return o.to(parts[0][0].dtype), total  # pyright: ignore[reportAttributeAccessIssue]


def add_sink_logits(part: Part, sinks: Tensor) -> Part:
    """One more term in each head's softmax, with logit `sinks` [Hq] and output zero (gpt-oss)."""
    o, lse = part
    total = torch.logaddexp(lse, sinks.float()[None, :, None])
    return (o * torch.exp(lse - total).unsqueeze(-1)).to(o.dtype), total


def refuse(backend: str, reason: str, instead: str = "auto or eager") -> ValueError:
    """The error of a backend that was asked for and cannot serve."""
    return ValueError(f"backend {backend!r} cannot serve this layer: {reason}; ask for {instead}")
