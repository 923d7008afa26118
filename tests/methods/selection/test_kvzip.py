"""KVzip against transformers' own attention weights over a context that is repeated behind itself."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from kvfrontier.methods import registry
from kvfrontier.methods.selection.kvzip import KVzip, KVzipSelection
from kvfrontier.runners.conformance import tiny, tokens
from kvfrontier.runners.session import Session

N, BUDGET = 90, 25


def kept_by_the_paper(
    chunk: int, lead: int, ids: Tensor, uniform: bool = False
) -> list[tuple[list[list[int]], Tensor, Tensor]]:
    """For each layer: the tokens that each head keeps, and the full keys and values [Hkv, N, D]."""
    model = copy.deepcopy(tiny())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        context = model(ids, past_key_values=DynamicCache(), use_cache=True).past_key_values
        scores = [torch.zeros(2, N) for _ in context.layers]
        for begin in range(0, N, chunk):
            end, first = min(N, begin + chunk), max(0, begin - lead)
            out = model(ids[:, first:end], past_key_values=copy.deepcopy(context), output_attentions=True)
            for score, weights in zip(scores, out.attentions, strict=True):
                for h, head in enumerate(weights[0]):
                    for row in head:
                        among = torch.cat([row[begin:end], row[N:]])  # the chunk and what repeats it
                        share = row[begin:end] / among.sum()
                        score[h // 2, begin:end] = torch.maximum(score[h // 2, begin:end], share)
    kept = []
    for score, layer in zip(scores, context.layers, strict=True):
        best = sorted(((score[g, s].item(), g, s) for g in range(2) for s in range(N)), reverse=True)
        of_head = [[entry for entry in best if entry[1] == own][:BUDGET] for own in range(2)]
        best = of_head[0] + of_head[1] if uniform else best[: 2 * BUDGET]
        heads = [sorted(s for _, g, s in best if g == own) for own in range(2)]
        kept.append((heads, layer.keys[0], layer.values[0]))
    return kept


@pytest.mark.parametrize(("chunk", "lead"), [(2000, 8), (32, 8), (32, 0), (20, 30)])
def test_kvzip_keeps_what_repeating_needs(chunk: int, lead: int) -> None:
    ids = tokens(1, N)
    with torch.no_grad(), Session(tiny(), KVzip(BUDGET, chunk, lead)) as session:
        session.prefill(ids, chunk=40)
        states = list(session.states)
    for state, (heads, keys, values) in zip(states, kept_by_the_paper(chunk, lead, ids), strict=True):
        assert state.store.lengths.tolist() == [[len(head) for head in heads]]
        for buf, full in ((state.store.k, keys), (state.store.v, values)):
            expected = torch.cat([full[g, head] for g, head in enumerate(heads)])
            torch.testing.assert_close(buf.view()[0], expected, atol=2e-5, rtol=1e-4)


def test_with_as_many_from_each_head_any_store_holds_what_kvzip_keeps() -> None:
    """Here paged, by a composition; the same tokens that the paper's scores choose in each head."""
    ids, selection = tokens(1, N), {"name": "kvzip", "budget": BUDGET, "chunk": 32, "uniform": True}
    method: Any = registry.build({"name": "cached", "selection": selection, "store": "paged"})
    with torch.no_grad(), Session(tiny(), method) as session:
        session.prefill(ids, chunk=40)
        held = [method.store.read(state.store, 0, BUDGET) for state in session.states]
    for kv, (heads, *full) in zip(held, kept_by_the_paper(32, 8, ids, uniform=True), strict=True):
        for x, whole in zip(kv, full, strict=True):
            expected = torch.stack([whole[g, head] for g, head in enumerate(heads)])
            torch.testing.assert_close(x[0], expected, atol=2e-5, rtol=1e-4)


def test_other_layers_may_have_other_methods() -> None:
    """The second pass goes through all layers; the last one keeps what it keeps where all are KVzip's."""
    ids, alone = tokens(1, N), KVzip(BUDGET, chunk=32)
    mixed = registry.build({"name": "kvzip", "budget": BUDGET, "chunk": 32, "layers": {"0": "dense"}})
    found = []
    for method in (alone, mixed):
        with torch.no_grad(), Session(tiny(), method) as session:
            session.prefill(ids, chunk=40, seal=False)
            assert session.state_bytes() == session.footprint().held
            session.seal()
            assert session.state_bytes() == session.footprint().held
            found.append(session.states)
    assert torch.equal(found[0][1].store.k.view(), found[1][1].store.k.view())
    assert found[1][0].store.k.n == N
    with pytest.raises(ValueError, match="each in a way of its own"):
        registry.build({"name": "kvzip", "layers": {"0": {"name": "kvzip", "chunk": 32}}})


def test_a_store_of_equal_heads_refuses_unequal_ones() -> None:
    with pytest.raises(ValueError, match="store=ragged"):
        registry.build({"name": "cached", "selection": "kvzip", "store": "kivi"})


class Counting(Session):
    """Counts the forwards of second passes."""

    repeated = 0

    def run(self, *args: Any, **options: Any) -> Tensor:
        self.repeated += options.get("phase") == "score"
        return super().run(*args, **options)


@pytest.mark.parametrize(("budget", "passes"), [(N - 1, 2), (N, 0)])
def test_the_context_is_read_again_only_where_something_must_go(budget: int, passes: int) -> None:
    """With a budget for all of it there is nothing to choose; the token ids go at seal either way."""
    session = Counting(tiny(), KVzip(budget, chunk=50))
    with torch.no_grad(), session:
        session.prefill(tokens(1, N), seal=False)
        assert session.sequence_state.ids.n == N
        session.seal()
        assert session.sequence_state is None
    assert session.repeated == passes


def test_the_second_pass_leaves_no_trace_but_its_choice() -> None:
    """Positions and what follows go on behind the context, not behind its repetition."""
    ids = tokens(1, N + 1)
    with torch.no_grad(), Session(tiny(), KVzip(BUDGET, chunk=32)) as session:
        session.prefill(ids[:, :N])
        session.decode(ids[:, N:])
        assert session.n_tokens == N + 1
        assert [layer.seen for layer in session.states] == [N + 1, N + 1]


def test_bad_values_say_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"method\.lead"):
        KVzipSelection(lead=-1)
    with pytest.raises(ValueError, match=r"method\.chunk"):
        KVzip(chunk=0)
