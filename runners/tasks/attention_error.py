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

from kvfrontier.runners.intervals import bootstrap
from kvfrontier.runners.record import Quality, Score
from kvfrontier.runners.tasks.passages import passage
from kvfrontier.runners.tasks.perplexity import Perplexity
from kvfrontier.runners.tasks.task import OpenSession, Progress, States

if TYPE_CHECKING:
    from kvfrontier.runners.models import LoadedModel


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
        from kvfrontier.runners.side_by_side import SideBySide  # which loads transformers: planning does without

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
