"""Methods that drive the model, against eager loops over the plain model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM

from kvfrontier.methods import Method, registry
from kvfrontier.methods.segments.rag import RAG, bm25
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.session import Session

PROMPT, TEXT = 50, 70
SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Any:
    """Attends eagerly, so that a reference may bring a mask of its own."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval().requires_grad_(False)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    model.set_attn_implementation("eager")
    return model


def tokens(rows: int = 2, n: int = TEXT) -> Tensor:
    return torch.randint(3, 97, (rows, n), generator=torch.Generator().manual_seed(0))


def served(model: Any, method: Method, chunk: int | None = 17, step: int = 1) -> tuple[Tensor, Tensor | None]:
    """Logits [B, 1 + TEXT - PROMPT, V] of the prompt's last token and all that follow; and the learned tokens."""
    ids = tokens()
    with torch.no_grad(), Session(model, method) as s:
        logits = [s.prefill(ids[:, :PROMPT], chunk=chunk)[:, None]]
        logits += [s._decode(ids[:, i : i + step], keep=None) for i in range(PROMPT, TEXT, step)]
        params = s.layers[0].params
        return torch.cat(logits, 1), None if params is None else params.weight.detach()  # pyright: ignore[reportReturnType, reportCallIssue]


def embed(model: Any, ids: Tensor) -> Tensor:
    return model.get_input_embeddings()(ids)


def by_segment(model: Any, segment: int, carried: Tensor, asking: Tensor | None) -> Tensor:
    """Logits of all tokens: what is carried, a segment, and tokens that ask, in one plain forward each. Without
    `asking` the carried vectors ask, and are replaced; else they accumulate."""
    logits = []
    for piece in tokens().split(segment, 1):
        m, n = carried.shape[1], piece.shape[1]
        out = model(
            inputs_embeds=torch.cat([carried, embed(model, piece), carried if asking is None else asking], 1),
            output_hidden_states=True,
        )
        logits.append(out.logits[:, m : m + n])
        made = out.hidden_states[-1][:, m + n :]
        carried = made if asking is None else torch.cat([carried, made], 1)
    return torch.cat(logits, 1)


@pytest.mark.parametrize("chunk", [None, 17, 1])
def test_rmt(model: Any, chunk: int | None) -> None:
    got, memory = served(model, registry.build({"name": "rmt", "memory": 3, "segment": 16}), chunk)
    assert memory is not None
    assert memory.shape == (3, 64)
    with torch.no_grad():
        expected = by_segment(model, 16, memory.expand(2, -1, -1), None)[:, PROMPT - 1 :]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("chunk", [None, 17, 1])
def test_autocompressor(model: Any, chunk: int | None) -> None:
    got, asking = served(model, registry.build({"name": "autocompressor", "summary": 3, "segment": 16}), chunk)
    assert asking is not None
    with torch.no_grad():
        expected = by_segment(model, 16, torch.zeros(2, 0, 64), asking.expand(2, -1, -1))[:, PROMPT - 1 :]
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_gist(model: Any) -> None:
    """One forward under the paper's mask: what comes behind the gist does not see what comes before it."""
    got, gist = served(model, registry.build({"name": "gist", "tokens": 3}), step=7)
    assert gist is not None
    ids = tokens()
    x = torch.cat([embed(model, ids[:, :PROMPT]), gist.expand(2, -1, -1), embed(model, ids[:, PROMPT:])], 1)
    seen = torch.ones(TEXT + 3, TEXT + 3).tril().bool()
    seen[PROMPT + 3 :, :PROMPT] = False
    mask = torch.zeros(seen.shape).masked_fill(~seen, -math.inf)
    with torch.no_grad():
        expected = model(inputs_embeds=x, attention_mask=mask.expand(2, 1, -1, -1)).logits
    expected = torch.cat([expected[:, PROMPT - 1 : PROMPT], expected[:, PROMPT + 3 :]], 1)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_summary(model: Any) -> None:
    """The model's own greedy continuation, then a plain forward over it and what is decoded."""
    got, _ = served(model, registry.build({"name": "summary", "tokens": 9}))
    ids = tokens()
    with torch.no_grad():
        text = ids[:, :PROMPT]
        for _ in range(9):
            text = torch.cat([text, model(text).logits[:, -1].argmax(-1, keepdim=True)], 1)
        expected = model(torch.cat([text[:, PROMPT:], ids[:, PROMPT:]], 1)).logits[:, 9:]
        first = model(ids[:, :PROMPT]).logits[:, -1:]
    torch.testing.assert_close(got, torch.cat([first, expected], 1), atol=1e-4, rtol=1e-4)


