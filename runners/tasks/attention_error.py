"""Attention-output error, layer by layer: how far a method's output is from dense attention's on the same queries, keys
and values.

Every layer is asked twice: the method and dense attention are given the same q, k and v, and the model goes on with
what dense attention says. So a layer's error is its own, and not what the layers before it have done to its input. As
in `perplexity`, a prompt is read and sealed, and the tokens after it are given one after the other; the error of one
token in one layer is |o - o_dense| / |o_dense|, over all heads, in Euclidean norms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from kvfrontier.methods import Dense, Method, Window
from kvfrontier.methods.contract import Step
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.intervals import bootstrap
from kvfrontier.runners.record import Quality, Score
from kvfrontier.runners.session import Session
from kvfrontier.runners.tasks.passages import passage
from kvfrontier.runners.tasks.perplexity import Perplexity
from kvfrontier.runners.tasks.task import OpenSession, Progress, States

if TYPE_CHECKING:
    from collections.abc import Callable

    from kvfrontier.runners.models import LoadedModel


class SideBySide(Session):
    """A session of a method whose model goes on with dense attention's outputs. `errors` holds, for each layer, the
    relative error of every decoded token, [B, T] a call.

    Raises UsageError for a method that reads a text in an order of its own, and for a model that caches latents: there
    the two are not given the same.
    """

    def __enter__(self) -> SideBySide:
        super().__enter__()
        if self.method.drives or self.method.rereads or self.bridge.latents:
            self.__exit__()
            raise UsageError(
                f"{type(self.model).__name__} with {type(self.method).__name__}: its attention is not given the "
                "queries, keys and values that dense attention is; take task=perplexity"
            )
        return self

    def _fill_states(self) -> None:
        super()._fill_states()
        self._exact: list[Method] = [
            Dense() if layer.window is None else Window(window=layer.window) for layer in self.layers
        ]
        self._exact_states: list[Any] = []
        for layer, method in zip(self.layers, self._exact, strict=True):
            source = layer.source
            self._exact_states.append(
                method.init_state(layer, self._batch) if source is None else self._exact_states[source]
            )
        self.errors: list[list[Tensor]] = [[] for _ in self._exact]

    def attend(
        self,
        index: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        pre: Callable[[], tuple[Tensor, Tensor]],
    ) -> Tensor:
        assert self._step is not None
        positions, start = self._step
        found = super().attend(index, q, k, v, sinks, pre)
        step = Step(positions.to(q.device), start, self._phase, self._pads, sinks, pre)
        exact = self._exact[index].attend(q, k, v, self._exact_states[index], self._layer(index), step)
        if self._phase == "decode":
            # [B, Hq, T, D]: norms over heads and their dimensions.
            far, size = (x.float().pow(2).sum((1, 3)).sqrt() for x in (found - exact, exact))
            self.errors[index].append((far / size).cpu())
        return exact


@dataclass(frozen=True)
class AttentionError(Perplexity):
    """The parameters of `perplexity`."""

    name: ClassVar[str] = "attention_error"
    version: ClassVar[int] = 1
    primary: ClassVar[str] = "error"
    summary: ClassVar[str] = "how far each layer's attention output is from dense attention's on the same input"

    def rules(self) -> dict[str, Any]:
        return super().rules() | {
            "metric": "|o - o_dense| / |o_dense| of a layer on the same q, k, v; mean over layers and tokens"
        }

    @torch.no_grad()
    def run(
        self,
        open_session: OpenSession,
        open_dense: OpenSession,
        loaded: LoadedModel,
        context: int,
        seed: int,
        *,
        chunk: int | None = None,
        progress: Progress = lambda _: None,
    ) -> Quality:
        self.check(loaded, context, seed)
        results: list[dict[str, Any]] = []
        states = States()
        device = loaded.model.device
        wanted = [(text, i) for text in self.texts for i in range(self.passages)]
        for done, (text, index) in enumerate(wanted):
            progress(f"{self.name} {done + 1}/{len(wanted)}")
            sample = passage(loaded.tokenizer, text, context, self.scored, index, self.passages, seed)
            asked = open_session()
            with SideBySide(asked.model, asked.method) as session:
                session.prefill(torch.tensor([sample.context], device=device), chunk=chunk)
                states.sealed(session)
                for _ in session.forced(torch.tensor([sample.scored], device=device)):
                    pass
                states.scored(session)
                # [layers, S]
                errors = torch.stack([torch.cat(layer, 1)[0] for layer in session.errors]).double()
            results.append(
                {
                    "text": text,
                    "revision": sample.revision,
                    "place": sample.place,
                    "prompt_tokens": len(sample.context),
                    "scored_tokens": len(sample.scored),
                    "block_tokens": self.block,
                    "layers": errors.mean(1).tolist(),
                    "blocks": {"error": errors.mean(0).unflatten(0, (-1, self.block)).mean(-1).tolist()},
                }
            )
        values = [value for result in results for value in result["blocks"]["error"]]
        low, high = bootstrap(values, seed=seed)
        score = Score(
            value=sum(values) / len(values),
            n=len(values),
            low=low,
            high=high,
            interval="bootstrap",
            higher_is_better=False,
        )
        data = ",".join(sorted({f"{r['text']}-{r['revision'][:12]}" for r in results}))
        return self.quality(results, {"error": score}, states, tokenizer=loaded.tokenizer, seed=seed, data=data)
