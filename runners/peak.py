"""The most memory that tensors held at once, to the byte.

torch keeps no statistics of CPU memory, and a process's resident size has little to do with its tensors. So every
operator inside the block is watched, and every storage that comes out of one is counted until it is freed:

    with track("cpu", external=model.parameters()) as memory:
        y = model(x)
    memory.peak

Weights and whatever else lived before the block count where they are named as `external`; other tensors from before
do not. Temporaries inside a kernel are no tensors: torch's profiler sees them, and they are reported apart, as
`workspace`. On CUDA the caching allocator has statistics of its own, which know such temporaries from tensors no more
than they know ours from others: what was allocated before the block is taken off, and its unused reserve is reported
apart, as `allocator_waste`.
"""

from __future__ import annotations

import os
import sys
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode


def track(device: torch.device | str, external: Iterable[Tensor] = (), *, workspace: bool = False) -> PeakMemory:
    """A context manager that measures the peak on `device`; `external` tensors count from the start.

    `workspace` asks for temporaries inside kernels too (CPU only), by the profiler.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return CudaPeak(device, external)
    return StoragePeak(device, external, workspace=workspace)


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the storages behind the tensors, each once (tied weights, views)."""
    storages = (t.untyped_storage() for t in tensors)
    return sum({s._cdata: s.nbytes() for s in storages}.values())


class PeakMemory(ABC):
    """Bytes on one device, while the block runs.

    current           held now
    peak              the most held at once since the block began, or since `reset_peak`
    workspace         after the block: by how much temporaries inside kernels raised its peak further, or None
    allocator_waste   after the block: reserved by a caching allocator beyond what it had handed out, or None
    """

    workspace: int | None = None
    allocator_waste: int | None = None

    @property
    @abstractmethod
    def current(self) -> int: ...

    @property
    @abstractmethod
    def peak(self) -> int: ...

    @abstractmethod
    def reset_peak(self) -> None:
        """Begin a new phase: the peak is what is held now."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exception: Any) -> None: ...


class StoragePeak(PeakMemory):
    """Counts storages on any device that has no statistics of its own: CPU, MPS, and fake tensors on either."""

    def __init__(self, device: torch.device, external: Iterable[Tensor] = (), *, workspace: bool = False) -> None:
        self._storages = _Storages(device.type)
        self._external = list(external)
        self._profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True) if workspace else None
        self._block = ExitStack()

    @property
    def current(self) -> int:
        return self._storages.current

    @property
    def peak(self) -> int:
        return self._storages.peak

    def reset_peak(self) -> None:
        self._storages.new_phase()

    def __enter__(self) -> Self:
        for tensor in self._external:
            self._storages.count(tensor)
        self._external = []
        self._start = self.current
        if self._profiler is not None:
            with _without_kineto_chatter():
                self._profiler.start()
        self._block.enter_context(self._storages)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._block.close()
        if self._profiler is not None:
            with _without_kineto_chatter():
                self._profiler.stop()
            tensors = max(self._storages.highest, self.peak) - self._start
            self.workspace = max(0, _peak_of_allocations(self._profiler) - tensors)
            self._profiler = None


class _Storages(TorchDispatchMode):
    """Sees every operator, and counts the storages of what comes out of it until they are freed."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type
        #: `highest` is the highest peak of the phases before.
        self.current = self.peak = self.highest = 0
        #: By address of the storage: its bytes, and a reference that reports its end.
        self._live: dict[int, tuple[int, weakref.ref]] = {}

    def count(self, tensor: Tensor) -> None:
        if tensor.device.type != self.device_type:
            return
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if known is None:
            self._live[key] = (size, weakref.ref(storage, lambda _: self._freed(key)))
            self.current += size
        elif known[0] != size:  # resized in place
            self._live[key] = (size, known[1])
            self.current += size - known[0]
        self.peak = max(self.peak, self.current)

    def new_phase(self) -> None:
        self.highest = max(self.highest, self.peak)
        self.peak = self.current

    def _freed(self, key: int) -> None:
        size, _ = self._live.pop(key)
        self.current -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.is_inference_mode_enabled():
            # Composite operators arrive whole there: in parts, their temporaries are seen too.
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        new = [tensor for tensor in _tensors(out) if not self._knows(tensor)]
        if new:
            # A view of a tensor from before the block is no new memory, except that torch.tensor() comes as such.
            fresh = func is torch.ops.aten.lift_fresh.default
            before = () if fresh else {_key(tensor) for tensor in _tensors((*args, *kwargs.values()))}
            for tensor in new:
                if _key(tensor) in self._live or _key(tensor) not in before:
                    self.count(tensor)
        return out

    def _knows(self, tensor: Tensor) -> bool:
        """Whether its storage is counted, at the size it has now."""
        storage = tensor.untyped_storage()
        known = self._live.get(storage._cdata)
        return known is not None and known[0] == storage.nbytes()


def _tensors(values: Any) -> Iterator[Tensor]:
    """The tensors among an operator's arguments or outputs."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list)):
        for value in values:
            yield from _tensors(value)


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _peak_of_allocations(profiler: profile) -> int:
    """The most that the CPU allocator had handed out since the profiler began."""
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = [e for e in results.events() if e.name() == "[memory]" and e.device_type().name == "CPU"]
    current = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        current += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue]
        peak = max(peak, current)
    return peak


@contextmanager
def _without_kineto_chatter() -> Iterator[None]:
    """The profiler's library writes lines of its own to stderr, whatever its log level. Others' lines pass."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as said:
        real = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            said.seek(0)
            for line in said:
                if not line.startswith((b"USDT:", b"STAGE:")):
                    os.write(2, line)


class CudaPeak(PeakMemory):
    """Statistics of CUDA's caching allocator. Its blocks are multiples of 512 bytes."""

    def __init__(self, device: torch.device, external: Iterable[Tensor] = ()) -> None:
        self._device = device
        self._external = storage_bytes(t for t in external if t.device.type == "cuda")

    @property
    def current(self) -> int:
        return torch.cuda.memory_allocated(self._device) - self._others

    @property
    def peak(self) -> int:
        return torch.cuda.max_memory_allocated(self._device) - self._others

    def reset_peak(self) -> None:
        self._note_waste()
        torch.cuda.reset_peak_memory_stats(self._device)

    def __enter__(self) -> Self:
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        # Allocated by others, and rounding.
        self._others = torch.cuda.memory_allocated(self._device) - self._external
        self.allocator_waste = 0
        return self

    def __exit__(self, *exception: Any) -> None:
        self._note_waste()

    def _note_waste(self) -> None:
        torch.cuda.synchronize(self._device)
        reserved = torch.cuda.max_memory_reserved(self._device)
        waste = reserved - torch.cuda.max_memory_allocated(self._device)
        self.allocator_waste = max(self.allocator_waste or 0, waste)