def score(question: list[int], passage: list[int], passages: list[list[int]], k1: float) -> float:
    total = 0.0
    for token in question:
        f, n = passage.count(token), sum(token in other for other in passages)
        total += math.log(1 + (len(passages) - n + 0.5) / (n + 0.5)) * f * (k1 + 1) / (f + k1)
    return total


@pytest.mark.parametrize("step", [20, 5, 1])
def test_rag(model: Any, step: int) -> None:
    """The passages that BM25 finds for the first call's tokens, and then what is decoded, as one plain text."""
    got, _ = served(model, RAG(passage=8, k=3), step=step)
    with torch.no_grad():
        for row in range(2):
            ids = tokens()[row].tolist()
            passages = [ids[a : a + 8] for a in (0, 8, 16, 24, 32, 40, 42)]
            scores = [score(ids[PROMPT : PROMPT + step], p, passages, 1.5) for p in passages]
            best = sorted(sorted(range(7), key=lambda i: -scores[i])[:3])
            read = [token for i in best for token in passages[i]]
            expected = model(torch.tensor([read + ids[PROMPT:]])).logits[0, len(read) :]
            torch.testing.assert_close(got[row, 1:], expected, atol=1e-4, rtol=1e-4)


def test_bm25_by_hand() -> None:
    passages = torch.tensor([[[1, 2, 3, 3], [3, 4, 5, 6], [7, 7, 8, 9]]])
    question = [3, 7, 7, 2, 50]
    expected = [score(question, p, passages[0].tolist(), 1.2) for p in passages[0].tolist()]
    torch.testing.assert_close(bm25(passages, torch.tensor([question]), 1.2), torch.tensor([expected]))


def test_a_planted_passage_is_found_in_its_place() -> None:
    text = torch.randint(0, 50, (1, 1000), generator=torch.Generator().manual_seed(0))
    needle = torch.arange(60, 76)
    text[0, 320:336] = needle
    found = RAG(passage=16, k=2).found(text, needle[None, 3:9])
    assert found.shape == (1, 32)
    assert torch.equal(found[0, :16], needle) or torch.equal(found[0, 16:], needle)


def test_retrieved_text_waits_in_host_memory_and_is_not_read_before_it_is_asked_for(model: Any) -> None:
    ids = tokens(1)
    with Session(model, RAG(passage=8, k=3)) as s:
        s.prefill(ids[:, :PROMPT])
        held = s.state_bytes()
        assert (held.device, held.host) == (0, PROMPT * 8)
        s.decode(ids[:, PROMPT:])
        assert s.state_bytes().device == 2 * (24 + 20) * 2 * 2 * 16 * 4
        assert s.footprint().read == s.state_bytes().device


@pytest.mark.parametrize("size", [{"name": "rmt", "memory": 3}, {"name": "autocompressor", "summary": 3}])
def test_gradients_reach_the_learned_tokens_through_the_segments(model: Any, size: dict[str, Any]) -> None:
    with Session(model, registry.build({**size, "segment": 16}), grad=True) as s:
        s.prefill(tokens()[:, :16])
        params: Any = s.layers[0].params
        s.decode(tokens()[:, 16:40])[:, 5].sum().backward()
        assert params.weight.grad.abs().max() > 0


