"""The benchmark's arithmetic and its page; no timing decides anything here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kvfrontier.methods import Layer
from kvfrontier.runners import bench_self, bench_self_peers
from kvfrontier.runners.errors import UsageError


def test_ratios_are_taken_pair_by_pair() -> None:
    row = bench_self._ratio("ours", 0.85, [1.0, 4.0, 3.0], [2.0, 4.0, 4.0])
    assert (row.value, row.n, row.holds) == (0.75, 3, True)
    assert row.absolute == "3000 ms against 4000 ms"


def test_the_peer_shares_the_weights_and_keeps_its_own_attention() -> None:
    model = bench_self._model(16, "cpu", layers=1)
    stock = bench_self._stock(model)
    assert stock.model.embed_tokens.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert stock.config._attn_implementation == "sdpa"
    ids = bench_self._ids(model, 8)
    with torch.no_grad():
        assert torch.equal(stock(ids).logits, model(ids).logits)


def test_a_run_writes_its_page(tmp_path: Path) -> None:
    parts = ["decode", "prefill", "peaks", "flat", "long", "quantized"]
    found = bench_self.run(1024, 7, "cpu", lambda _: None, layers=1, only=parts, decoded=2048)
    data, page = bench_self.write(found, tmp_path)
    rows = json.loads(data.read_text())["rows"]
    assert [row["n"] for row in rows if row["q1"] is not None] == [35, 7]
    flat = [row for row in rows if "live bytes" in row["claim"]]
    assert len(flat) == 3
    assert all(row["value"] == 1.0 for row in flat)
    assert page.read_text().count("\n| ") == len(rows) + 1
    assert "Left out: int8" in page.read_text()


def test_a_part_is_measured_alone() -> None:
    found = bench_self.run(64, 7, "cpu", lambda _: None, layers=1, only=["decode"])
    assert [row.claim.split()[0] for row in found.rows] == ["decode"]
    assert not found.left_out
    with pytest.raises(UsageError, match="no part 'decoed'; choose of decode, prefill"):
        bench_self.run(64, 7, "cpu", lambda _: None, only=["decoed"])


def test_further_peers_are_measured_beside_their_own_caches() -> None:
    found = bench_self.run(64, 7, "cpu", lambda _: None, layers=1, only=["static", "sliding"])
    assert ["StaticCache" in found.rows[0].claim, "sliding layers" in found.rows[1].claim] == [True, True]
    assert all(row.n == 35 and row.value > 0 for row in found.rows)


@pytest.mark.slow
def test_ours_are_measured_beside_ours() -> None:
    parts = ["steps", "growth", "roofline", "harness", "allocation"]
    found = bench_self.run(256, 7, "cpu", lambda _: None, layers=1, only=parts)
    claims = " | ".join(row.claim for row in found.rows)
    for words in ("kivi4 against dense", "kivi2 compiled against dense", "exponent of step time", "over its floor",
                  "the bare model on one token", "allocates beside its state"):  # fmt: skip
        assert words in claims
    assert all(row.value > 0 for row in found.rows)


def test_an_exponent_is_the_slope_of_logarithms() -> None:
    assert bench_self_peers.slope([1, 2, 4], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert bench_self_peers.slope([1, 2, 4], [5.0, 5.0, 5.0]) == pytest.approx(0.0)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 7"):
        bench_self.run(64, 3, "cpu", lambda _: None)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_quantized_rows_hold_as_many_bits_as_their_peer(bits: int) -> None:
    layer = Layer(0, 1, 9, 3, 64, 64, 1.0)
    held = bench_self._by_token(bits).footprint(layer, 1, 4096).held
    # Codes, an fp16 scale and zero for 64 of them, and 128 tokens in full.
    assert held.payload == 2 * 3 * (3968 * (64 * bits // 8 + 4) + 128 * 64 * 4)
