"""What a workload holds, by hand, on the tiny model: rows, common prefixes, turns, rows of unequal length."""

from typing import Any

import pytest
import torch

from kvfrontier import Session, methods
from kvfrontier.methods.state import capacity
from kvfrontier.runners import workloads
from kvfrontier.runners.models import load
from kvfrontier.runners.workload_meter import measure_workload

LAYERS, HKV, D = 2, 2, 16
#: Bytes of one token's keys and values, all layers, in float32.
TOKEN = LAYERS * HKV * 2 * D * 4


@pytest.fixture(scope="module")
def model() -> Any:
    return load({"kind": "tiny", "name": "tiny", "layers": LAYERS, "heads": 4, "kv_heads": HKV, "head_dim": D}).model


def memory_of(model: Any, method: Any, *requests: dict[str, int], layout: str = "packed") -> Any:
    workload = workloads.make({"name": "w", "requests": list(requests), "layout": layout})

    def draw(rows: int, n: int) -> torch.Tensor:
        return torch.randint(3, 100, (rows, n))

    return measure_workload(
        lambda: Session(model, method), workload, draw, chunk=64, weights=model, device=torch.device("cpu")
    )


def test_short_rows_and_one_long_row_hold_the_same_and_peak_apart(model):
    short = memory_of(model, methods.Paged(block=1), {"count": 8, "prompt": 62, "new": 2})
    long = memory_of(model, methods.Paged(block=1), {"prompt": 510, "new": 2})
    assert short.status == long.status == "ok"
    table = 4 * 8 * 64 * LAYERS
    assert short.live_payload == long.live_payload == 512 * TOKEN + table
    assert short.live_payload == short.analytic_payload
    assert short.prefill_parts.activations > 4 * long.prefill_parts.activations, "a chunk is of all rows"
    assert long.bytes_read == 8 * short.bytes_read, "a token reads its own row"


def test_forks_share_full_blocks_of_a_common_prefix_and_copy_dense_ones(model):
    family = {"count": 4, "shared": 64, "prompt": 80, "new": 3}
    dense, paged = memory_of(model, methods.Dense(), family), memory_of(model, methods.Paged(block=16), family)
    assert dense.live_payload == 4 * 83 * TOKEN
    table = 4 * LAYERS * 6
    assert paged.live_payload == (64 + 4 * 19) * TOKEN + 4 * table
    assert dense.prefill_parts.state == 64 * TOKEN, "the prefix is read once"
    assert dense.decode_parts.state >= 4 * 80 * TOKEN, "and each request's copy is its state"
    assert paged.analytic_payload is None, "of what is shared there is no closed form"
    assert (dense.shared_tokens, dense.prompt_tokens, dense.decoded_tokens) == (3 * 64, 320, 12)


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_rows_of_unequal_length_hold_no_padding(model, layout):
    rows = {"prompt": 100, "new": 2}, {"count": 2, "prompt": 20, "new": 2}
    block = memory_of(model, methods.Dense(), *rows, layout=layout)
    lengths = (102, 22, 22)
    assert block.live_payload == sum(lengths) * TOKEN
    assert block.live_slack == sum(capacity(n) - n for n in lengths) * TOKEN
    assert block.padding_tokens == 160


def test_turns_are_read_after_what_was_said(model):
    block = memory_of(model, methods.Window(32), {"prompt": 40, "turns": 3, "follow": 10, "new": 4})
    assert block.live_payload == 32 * TOKEN
    grown = memory_of(model, methods.Dense(), {"prompt": 40, "turns": 3, "follow": 10, "new": 4})
    assert grown.live_payload == (40 + 2 * 10 + 3 * 4) * TOKEN
    assert grown.sealed_payload == 40 * TOKEN


def test_a_text_may_be_longer_than_the_model_was_made_for(model, monkeypatch):
    monkeypatch.setattr(model.config, "max_position_embeddings", 50)
    assert memory_of(model, methods.Dense(), {"prompt": 60, "new": 1}).live_payload == 61 * TOKEN


def test_a_closed_form_that_is_wrong_fails(model, monkeypatch):
    from kvfrontier.methods.cached import Cached
    from kvfrontier.methods.contract import Footprint

    honest = Cached.footprint
    monkeypatch.setattr(Cached, "footprint", lambda *args, **more: honest(*args, **more) + Footprint.of(1))
    block = memory_of(model, methods.Dense(), {"prompt": 10, "new": 1})
    assert block.status == "failed"
    assert "at the end the footprint says" in block.reason
