"""What all kernels need of Triton: its decorators, where it is installed; tuning; how a cache is split; the merge.

Under TRITON_INTERPRET=1 kernels run in Triton's interpreter, on the CPU: for tests. Tuning is by timing on the device,
once for each shape's kind, and kept on disk with the compiled kernels (TRITON_CACHE_DIR).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kvfrontier.methods.kernels import NoKernel

_there = importlib.util.find_spec("triton") is not None
triton: Any = importlib.import_module("triton") if _there else None
if TYPE_CHECKING:

    class _Language(type):
        def __getattr__(cls, name: str) -> Any: ...

    class tl(metaclass=_Language):
        """Triton's language, of which a type checker need know only what annotations name."""

        class constexpr(int): ...
else:
    tl = importlib.import_module("triton.language") if _there else None

#: Kernels run in the interpreter, on the CPU. Triton reads this too, when a kernel is defined.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
#: 1 / log(2): exponentials are taken to base two.
LOG2E = 1.4426950408889634
#: Rows of the smallest product of matrices.
ROWS = 16
#: Programs for each multiprocessor among which a cache is split.
WAVES = 4
#: What a split that saw nothing has for the log-sum-exp: as good as minus infinity, and differences of it are numbers.
NOTHING = -1.0e30


def jit(fn: Callable[..., Any]) -> Any:
    """`triton.jit`; where Triton is missing, something that says so when it is called."""
    return triton.jit(fn) if triton else _Missing(fn.__name__)


class _Missing:
    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, grid: Any) -> Any:
        raise NoKernel(f"kernel {self.name!r} needs a package that is not installed: pip install 'kvfrontier[triton]'")


def tuned(configs: Sequence[dict[str, int]], key: Sequence[str]) -> Callable[[Any], Any]:
    """Choose among `configs` by timing, once for each value of the arguments `key`. Keys `num_warps` and `num_stages`
    are Triton's, all others are arguments of the kernel. The interpreter takes the first."""

    def decorate(kernel: Any) -> Any:
        if triton is None:
            return kernel
        if INTERPRETED:
            return _First(kernel, {k: v for k, v in configs[0].items() if not k.startswith("num_")})
        made = [
            triton.Config(
                {k: v for k, v in config.items() if not k.startswith("num_")},
                num_warps=config["num_warps"],
                num_stages=config["num_stages"],
            )
            for config in configs
        ]
        on_disk = "cache_results" in inspect.signature(triton.autotune).parameters
        return triton.autotune(made, list(key), **({"cache_results": True} if on_disk else {}))(kernel)

    return decorate


class _First:
    """A kernel with its arguments of the first configuration."""

    def __init__(self, kernel: Any, fixed: dict[str, int]) -> None:
        self.fn, self._fixed = kernel, fixed

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        launch = self.fn[(lambda given: grid({**given, **self._fixed})) if callable(grid) else grid]
        return functools.partial(launch, **self._fixed)


def require(what: str, *tensors: Tensor) -> None:
    """Raise ValueError where the kernel `what` cannot take these tensors."""
    for x in tensors:
        if not x.is_cuda and not INTERPRETED:
            raise ValueError(
                f"kernel {what!r} runs on CUDA, and got tensors on {x.device.type}; ask for kernel=eager, or for "
                "backend=auto"
            )
        if torch.is_grad_enabled() and x.requires_grad:
            raise ValueError(f"kernel {what!r} has no gradient; ask for kernel=eager, or for backend=auto")
        if x.stride(-1) != 1:
            raise ValueError(f"kernel {what!r} needs the last dimension contiguous")


def padded(n: int) -> int:
    """The next power of two, at least `ROWS`: sizes of tiles."""
    return max(ROWS, 1 << (n - 1).bit_length())


