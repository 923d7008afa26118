"""Methods that run another one on a layer of another shape: what they declare is what that one does."""

from __future__ import annotations

from typing import Any

from kvfrontier.methods.contract import Method
from kvfrontier.methods.registry import called


def of_inner(name: str) -> Any:
    """A declared property that is the inner method's."""
    return property(lambda self: getattr(self.inner, name))


def refuse_drivers(inner: Method) -> None:
    """Raise ValueError where a method reads the text in an order of its own, or keeps more than a state a layer."""
    if inner.drives or inner.rereads:
        raise ValueError(f"{called(inner)} drives the whole model, and cannot run inside another method")
