"""(d) The longest context that this device holds, with a whole model's weights on it: its cache is filled with
random keys and values, sealed, and one token is decoded."""

from __future__ import annotations

import functools
import gc
from collections.abc import Iterator

from kvfrontier.methods import Layer, Method
from kvfrontier.runners.gpu_suite.bench import Bench
from kvfrontier.runners.gpu_suite.checks import Found
from kvfrontier.runners.gpu_suite.families import built, fill
from kvfrontier.runners.gpu_suite.items import Item
from kvfrontier.runners.guard import is_out_of_memory
from kvfrontier.runners.search.seek import largest
from kvfrontier.runners.session import Session

METHODS = ("dense", "kivi4", "kivi2, triton", "paged, triton", "quest")
#: Tokens at which it is no longer asked whether more would fit.
MOST = 1 << 23


def items(bench: Bench) -> Iterator[Item]:
    """One for each method whose cache grows."""
    for name in METHODS:
        yield Item("walls", f"walls/{name}", functools.partial(wall, name=name), 42, 15.0, 120.0)


def wall(bench: Bench, name: str) -> Found:
    """Tokens, and what the closed form says that their state takes."""
    s, method, model = bench.scale, built(name), bench.model(bench.scale.whole)
    tried: dict[int, bool] = {}

    def fits(steps: int) -> bool:
        n = steps * s.step
        if n not in tried:
            tried[n] = _fits(bench, model, method, n)
            gc.collect()
            bench.tidy()
        return tried[n]

    most = MOST // s.step
    found = largest(fits, start=1, most=most) * s.step
    held = sum(
        method.footprint(layer, 1, found, 1).held.live for layer in _layers(model, method)
    ) if found else 0  # fmt: skip
    bound = "memory" if found < MOST else "the search"
    return {"tokens": found, "state": held, "tries": len(tried), "bounded_by": bound}


def _layers(model: object, method: Method) -> list[Layer]:
    with Session(model, method) as session:
        return list(session.layers)


def _fits(bench: Bench, model: object, method: Method, n: int) -> bool:
    try:
        with Session(model, method) as session:
            session.bridge.max_positions = None
            fill(bench, session, n)
            session.decode(bench.ids(1))
            pretended = bench.scale.pretended
            return pretended is None or session.state_bytes().live <= pretended
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return False