def splits(tokens: int, programs: int, device: torch.device, block: int = 64) -> int:
    """Into how many splits `tokens` are cut where `programs` would run anyway: enough to fill the device, of at least
    four blocks each."""
    if device.type != "cuda":
        return max(1, min(3, tokens // block))  # the interpreter: several, so that merging is tested
    wanted = WAVES * _multiprocessors(device) // max(1, programs)
    return max(1, min(wanted, tokens // (4 * block), 256))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def partials(q: Tensor, n: int, width: int) -> tuple[Tensor, Tensor]:
    """Where splits write: outputs [B, Hq, n, width] and log-sum-exps [B, Hq, n], float32; q [B, Hq, 1, D]."""
    shape = (q.shape[0], q.shape[1], n)
    return (
        torch.empty(*shape, width, dtype=torch.float32, device=q.device),
        torch.empty(shape, dtype=torch.float32, device=q.device),
    )


@jit
def _combine(o_at, lse_at, out_at, total_at, n, D: tl.constexpr, TILE: tl.constexpr, N: tl.constexpr):
    """Of one head of one sequence: outputs of n splits weighted by their log-sum-exps."""
    row = tl.program_id(0).to(tl.int64)
    split, column = tl.arange(0, N), tl.arange(0, TILE)
    lse = tl.load(lse_at + row * n + split, mask=split < n, other=-1.0e30)
    top = tl.max(lse, 0)
    weights = tl.where(split < n, tl.exp(lse - top), 0.0)
    mass = tl.sum(weights, 0)
    inside = (split[:, None] < n) & (column[None, :] < D)
    o = tl.load(o_at + (row * n + split[:, None]) * D + column[None, :], mask=inside, other=0.0)
    out = tl.sum(o * weights[:, None], 0) / mass
    tl.store(out_at + row * D + column, out.to(out_at.dtype.element_ty), mask=column < D)
    tl.store(total_at + row, top + tl.log(mass))


def combine(o: Tensor, lse: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Merge splits, o [B, H, n, D] and lse [B, H, n], into [B, H, 1, D] of `dtype` and [B, H, 1]."""
    B, H, n, D = o.shape
    out = torch.empty(B, H, 1, D, dtype=dtype, device=o.device)
    total = torch.empty(B, H, 1, dtype=torch.float32, device=o.device)
    _combine[(B * H,)](o, lse, out, total, n, D=D, TILE=padded(D), N=1 << (n - 1).bit_length())
    return out, total


@jit
def dot(a, b, EXACT: tl.constexpr):
    """a @ b with float32 sums. EXACT: in float32 throughout, for float32 tensors and the interpreter, whose product of
    bfloat16 is wrong."""
    if EXACT:
        out = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        out = tl.dot(a, b)
    return out


@jit
def attended(q, k, v, there, m, mass, acc, scale, CAP: tl.constexpr, EXACT: tl.constexpr):
    """One step of the online softmax: rows q [R, D] see keys k [N, D] and values v [N, V] where `there` [R, N] (or
    [1, N]) says so. m, mass [R] and acc [R, V] are the running maximum (base two), sum and output."""
    x = dot(q, tl.trans(k), EXACT) * scale
    if CAP > 0.0:
        x = CAP * (1.0 - 2.0 / (tl.exp(2.0 * x / CAP) + 1.0))  # tanh
    x = tl.where(there, x * 1.4426950408889634, -1.0e30)
    top = tl.maximum(m, tl.max(x, 1))
    p = tl.where(there, tl.exp2(x - top[:, None]), 0.0)
    shrink = tl.exp2(m - top)
    acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, EXACT)
    return top, mass * shrink + tl.sum(p, 1), acc


@jit
def written(o_at, lse_at, row, split, n, there, m, mass, acc, D: tl.constexpr, TILE: tl.constexpr):
    """Store a split's output and log-sum-exp; rows [R] are heads of the partials."""
    column = tl.arange(0, TILE)
    sum_ = tl.where(mass > 0.0, mass, 1.0)
    lse = tl.where(mass > 0.0, (m + tl.log2(sum_)) / 1.4426950408889634, -1.0e30)
    at = row.to(tl.int64) * n + split
    inside = there[:, None] & (column[None, :] < D)
    tl.store(o_at + at[:, None] * D + column[None, :], acc / sum_[:, None], mask=inside)
    tl.store(lse_at + at, lse, mask=there)


def exact(dtype: torch.dtype) -> bool:
    """Whether products are taken in float32 (`dot`)."""
    return INTERPRETED or dtype == torch.float32
