"""Kernels in Triton, each beside its eager oracle. A method asks for one by name (`kernel: triton`, `backend: triton`);
a kernel that was asked for and cannot run is an error.

    split_decode.py      one query against dense keys and values, or against single slots or pages of them (Quest)
    quantized_decode.py  one query against packed int8, int4, int2 with scales, and the residual in full (KIVI)
    paged_decode.py      one query against blocks that a table finds
    ragged_decode.py     one query against heads that hold different numbers of tokens (Ada-KV)
    window_sinks.py      many queries under a causal mask, a window, sinks
    linear.py            chunked linear attention, decays and the delta rule, by the package fla
    runtime.py           what all of them need of Triton

The cache of a decoded query is cut into splits, so that few heads still fill a GPU; each split gives an output and a
log-sum-exp, which one small kernel merges (runtime.combine).
"""

from __future__ import annotations

import importlib.util

import torch

#: What a kernel is for; the module of its name holds `run`, and `eager`, its oracle.
KERNELS = {
    "split_decode": "one query against dense keys and values, or against chosen slots or pages: backend=triton",
    "quantized_decode": "one query against packed int8, int4, int2: store kivi or quantized, kernel=triton",
    "paged_decode": "one query against blocks found by a table: store paged, kernel=triton",
    "ragged_decode": "one query against heads of different lengths: store ragged under backend=triton",
    "window_sinks": "many queries under a causal mask, a window, sinks: backend=triton",
    "linear": "chunked linear attention, decays, the delta rule, by fla: kernel=fla",
}


class NoKernel(ImportError, ValueError):
    """A kernel that does not exist, or whose package is not installed."""


def check(name: str) -> None:
    """Raise NoKernel where `name` is none, or where what it is written in is not installed."""
    if name not in KERNELS:
        raise NoKernel(f"unknown kernel {name!r}; choose one of {', '.join(KERNELS)}")
    needed, extra = ("fla", "fla") if name == "linear" else ("triton", "triton")
    if importlib.util.find_spec(needed) is None:
        raise NoKernel(f"kernel {name!r} needs a package that is not installed: pip install 'kvfrontier[{extra}]'")


def why_not(name: str, device: torch.device | str) -> str:
    """Why a kernel does not run on this device, in words; empty where it does."""
    try:
        check(name)
    except NoKernel as missing:
        return str(missing)
    from kvfrontier.methods.kernels.runtime import INTERPRETED

    if torch.device(device).type == "cuda" or (INTERPRETED and name != "linear"):
        return ""
    return f"Triton's kernels are for CUDA, and this is {torch.device(device).type} (to try one: TRITON_INTERPRET=1)"
