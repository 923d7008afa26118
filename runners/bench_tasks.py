"""What the harness itself takes: the share of a task's wall time that is not the model's, and the time that it takes to
make RULER's samples at full length. `kvfrontier bench-self --only overhead,samples`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kvfrontier.methods import Dense
from kvfrontier.runners import models, tasks
from kvfrontier.runners.bench_self import Row
from kvfrontier.runners.meter import quartiles
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks.answer import AnswerTask

#: RULER's tasks; the two of question answering need files, and a cloze of the same form stands for both.
RULER = (
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
    "niah_multivalue", "niah_multiquery", "ruler_vt", "ruler_cwe", "ruler_fwe", "cloze_qa", "cloze_qa",
)  # fmt: skip
_OVERHEAD_CONTEXT = 2048
_LONG, _SAMPLES, _MADE = 131_072, 50, 5


@contextmanager
def forwards(loaded: LoadedModel) -> Iterator[list[float]]:
    """Seconds of every forward of the model while it is open."""
    spent: list[float] = []
    begun: list[float] = []

    def begin(*_: Any) -> None:
        begun.append(time.perf_counter())

    def end(*_: Any) -> None:
        spent.append(time.perf_counter() - begun.pop())

    hooks = [loaded.model.register_forward_pre_hook(begin), loaded.model.register_forward_hook(end)]
    try:
        yield spent
    finally:
        for hook in hooks:
            hook.remove()


def overhead(pairs: int, say: Callable[[str], None]) -> list[Row]:
    """The share of a needle task's wall time, under dense attention at 2,048 tokens, in which no forward of the model
    runs: making samples, tokens to text, choosing tokens, grades and intervals. Real weights, since random ones answer
    at another length."""
    loaded = models.load({"kind": "embedded", "name": "smollm2-135m", "device": "cpu"})
    task = tasks.make({"name": "needle", "samples": 1})

    def opened() -> Session:
        return Session(loaded.model, Dense())

    def run(seed: int) -> None:
        task.run(opened, opened, loaded, _OVERHEAD_CONTEXT, seed)

    run(0)  # what is made once a process is not a run's
    shares, walls = [], []
    for pair in range(pairs):
        say(f"the harness's share of a task: {pair + 1}/{pairs}")
        with forwards(loaded) as spent:
            start = time.perf_counter()
            run(pair + 1)
            walls.append(time.perf_counter() - start)
        shares.append(1 - sum(spent) / walls[-1])
    spread = quartiles(shares)
    return [
        Row(
            claim=f"needle at {_OVERHEAD_CONTEXT} tokens, dense: share of the wall time outside the model's forwards",
            value=spread.median,
            q1=spread.q1,
            q3=spread.q3,
            n=spread.n,
            goal=0.05,
            absolute=f"{statistics.median(walls):.2f} s a sample",
        )
    ]


def samples(pairs: int, say: Callable[[str], None]) -> list[Row]:
    """Seconds of one core to make 50 samples of each of RULER's tasks at 131,072 tokens, over ten minutes: of 5
    samples each, times ten. What a process makes once, as a text's tokens, so counts ten times too."""
    tokenizer = models.tokenizer({"kind": "embedded", "name": "smollm2-135m"})
    start = time.process_time()
    for n, name in enumerate(RULER, 1):
        task = tasks.make({"name": name, "samples": _MADE})
        assert isinstance(task, AnswerTask)
        for i in range(_MADE):
            say(f"samples of {name}, {n}/{len(RULER)}: {i + 1}/{_MADE}")
            task.drawn(tokenizer, _LONG, 0, i)
    seconds = (time.process_time() - start) * _SAMPLES / _MADE
    claim = f"RULER's {len(RULER)} tasks, {_SAMPLES} samples each of {_LONG} tokens: seconds of a core over ten minutes"
    return [Row(claim=claim, value=seconds / 600, goal=1.0, absolute=f"{seconds:.0f} s")]
