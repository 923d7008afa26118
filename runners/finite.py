"""A session that goes no further where logits are not finite, and says at which token that began."""

from __future__ import annotations

import torch
from torch import Tensor

from kvfrontier.methods.contract import Phase
from kvfrontier.runners.guard import NotFinite
from kvfrontier.runners.session import Session


class FiniteSession(Session):
    """As Session, for scores: a NaN compares with nothing, and would be an answer that is wrong. Looking takes a pass
    over the logits and waits for the device, so what is timed does without."""

    def _advance(self, ids: Tensor, phase: Phase, keep: int | None) -> Tensor:
        logits = super()._advance(ids, phase, keep)
        # NaN wins a maximum. A single -inf is a word that the model rules out.
        broken = ~torch.isfinite(logits.amax(-1)).all(0)
        if bool(broken.any()):
            first = int(broken.nonzero()[0, 0])
            raise NotFinite(self.n_tokens - logits.shape[1] + first)
        return logits
