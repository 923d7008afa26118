"""A decoded token of a whole model as one CUDA graph: for methods whose state keeps its shape and counts nothing on the
host, as those whose past is a matrix. Launching a layer's kernels one by one then costs nothing.

    step = StaticStep(session)            # after the prompt
    logits = step.decode(token)           # as session.decode(token)

Token and position lie where the graph reads them; what a forward puts in the place of a state's tensors is copied back
into them, as a part of the graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kvfrontier.methods.state import State
from kvfrontier.runners.session import Session

Act = Callable[[], object]


def captured(act: Act) -> Act:
    """`act` as a CUDA graph, after calls that let kernels be compiled and tuned."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            act()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        act()
    return graph.replay


class StaticStep:
    """The decode step of a session, captured once. Raises ValueError where the method's state does not keep its shape,
    or counts tokens, and for padded batches.

    capture   makes of a call what repeats it; the usual one makes a CUDA graph
    """

    def __init__(self, session: Session, capture: Callable[[Act], Act] = captured) -> None:
        if session.last_logits is None:
            raise RuntimeError("a static step before prefill: there is no prompt to continue")
        if session.pads is not None or session.sequence_state is not None:
            raise ValueError("a static step serves rows without padding, and methods without a state of the sequence")
        if any(True for _ in _numbers(session.states)):
            raise ValueError(
                f"{type(session.method).__name__} counts tokens in its state, or grows; use session.decode"
            )
        if capture is captured and session.last_logits.device.type != "cuda":
            raise ValueError("a CUDA graph needs a CUDA device; use session.decode")
        self.session = session
        device, rows = session.last_logits.device, session.last_logits.shape[0]
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._positions = torch.full_like(self._ids, session.n_tokens)
        self._logits = torch.empty_like(session.last_logits)
        self._places = list(_tensors(session.states))
        held = [(x, x.clone()) for _, _, x in self._places]
        with torch.no_grad(), session.repeating():
            self._replay = capture(self._step)
        for place, content in held:
            place.copy_(content)

    def decode(self, input_ids: Tensor) -> Tensor:
        """One token for each row, [B] or [B, 1]; the logits [B, V] that follow it."""
        self._ids.copy_(input_ids.reshape(self._ids.shape))
        self._positions.fill_(self.session.n_tokens)
        with torch.no_grad(), self.session.repeating():
            self._replay()
        return self.session.count_decoded(self._logits.clone())

    def _step(self) -> None:
        logits = self.session.run(self._ids, phase="decode", positions=self._positions, keep=1)
        for owner, name, place in self._places:
            found = getattr(owner, name)
            if found is not place:
                setattr(owner, name, place)
                place.copy_(found)
        self._logits.copy_(logits[:, -1])


def _fields(state: Any) -> Iterator[tuple[Any, str, Any]]:
    """(owner, name, value) of every field of a state that is no state itself."""
    if isinstance(state, (list, tuple)):
        for one in state:
            yield from _fields(one)
    elif isinstance(state, State) and dataclasses.is_dataclass(state):
        for field in dataclasses.fields(state):
            value = getattr(state, field.name)
            if isinstance(value, (State, list, tuple)):
                yield from _fields(value)
            else:
                yield state, field.name, value


def _tensors(state: Any) -> Iterator[tuple[Any, str, Tensor]]:
    yield from ((owner, name, value) for owner, name, value in _fields(state) if isinstance(value, Tensor))


def _numbers(state: Any) -> Iterator[int | float]:
    """What a graph would not see change; a growing buffer has one."""
    numbers = (value for _, _, value in _fields(state) if isinstance(value, (int, float)))
    yield from (value for value in numbers if not isinstance(value, bool))
