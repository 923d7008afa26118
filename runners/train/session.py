"""A session that trains: its learnable parts are given, and all logits of a text come from one call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kvfrontier.methods import state as states
from kvfrontier.methods.contract import Method, Phase
from kvfrontier.methods.registry import called
from kvfrontier.runners.bridge import Bridge
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session
from kvfrontier.runners.train.tasks import IGNORED


def make_parts(model: Any, method: Method, seed: int) -> nn.ModuleDict:
    """The method's learnable parts by layer index, for a model that the bridge serves; one draw a seed."""
    with Session(model, method) as session, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = {
            str(layer.index): part
            for layer, serving in zip(session.layers, session.methods, strict=True)
            if (part := serving.module(layer)) is not None
        }
    return nn.ModuleDict(made).to(model.device).requires_grad_(True)


@dataclass(frozen=True)
class _Reading:
    """One forward for a method that drives (contract.Run): logits, or hidden states, of every place."""

    session: TrainedSession
    phase: Phase
    keep: int
    hidden: bool

    def __call__(self, ids: Tensor | None = None, **options: Any) -> Tensor:
        return self.session.run(ids, **{"phase": self.phase, "keep": self.keep, "hidden": self.hidden, **options})


class TrainedSession(Session):
    """As Session, with learnable parts that somebody else trains and keeps. `parts`: by layer index (`make_parts`)."""

    def __init__(self, model: Any, method: Method, parts: nn.ModuleDict, *, grad: bool = False) -> None:
        super().__init__(model, method, grad=grad)
        self._parts = parts

    def __enter__(self) -> TrainedSession:
        super().__enter__()
        return self

    def _assign(self, bridge: Bridge) -> list[Method]:
        chosen = super()._assign(bridge)
        for index, part in self._parts.items():
            self._brought[int(index)]["params"] = part
        return chosen

    def read(self, input_ids: Tensor, *, hidden: bool = False) -> Tensor:
        """Read a text [B, T], or more of it, in the method's own order. Returns logits [B, T, V] of every place, or its
        last hidden states [B, T, hidden]; with `grad` they carry the graph, through what the state holds as well. After
        `seal` the text is what follows the prompt. Raises UsageError for a method that gives no logits of every place.
        """
        ids = self._checked(input_ids)
        phase: Phase = "decode" if self._sealed else "prefill"
        if not self.states:
            self._guard(lambda: self._begin(ids.shape[0], None))

        def act() -> Tensor:
            with torch.set_grad_enabled(self.grad):
                return self.method.drive(_Reading(self, phase, ids.shape[1], hidden), ids, self)

        out = self._guard(act)
        if out.shape[1] != ids.shape[1]:
            raise UsageError(
                f"{called(self.method)} runs the text again for its last place and has no answers for the others; it "
                "cannot be trained"
            )
        if self._sealed:
            self._decoded, self._new = True, self._new + ids.shape[1]
        else:
            self._prompt += ids.shape[1]
        return out

    def detach(self) -> None:
        """What is held stays, and no gradient goes through it: back-propagation through time ends here."""
        assert self._cache is not None
        self.states, self.sequence_state = states.restore(states.snapshot([self.states, self.sequence_state]))
        saved = self._cache.save()
        self._cache.load(_cut(saved))


def _cut(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in value.items()}
    return type(value)(_cut(item) for item in value) if isinstance(value, (list, tuple)) else value


def asked_logits(
    session: TrainedSession, model: Any, ids: Tensor, labels: Tensor, prompt: int
) -> tuple[Tensor, Tensor]:
    """Logits [n, V] of the places that are asked, and what is right there [n]; `prompt` tokens of `ids` are the prompt.

    A method that does something at the end of a prompt is trained as it is asked: sealed there. A model whose head is a
    plain product makes no logits but these, which are most of the work at a large vocabulary.
    """
    cut = prompt if 0 < prompt < ids.shape[1] and not session.method.decode_equals_prefill else ids.shape[1]
    plain = getattr(model, "plain_head", False)
    found = [session.read(ids[:, :cut], hidden=plain)]
    if cut < ids.shape[1]:
        session.seal()
        found.append(session.read(ids[:, cut:], hidden=plain))
    asked = labels != IGNORED
    out = torch.cat(found, 1)[asked]
    return (model.get_output_embeddings()(out) if plain else out), labels[asked]
