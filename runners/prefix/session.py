"""A session whose prompts begin with a stored dense prefix."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kvfrontier.methods.contract import Method
from kvfrontier.runners.finite import FiniteSession
from kvfrontier.runners.prefix.prefix import Prefixes, why_not


class PrefixSession(FiniteSession):
    """As FiniteSession; the first prefill of a text adopts the dense prefix of `prefixes`, where its methods can. The
    logits that it gives are dense attention's, as those of a prefill are. Not for what is timed or whose peak is taken.
    """

    #: A fork begins with a text.
    _prefixes: Prefixes | None = None

    def __init__(self, model: Any, method: Method, prefixes: Prefixes | None = None) -> None:
        super().__init__(model, method)
        self._prefixes = prefixes

    def prefill(
        self, input_ids: Tensor, *, chunk: int | None = None, seal: bool = True, attention_mask: Tensor | None = None
    ) -> Tensor:
        prefixes = self._prefixes
        goes_on = bool(self.states) or attention_mask is not None or (chunk is not None and chunk < 1)
        if prefixes is None or goes_on or why_not(self) is not None:
            return super().prefill(input_ids, chunk=chunk, seal=seal, attention_mask=attention_mask)
        ids = self._checked(input_ids)
        self.check_length(ids.shape[1])
        prefix = prefixes.of(self, ids, chunk)
        return self.adopt(prefix.keys_values, prefix.logits, queries=prefix.queries, seal=seal)
