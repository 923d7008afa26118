"""State in closed form: what a method holds over all layers, at any point of a text, without running anything."""

from __future__ import annotations

from collections.abc import Sequence

from kvfrontier.methods import Layer, Method, Window
from kvfrontier.methods.contract import Footprint


def footprint(
    method: Method, layers: Sequence[Layer], batch: int, prompt: int, new: int = 0, sealed: bool = True
) -> Footprint:
    """Bytes held and bytes that a decoded token reads, all layers and the sequence's state, after `prompt` tokens and
    `new` decoded ones. Layers that the model windows hold their window; a layer that reads another's state, nothing.

    What a hybrid model keeps in recurrent layers is no method's, and not in it.
    """
    total = method.sequence_footprint(batch, prompt, new, sealed)
    for layer in layers:
        total += of_layer(method, layer, batch, prompt, new, sealed)
    return total


def of_layer(method: Method, layer: Layer, batch: int, prompt: int, new: int = 0, sealed: bool = True) -> Footprint:
    """The same of one layer alone, without the sequence's state."""
    serving = Window(layer.window) if layer.window is not None else method.at(layer)
    if serving.source(layer) is not None:
        return Footprint()
    return serving.footprint(layer, batch, prompt, new, sealed)


def most_held(method: Method, layers: Sequence[Layer], batch: int, prompt: int, new: int, host: bool = True) -> int:
    """Bytes, slack included, at the fuller of two points: before seal, and at the end. Without `host`, those on the
    device alone."""
    points = (
        footprint(method, layers, batch, prompt, sealed=False).held,
        footprint(method, layers, batch, prompt, new).held,
    )
    return max(held.live if host else held.device + held.device_slack for held in points)
