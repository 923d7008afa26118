"""Every kernel compiles for a GPU that is not here: with bfloat16, at Llama-3.1-8B's shape. Needs Triton, and not its
interpreter: `make test-kernels`."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from kvfrontier.methods.kernels import (
    paged_decode,
    quantized_decode,
    ragged_decode,
    runtime,
    split_decode,
    window_sinks,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None or runtime.INTERPRETED,
        reason="needs triton, and not its interpreter: make test-kernels",
    ),
]
#: NVIDIA's H100 and H200, and its B200.
CAPABILITIES = (90, 100)


class Caught(BaseException):
    """What a launch was given."""

    def __init__(self, kernel: Any, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.kernel, self.given, self.options = kernel, given, options


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch raises what it was given; the oracles' checks of the device stand aside."""
    from triton.runtime.autotuner import Autotuner  # pyright: ignore[reportMissingImports]
    from triton.runtime.jit import JITFunction  # pyright: ignore[reportMissingImports]

    def caught(kernel: Any, *given: Any, grid: Any = None, warmup: Any = None, **options: Any) -> None:
        raise Caught(kernel, given, options)

    monkeypatch.setattr(Autotuner, "run", caught)
    monkeypatch.setattr(JITFunction, "run", caught)
    for module in (paged_decode, quantized_decode, ragged_decode, split_decode, window_sinks):
        monkeypatch.setattr(module, "require", lambda *_: None)


def compiled(caught: Caught, capability: int) -> None:
    """Compile each configuration for a device of this capability."""
    import triton  # pyright: ignore[reportMissingImports]
    from triton.backends.compiler import GPUTarget  # pyright: ignore[reportMissingImports]
    from triton.compiler import ASTSource  # pyright: ignore[reportMissingImports]

    kernel = caught.kernel
    configs = kernel.configs if hasattr(kernel, "configs") else [None]
    fn = kernel.fn if hasattr(kernel, "configs") else kernel
    for config in configs:
        options = {**caught.options, **(config.kwargs if config else {})}
        given = dict(zip(fn.arg_names, caught.given, strict=False)) | options
        constants = {name: given[name] for name, p in zip(fn.arg_names, fn.params, strict=True) if p.is_constexpr}
        signature = {name: "constexpr" if name in constants else _kind(given[name]) for name in fn.arg_names}
        # What a launch knows of its arguments: pointers and strides are multiples of sixteen.
        aligned = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(fn.arg_names)
            if name not in constants and not isinstance(given[name], float) and _aligned(given[name])
        }
        source = ASTSource(fn, signature, constants, aligned)
        chosen = {"num_warps": config.num_warps, "num_stages": config.num_stages} if config else None
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=chosen)
        assert made.asm["ptx"]


def _kind(x: Any) -> str:
    if isinstance(x, torch.Tensor):
        names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.uint8: "u8",
                 torch.int32: "i32", torch.int64: "i64"}  # fmt: skip
        return f"*{names[x.dtype]}"
    return "fp32" if isinstance(x, float) else "i64" if abs(x) >= 1 << 31 else "i32"


def _aligned(x: Any) -> bool:
    return isinstance(x, torch.Tensor) or (isinstance(x, int) and x % 16 == 0)


def bf16(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.bfloat16)


def side(bits: int, axis: Any) -> quantized_decode.Side:
    scale = torch.zeros((1, 8, 32, 128) if axis == "channel" else (1, 8, 1024, 4), dtype=torch.float16)
    codes = torch.zeros(1, 8, 1024, 128 * bits // 8, dtype=torch.uint8)
    return quantized_decode.Side(codes, scale, scale, bf16(1, 8, 128, 128), bits, axis, 32)


Q, KV = bf16(1, 32, 1, 128), bf16(1, 8, 1024, 128)
I32 = torch.ones(1, 8, dtype=torch.int32)
CALLS = {
    "split": lambda: split_decode.run(Q, KV, KV, scale=0.1),
    "split, pages": lambda: split_decode.run(Q, KV, KV, scale=0.1, chosen=torch.zeros(1, 8, 9).long(), page=16),
    "split, lengths": lambda: split_decode.run(Q, KV, KV, scale=0.1, lengths=I32[:, 0]),
    "kivi4": lambda: quantized_decode.run(Q, side(4, "channel"), side(4, "token"), scale=0.1),
    "kivi2": lambda: quantized_decode.run(Q, side(2, "channel"), side(2, "token"), scale=0.1),
    "int8": lambda: quantized_decode.run(Q, side(8, "token"), side(8, "token"), scale=0.1),
    "paged": lambda: paged_decode.run(Q, bf16(9, 8, 16, 128), bf16(9, 8, 16, 128), I32, I32[:, 0], scale=0.1),
    "ragged": lambda: ragged_decode.run(Q, bf16(1, 900, 128), bf16(1, 900, 128), I32, scale=0.1),
    "prefill": lambda: window_sinks.run(bf16(1, 32, 256, 128), KV, KV, scale=0.1),
    "window": lambda: window_sinks.run(bf16(1, 32, 256, 128), KV, KV, scale=0.1, window=512, sinks=4),
}


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("name", CALLS)
def test_a_kernel_compiles_for_a_gpu(name: str, capability: int, launches: None) -> None:
    with pytest.raises(Caught) as caught:
        CALLS[name]()
    compiled(caught.value, capability)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_merge_of_splits_compiles(capability: int, launches: None) -> None:
    with pytest.raises(Caught) as caught:
        runtime.combine(torch.zeros(1, 32, 12, 128), torch.zeros(1, 32, 12), torch.bfloat16)
    compiled(caught.value, capability)
