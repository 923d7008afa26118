"""What items share: the device, its clock and its bandwidth, tensors of one layer, models of several."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kvfrontier.runners import meter
from kvfrontier.runners.gpu_suite.scale import Scale
from kvfrontier.runners.models import resolve_dtype

#: More than any cache of the device holds; written between two timed calls, as a model's weights are read between them.
FLUSHED = 256 << 20


class Bench:
    """The device of one worker, at one scale."""

    def __init__(self, scale: Scale, folder: Path, gguf: tuple[Path, ...] = ()) -> None:
        self.scale, self.folder, self.gguf = scale, folder, gguf
        self.device, self.dtype = torch.device(scale.device), resolve_dtype(scale.dtype)
        self._models: dict[int, Any] = {}

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def facts(self) -> dict[str, Any]:
        """Of the device and of what is installed."""
        names = ("triton", "flash-attn", "fa3-fwd", "flash-attn-4", "xformers", "fla-core")
        found: dict[str, Any] = {"packages": {name: _version(name) for name in names}}
        found["copy_bandwidth"] = self.bandwidth
        if self.on_cuda:
            about = torch.cuda.get_device_properties(self.device)
            found |= {"memory": about.total_memory, "multiprocessors": about.multi_processor_count}
        return found

    @functools.cached_property
    def bandwidth(self) -> float:
        """Bytes a second, a copy counted twice."""
        if self.scale.dry:
            x = torch.ones(1 << 20)
            return 2 * x.nbytes / max(1e-9, self.seconds(x.clone, 1)["median"])
        return meter.bandwidth(self.device).best

    # ------------------------------------------------------------------------------------------ time

    def seconds(self, act: Callable[[], object], repetitions: int | None = None) -> dict[str, float]:
        """Median and quartiles of the seconds of a call, each after other memory was touched; two calls go before."""
        act()
        act()
        flush = torch.empty(FLUSHED if self.on_cuda else 1, dtype=torch.int8, device=self.device)
        times = []
        for _ in range(repetitions or self.scale.repetitions):
            flush.zero_()
            if self.on_cuda:
                begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                begin.record()
                act()
                end.record()
                end.synchronize()
                times.append(begin.elapsed_time(end) / 1e3)
            else:
                begun = time.perf_counter()
                act()
                times.append(time.perf_counter() - begun)
        found = meter.quartiles(times)
        return {"median": found.median, "q1": found.q1, "q3": found.q3, "n": len(times)}

    def graphed(self, act: Callable[[], object]) -> Callable[[], object]:
        """The same call as a CUDA graph, whose launches cost next to nothing: for a step whose shapes are static. On a
        CPU, the call itself."""
        if not self.on_cuda:
            return act
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # kernels are tuned and compiled before they are captured
                act()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            act()
        return graph.replay

    def now(self) -> float:
        """Seconds, after the device has done what it was given."""
        meter.synchronize(self.device)
        return time.perf_counter()

    def most_allocated(self) -> int | None:
        """Bytes at the peak since `forget_peak`, or None on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.on_cuda else None

    def forget_peak(self) -> None:
        if self.on_cuda:
            torch.cuda.reset_peak_memory_stats(self.device)

    def tidy(self) -> None:
        """Give back what the last item left."""
        if self.on_cuda:
            torch.cuda.empty_cache()

    # ------------------------------------------------------------------------------------------ tensors

    def drawn(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Normal numbers, the same for the same shape."""
        generator = torch.Generator(self.device).manual_seed(sum(shape))
        return torch.randn(shape, generator=generator, device=self.device, dtype=dtype or self.dtype)

    def layer(self, queries: int, context: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v of one layer of the scale's shape."""
        s = self.scale
        q = self.drawn(batch, s.hq, queries, s.d)
        return q, self.drawn(batch, s.hkv, context, s.d), self.drawn(batch, s.hkv, context, s.d)

    def kv_bytes(self, context: int, batch: int = 1) -> int:
        """Of one layer's keys and values."""
        return 2 * batch * self.scale.hkv * context * self.scale.d * self.dtype.itemsize

    def model(self, layers: int) -> Any:
        """Random weights of the scale's shape, made on the device; the one of another number of layers goes."""
        if layers not in self._models:
            from transformers import LlamaConfig, LlamaForCausalLM

            self._models.clear()
            self.tidy()
            s = self.scale
            config = LlamaConfig(
                vocab_size=s.vocabulary, hidden_size=s.hidden, intermediate_size=s.intermediate,
                num_hidden_layers=layers, num_attention_heads=s.hq, num_key_value_heads=s.hkv, head_dim=s.d,
                max_position_embeddings=1 << 24, tie_word_embeddings=False,
            )  # fmt: skip
            before = torch.get_default_dtype()
            torch.manual_seed(0)
            try:
                torch.set_default_dtype(self.dtype)
                with self.device:
                    model = LlamaForCausalLM(config)
            finally:
                torch.set_default_dtype(before)
            self._models[layers] = model.eval().requires_grad_(False)
        return self._models[layers]

    def ids(self, n: int) -> Tensor:
        generator = torch.Generator().manual_seed(n)
        return torch.randint(self.scale.vocabulary, (1, n), generator=generator).to(self.device)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
