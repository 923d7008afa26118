"""Devices to plan for: memory, bandwidth and peak, and pages that confirm them. One YAML of configs/hardware each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import yaml

from kvfrontier.runners.errors import unknown

_FOLDER = files("kvfrontier.configs").joinpath("hardware")


@dataclass(frozen=True)
class Hardware:
    """A device's sheet. GB and GB/s are decimal there, so that what a driver holds back is left over.

    sources    pages that were opened: title, address, and the figures that each confirms
    unchecked  figures that none of them confirms, and where they are from
    is_host    its memory is the host's too: what a method keeps on the host lies there
    """

    name: str
    memory_gb: float
    bandwidth_gb_s: float
    bf16_tflop_s: float
    sources: Sequence[Mapping[str, Any]]
    unchecked: Mapping[str, str] = field(default_factory=dict)
    is_host: bool = False
    summary: str = ""

    @property
    def memory(self) -> int:
        """Bytes."""
        return int(self.memory_gb * 10**9)

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bandwidth_gb_s * 10**9

    @property
    def flops(self) -> float:
        """Operations a second in bf16; a product and its sum are two."""
        return self.bf16_tflop_s * 10**12


def names() -> list[str]:
    """The devices that can be planned for."""
    return sorted(file.name.removesuffix(".yaml") for file in _FOLDER.iterdir() if file.name.endswith(".yaml"))


def hardware(name: str) -> Hardware:
    """One device. Raises UsageError, with the nearest name, where there is none of this name."""
    if name not in names():
        raise unknown("device to plan for", name, names())
    text = _FOLDER.joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    return Hardware(**yaml.safe_load(text), summary=text.split("\n")[0].removeprefix("#").strip())
