"""Keys and values as packed integers of 8, 4, 3 or 2 bits, in groups with a scale and a zero each (uniform.py).

KIVI (Liu et al. 2024, arXiv:2402.02750): outliers of keys sit in fixed channels, so keys are quantized per channel,
over groups of `group` tokens; values per token, over groups of `group` channels. The newest tokens stay in full
(packed.py). The paper's whole table of axes can be asked for, and a cache that keeps the first tokens in full too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kvfrontier.methods import kernels
from kvfrontier.methods.attend import Part
from kvfrontier.methods.axes import KeysAt, Span, as_stored
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.kernels import quantized_decode
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.registry import component, register
from kvfrontier.methods.stores.packed import PackedStore
from kvfrontier.methods.stores.packing import Codec, check_bits
from kvfrontier.methods.stores.uniform import Axis, Kernel, Uniform

BITS = (2, 3, 4, 8)


@component("store", "quantized")
@dataclass(frozen=True)
class QuantizedStore(PackedStore):
    """Uniform quantization in groups along tokens or channels, at KIVI's settings where none are given.

    bits          of keys, and of values unless `value_bits` says otherwise
    group         tokens (axis "channel") or channels (axis "token") that share a scale
    key_axis, value_axis   "channel": a group lies along the tokens of one channel; "token": along the channels of one
                  token, which can then leave alone
    symmetric     the range is centred on zero: half of the metadata, less of the range
    kernel        of a decoded query. "compile": products with codes by torch.compile, seconds at the first use;
                  "triton": all of attention in one kernel, on CUDA (kernels/quantized_decode.py)
    """

    bits: int = 2
    group: int = 32
    key_axis: Axis = "channel"
    value_axis: Axis = "token"
    value_bits: int | None = None
    symmetric: bool = False
    kernel: Kernel = "eager"

    def __post_init__(self) -> None:
        for bits in (self.bits, self.value_bits or self.bits):
            check_bits(bits, BITS)
        if self.group < 1:
            raise ValueError(f"group size {self.group} must be at least 1")
        if self.kernel == "triton":
            kernels.check("quantized_decode")
            if self.sinks:
                raise ValueError("kernel 'triton' reads no sinks in full; set method.sinks=0 or method.kernel=eager")
        super().__post_init__()

    @property
    def codecs(self) -> tuple[Uniform, Uniform]:
        # Whatever is no decoded query is decoded in torch.
        kernel: Kernel = "eager" if self.kernel == "triton" else self.kernel
        return (
            Uniform(self.bits, self.key_axis, self.group, self.symmetric, kernel),
            Uniform(self.value_bits or self.bits, self.value_axis, self.group, self.symmetric, kernel),
        )

    def _one(self, state: Any, q: Tensor, span: Span, keys_at: KeysAt, layer: Layer, lse: bool) -> Part:
        if self.kernel != "triton":
            return super()._one(state, q, span, keys_at, layer, lse)
        if keys_at is not as_stored:
            raise ValueError(
                "kernel 'triton' reads keys as they are stored, and these positions move them; choose "
                "method/positions=original or method.kernel=eager"
            )
        begin = span.begin if span.window is None else max(span.begin, span.end - span.window)
        keys, values = (
            _side(codec, packed.rows(0, packed.n), last.view(), begin, span.end)
            for codec, _, packed, last in self._parts(state)
        )
        turned = self._turned(q)
        o, total = quantized_decode.run(turned, keys, values, scale=layer.scale, softcap=layer.softcap)
        return self._turned(o, back=True), total


def _side(codec: Codec, columns: Sequence[Tensor], full: Tensor, begin: int, end: int) -> quantized_decode.Side:
    """Tokens begin to end of what is packed and of what follows in full, as the kernel takes them."""
    assert isinstance(codec, Uniform)
    n = columns[0].shape[2]
    a, b = min(begin, n), min(end, n)
    if codec.axis == "channel" and (a % codec.group or b % codec.group):
        raise ValueError("kernel 'triton' cannot begin within a group of tokens; choose method.kernel=eager")
    every = codec.group if codec.axis == "channel" else 1
    codes, *scales = (x[:, :, a // e : b // e] for x, e in zip(columns, (1, every, every), strict=False))
    return quantized_decode.Side(
        codes, scales[0], None if codec.symmetric else scales[1], full[:, :, max(0, begin - n) : max(0, end - n)],
        codec.bits, codec.axis, codec.group,
    )  # fmt: skip


@component("store", "kivi")
def kivi_store(bits: int = 2, group: int = 32, residual: int = 128, kernel: Kernel = "eager") -> QuantizedStore:
    """KIVI's choice: keys per channel, values per token."""
    check_bits(bits, (2, 4, 8))
    return QuantizedStore(residual, bits=bits, group=group, kernel=kernel)


@register(
    "kivi",
    family="store",
    paper="Liu et al. 2024, arXiv:2402.02750, algorithm 1",
    label=lambda p: f"kivi{p['bits']}",
    cost="per head: K (T-r)(b/8 d + 4d/G) + r d e, r = T mod R; V (T-s)(b/8 d + 4d/G) + s d e, s = min(T, R); "
    "b bits, e bytes an element; until seal 2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def Kivi(bits: int = 2, group: int = 32, residual: int = 128, kernel: Kernel = "eager") -> Cached:
    """Quantized cache: keys per channel, values per token, the newest tokens in full (KIVI).

    bits 8, 4 or 2; `group` tokens or channels share a scale; `residual` tokens stay in full.
    kernel, of a decoded query: eager, compile (torch.compile), triton (CUDA).
    """
    return Cached(store=kivi_store(bits, group, residual, kernel))


def _label(p: Mapping[str, Any]) -> str:
    """int8, kivi2, and what differs from these."""
    axes = (p["key_axis"], p["value_axis"])
    bits = f"{p['bits']}v{p['value_bits']}" if p["value_bits"] else str(p["bits"])
    named = {("token", "token"): f"int{bits}", ("channel", "token"): f"kivi{bits}"}
    name = named.get(axes, f"int{bits} K by {axes[0]} V by {axes[1]}")
    return name + (" symmetric" if p["symmetric"] else "") + (f" and {p['sinks']} sinks" if p["sinks"] else "")


@register(
    "quantized",
    family="store",
    paper="Liu et al. 2024, arXiv:2402.02750, table 1 (its table of axes)",
    label=_label,
    cost="per head, K and V each: p(b/8 d + 4d/G) + (T-p) d e of p = T - T mod R tokens by channel, T - R by token, "
    "after the sinks; half of the metadata if symmetric; until seal 2 Hkv d T elements",
    tags=("growing", "internal", "lossy", "per layer"),
)
def Quantized(
    bits: int = 2,
    value_bits: int | None = None,
    group: int = 32,
    residual: int = 128,
    key_axis: Axis = "channel",
    value_axis: Axis = "token",
    symmetric: bool = False,
    sinks: int = 0,
    kernel: Kernel = "eager",
) -> Cached:
    """Quantized cache with every choice open: axes, bits of keys and of values, symmetry, first tokens in full."""
    store = QuantizedStore(residual, sinks, bits, group, key_axis, value_axis, value_bits, symmetric, kernel)
    return Cached(store=store)
