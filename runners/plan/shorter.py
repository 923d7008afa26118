"""Running less of a run and having its peaks to the byte: fewer chunks where the state has stopped growing, and fewer
layers where all are alike.

A chunk that finds and leaves a state of the sizes that the chunk before found and left does what that one did. And a
peak as a function of the number of like layers is the largest of straight lines, since every moment of a run holds a
few temporaries, and of each layer its weights and its state at one of few sizes: so it is convex, and no steeper than
a layer's weights and largest state. Where two layers are already as steep as that, all that follow are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from kvfrontier.methods import Layer, Method
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.state import Bytes
from kvfrontier.runners.plan.run import Run
from kvfrontier.runners.plan.sizes import footprint, of_layer

#: Layers of the two models that are run in place of a deeper one; the second pair where the first three layers are of
#: another kind, as the dense ones before a mixture of experts.
FEW = ((2, 3), (4, 5))


def fewer_chunks(run: Run, method: Method, layers: Sequence[Layer]) -> Run:
    """The same run without the whole chunks that repeat the one before them, and otherwise the run itself."""
    ends = _whole_chunks(run)
    if len(ends) < 4:
        return run
    held = [footprint(method, layers, run.batch, n, sealed=False).held for n in ends]
    steady = len(ends) - 1
    while steady > 0 and held[steady - 1] == held[-1]:
        steady -= 1
    # Chunk steady + 1 is the first that begins and ends so, and the last that is run.
    kept = steady + 2
    if kept >= len(ends):
        return run
    shorter = replace(run, prompt=run.prompt - (len(ends) - kept) * ends[0])
    return shorter if _sizes(run, method, layers)[1:] == _sizes(shorter, method, layers)[1:] else run


def _whole_chunks(run: Run) -> list[int]:
    return [run.pieces[0] * (i + 1) for i, n in enumerate(run.pieces) if n == run.pieces[0]]


def _sizes(run: Run, method: Method, layers: Sequence[Layer]) -> list[Bytes]:
    """All layers' state where the prompt ends, when it has been sealed, and after each decoded token."""
    at = [footprint(method, layers, run.batch, run.prompt, sealed=False)]
    at += [footprint(method, layers, run.batch, run.prompt, new) for new in range(run.new + 1)]
    return [one.held for one in at]


def largest(run: Run, method: Method, layers: Sequence[Layer], fewer: Iterable[Layer]) -> tuple[int, int] | None:
    """The most that one layer's state holds in prefill and in decoding, slack included, where all `layers`, and those
    of the shorter models too, hold and read the same; None where they do not."""
    if len({(method.at(layer), method.source(layer)) for layer in layers}) > 1:
        return None
    first, *others = (_course(run, method, layer) for layer in (*layers, *fewer))
    if any(one != first for one in others):
        return None
    live = [one.held.live for one in first]
    return max(live[: -run.new]), max(live[-run.new - 1 :])


def _course(run: Run, method: Method, layer: Layer) -> list[Footprint]:
    """One layer's cost after every chunk, sealed, and after each decoded token."""
    ends = list(itertools.accumulate(run.pieces))
    before = [of_layer(method, layer, run.batch, n, sealed=False) for n in ends]
    return before + [of_layer(method, layer, run.batch, run.prompt, new) for new in range(run.new + 1)]
