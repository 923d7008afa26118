"""How the next token is chosen where it is not the most likely one, and which texts end an answer.

    session.generate(64, choose=Sampling(temperature=0.8, top_p=0.95, seed=1).start(range(batch)))
    session.generate(64, ended=StopStrings(tokenizer, ("Question:",)))

A session by itself is greedy, and ends at no text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Tokens [B, 1] from logits [B, V].
Choose = Callable[[Tensor], Tensor]


def greedy(logits: Tensor) -> Tensor:
    """The most likely token of each row; of several, the first."""
    return logits.argmax(-1, keepdim=True)


@dataclass(frozen=True)
class Sampling:
    """Tokens drawn by their probability.

    temperature  logits are divided by it; more than 0
    top_k        of the k most likely alone; None: of all
    top_p        of the fewest most likely that have at least this probability together (Holtzman et al. 2020), after
                 top_k
    seed         of the draws, apart from those of data and weights

    A row draws one number a token, whatever the method and whatever rows stand beside it: two methods that agree on the
    distribution draw the same token (common random numbers).
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature={self.temperature} must be more than 0; leave sampling out to be greedy")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} leaves no token; give at least 1, or null")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} must be more than 0 and at most 1")

    def start(self, rows: Sequence[str | int]) -> Choose:
        """Draws for a batch from its first token on. `rows` names its rows: one of the same name draws the same."""
        sources = [random.Random(f"sampling {self.seed} {row}") for row in rows]
        return lambda logits: self._draw(logits, [source.random() for source in sources])

    def _draw(self, logits: Tensor, u: list[float]) -> Tensor:
        """The token at each row's quantile `u` of those that are left, the most likely first."""
        sorted_logits, order = (logits.double() / self.temperature).sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            sorted_logits, order = sorted_logits[:, : self.top_k], order[:, : self.top_k]
        p = sorted_logits.softmax(-1)
        p = p * (p.cumsum(-1) - p < self.top_p)
        upto = p.cumsum(-1)
        quantile = upto.new_tensor(u)[:, None] * upto[:, -1:]
        # Rounding may leave the last quantile beyond every token.
        place = torch.searchsorted(upto, quantile, right=True).clamp(max=upto.shape[1] - 1)
        return order.gather(1, place)


class StopStrings:
    """Whether what was generated holds one of some texts, wherever they lie across tokens."""

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        if not all(strings):
            raise ValueError("an empty stop string ends every answer before it begins; leave it out")
        self._tokenizer, self.strings = tokenizer, tuple(strings)

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether the text of these token ids holds one."""
        text = self.text(ids)
        return any(string in text for string in self.strings)

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=True)

    def before(self, ids: Sequence[int]) -> str:
        """Their text up to the first of the strings."""
        text = self.text(ids)
        return text[: min([len(text), *(at for s in self.strings if (at := text.find(s)) >= 0)])]