def test_a_summary_cannot_be_trained_through(model: Any) -> None:
    model.requires_grad_(True)
    method = registry.build({"name": "summary", "tokens": 5})
    try:
        with Session(model, method, grad=True) as s, pytest.raises(ValueError, match="no gradient"):
            s.prefill(tokens())
    finally:
        model.requires_grad_(False)


@pytest.mark.parametrize(
    ("params", "reach"),
    [
        ({"name": "autocompressor", "summary": 10, "segment": 48}, 8 * 48 + 47),
        ({"name": "autocompressor", "summary": 10, "segment": 120}, 119),
        ({"name": "rmt", "memory": 10, "segment": 109}, 108),
        ({"name": "rmt", "memory": 10, "segment": 500}, 118),
        ({"name": "gist", "tokens": 8}, 120),
        ({"name": "summary", "tokens": 8}, 120),
    ],
)
def test_learned_tokens_take_positions_of_the_model(model: Any, params: dict[str, Any], reach: int) -> None:
    with Session(model, registry.build(params)) as s:
        s.prefill(tokens(1, reach), chunk=64)
        s.reset()
        with pytest.raises(UsageError, match=f"longer than the {reach} that"):
            s.prefill(tokens(1, reach + 1))


@pytest.mark.parametrize("name", ["rmt", "rag"])
def test_what_reads_a_part_at_a_time_reads_a_text_of_any_length(model: Any, name: str) -> None:
    params = {"rmt": {"segment": 108}, "rag": {"passage": 16}}[name]
    with Session(model, registry.build({"name": name, **params})) as s:
        s.prefill(tokens(1, 500), chunk=100)
        assert s.decode(tokens(1, 5)).isfinite().all()


@pytest.mark.parametrize("name", ["rmt", "autocompressor", "gist", "summary", "rag"])
def test_rows_of_unequal_length_survive_a_snapshot(model: Any, name: str) -> None:
    ids, mask = tokens(), torch.ones(2, PROMPT, dtype=torch.long)
    mask[1, :21] = 0
    params = {"rmt": {"segment": 16}, "autocompressor": {"segment": 16, "summary": 3}, "gist": {"tokens": 3},
              "summary": {"tokens": 5}, "rag": {"passage": 8}}[name]  # fmt: skip
    with Session(model, registry.build({"name": name, **params})) as s:
        s.prefill(ids[:, :PROMPT], chunk=13, attention_mask=mask)
        assert s.state_bytes() == s.footprint().held
        saved, child = s.snapshot(), s.fork()
        expected = s.decode(ids[:, PROMPT:])
        assert s.state_bytes() == s.footprint().held
        assert torch.equal(child.decode(ids[:, PROMPT:]), expected)
        s.restore(saved)
        assert torch.equal(s.decode(ids[:, PROMPT:]), expected)


@pytest.mark.parametrize("name", ["rmt", "autocompressor", "gist", "summary", "rag"])
def test_a_model_with_windows_of_its_own_is_refused(name: str) -> None:
    config = Gemma3TextConfig(**SIZES, layer_types=["sliding_attention", "full_attention"], sliding_window=24)
    with pytest.raises(ValueError, match="keeps a window of its own"):
        Session(Gemma3ForCausalLM(config).eval(), registry.build({"name": name})).__enter__()


@pytest.mark.parametrize(
    "params",
    [
        {"name": "rmt", "memory": 0}, {"name": "rmt", "segment": 0}, {"name": "autocompressor", "summary": 0},
        {"name": "autocompressor", "segment": 0}, {"name": "gist", "tokens": 0}, {"name": "summary", "tokens": 0},
        {"name": "rag", "k": 0}, {"name": "rag", "passage": 0}, {"name": "rag", "k1": -1.0},
    ],
)  # fmt: skip
def test_sizes_that_make_no_sense_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="set method"):
        registry.build(params)
