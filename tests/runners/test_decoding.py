"""Sampling against transformers' own warpers, and answers that end at texts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from kvfrontier.methods import Dense, Window
from kvfrontier.runners import models
from kvfrontier.runners.decoding import Sampling, StopStrings
from kvfrontier.runners.session import Session

DRAWS = 4000


@pytest.fixture(scope="module")
def tiny() -> Any:
    return models.load({"kind": "tiny", "device": "cpu"})


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(1, 12, generator=torch.Generator().manual_seed(3)) * 2


@pytest.mark.parametrize(
    ("sampling", "warpers"),
    [
        (Sampling(temperature=0.7), [TemperatureLogitsWarper(0.7)]),
        (Sampling(temperature=1.5, top_k=4), [TemperatureLogitsWarper(1.5), TopKLogitsWarper(4)]),
        (Sampling(top_p=0.8), [TopPLogitsWarper(0.8)]),
        (Sampling(top_k=6, top_p=0.7), [TopKLogitsWarper(6), TopPLogitsWarper(0.7)]),
    ],
)
def test_tokens_come_as_often_as_the_warped_distribution_says(sampling, warpers, logits):
    expected = logits
    for warp in warpers:
        expected = warp(None, expected)
    expected = expected.softmax(-1)[0]
    drawn = sampling.start(range(DRAWS))(logits.expand(DRAWS, -1))[:, 0].bincount(minlength=12) / DRAWS
    assert drawn[expected == 0].sum() == 0
    # Five standard deviations of a share.
    assert ((drawn - expected).abs() <= 5 * (expected * (1 - expected) / DRAWS).sqrt() + 1e-9).all()


def test_a_seed_draws_the_same_again_and_another_seed_other_tokens(tiny):
    ids = torch.arange(60)[None] % 50

    def said(seed: int, method=None) -> list[int]:
        with Session(tiny.model, method or Dense()) as s:
            s.prefill(ids)
            return s.generate(40, choose=Sampling(temperature=2.0, seed=seed).start([0]))[0]

    assert said(1) == said(1) != said(2)
    # Common random numbers: the same distribution gives the same tokens, under whatever method.
    assert said(1) == said(1, Window(window=1000))


def test_rows_of_unequal_length_generate_what_each_generates_alone(tiny):
    rows = [torch.arange(5, 45), torch.arange(90, 107), torch.arange(60, 93)]
    longest = max(map(len, rows))
    padded = torch.stack([torch.cat([row.new_zeros(longest - len(row)), row]) for row in rows])
    mask = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows]).long()
    for method in (Dense(), Window(window=16)):
        with Session(tiny.model, method) as s:
            s.prefill(padded, attention_mask=mask)
            together = s.generate(12)
            for row, generated in zip(rows, together, strict=True):
                s.reset()
                s.prefill(row[None])
                assert s.generate(12) == [generated]


def test_an_answer_ends_with_the_token_that_completes_a_text(tiny):
    with Session(tiny.model, Dense()) as s:
        s.prefill(torch.arange(60)[None])
        whole = s.generate(30)[0]
        text = tiny.tokenizer.decode(whole, skip_special_tokens=True)
        stops = StopStrings(tiny.tokenizer, (text[8:11], "never said"))
        s.reset()
        s.prefill(torch.arange(60)[None])
        ended = s.generate(30, ended=stops)[0]
        # The last token completes the text, and is not fed.
        assert s.new_tokens == len(ended) - 1
    assert ended == whole[: len(ended)]
    assert stops(ended) and not stops(ended[:-1])
    assert stops.before(ended) == text[: text.index(text[8:11])]


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_what_leaves_nothing_to_draw_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
