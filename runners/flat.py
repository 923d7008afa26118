"""Whether decoding holds memory flat: live bytes of the state, and what the process has in memory, over a long text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kvfrontier.runners import limit
from kvfrontier.runners.session import Session


@dataclass(frozen=True)
class Flat:
    """The least and the most over `tokens` decoded tokens, in bytes: of the state, slack included, and resident."""

    tokens: int
    live: tuple[int, int]
    resident: tuple[int, int]

    @property
    def live_ratio(self) -> float:
        """The most over the least."""
        return self.live[1] / self.live[0]

    @property
    def resident_ratio(self) -> float:
        """The most over the least."""
        return self.resident[1] / self.resident[0]


def watch(
    session: Session, tokens: int, *, step: int = 1, every: int = 1024, say: Callable[[str], None] = lambda _: None
) -> Flat:
    """Decode `tokens` random tokens, `step` in a call, in a session that has read its prompt, and look every `every`.

    The first look comes after `every` tokens, when whatever is allocated once is there. Linux only.
    """
    live: list[int] = []
    resident: list[int] = []
    device = session.bridge.layers[0].device
    vocabulary = session.model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    for done in range(step, tokens + 1, step):
        session.decode(torch.randint(vocabulary, (1, step), generator=generator).to(device))
        if done % every < step:
            say(f"{done} of {tokens} tokens")
            live.append(session.state_bytes().live)
            resident.append(limit.resident())
    if not live:
        raise ValueError(f"{tokens} tokens are fewer than the {every} between two looks")
    return Flat(tokens, (min(live), max(live)), (min(resident), max(resident)))
