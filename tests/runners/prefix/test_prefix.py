"""A method that starts from a stored dense prefix ends where its own prefill would have taken it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from kvfrontier.methods import Dense, Method, registry
from kvfrontier.runners.models import LoadedModel
from kvfrontier.runners.prefix.files import PrefixFiles
from kvfrontier.runners.prefix.prefix import Prefixes, why_not
from kvfrontier.runners.prefix.session import PrefixSession

ROWS = sorted((Path(__file__).parents[2] / "methods" / "rows").glob("*.yaml"))
METHODS: list[dict[str, Any]] = [row for file in ROWS for row in yaml.safe_load(file.read_text(encoding="utf-8"))]
ADOPTING = [row for row in METHODS if registry.build(row).adopts]
#: Those of latents aside, whose models have no keys and values to adopt.
REFUSING = [row for row in METHODS if not registry.build(row).adopts and not row["name"].startswith("mla")]
CHUNK, NEW = 64, 6


def ids(n: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, (1, n), generator=torch.Generator().manual_seed(seed))


def title(params: dict[str, Any]) -> str:
    return " ".join(str(v) for v in params.values())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> PrefixFiles:
    """One store for all methods: the first computes, the others find."""
    return PrefixFiles(tmp_path_factory.mktemp("prefix"), 1 << 30)


@torch.no_grad()
def answer(session: PrefixSession, prompt: Tensor, chunk: int | None = CHUNK) -> tuple[Any, list[Tensor], list[int]]:
    """Bytes after seal, logits of a prompt and of a question, and what is generated after that."""
    with session as s:
        first = s.prefill(prompt, chunk=chunk)
        held = s.state_bytes()
        assert held == s.footprint().held
        return held, [first, s.decode(ids(5, seed=1))], s.generate(NEW)[0]


def equal(one: tuple[Any, list[Tensor], list[int]], other: tuple[Any, list[Tensor], list[int]]) -> None:
    assert one[0] == other[0]
    for a, b in zip(one[1], other[1], strict=True):
        assert torch.allclose(a, b, atol=1e-5, rtol=0), f"{(a - b).abs().max():.1e}"
    assert one[2] == other[2]


@pytest.mark.parametrize("params", ADOPTING, ids=title)
def test_logits_and_tokens_are_the_same_with_the_store(params, loaded: LoadedModel, shared: PrefixFiles) -> None:
    prefixes = Prefixes(loaded, shared)
    expected = answer(PrefixSession(loaded.model, registry.build(params)), ids(150))
    equal(answer(PrefixSession(loaded.model, registry.build(params), prefixes), ids(150)), expected)
    assert prefixes.served == 1


def test_the_methods_that_adopt_are_these() -> None:
    """Written out, so that one that ceases to adopt is seen."""
    assert {row["name"] for row in ADOPTING} == {
        "adakv", "cached", "dense", "fp8", "gear", "keydiff", "keynorm", "kivi", "look_m", "offloaded", "paged", "palu",
        "pyramidkv", "quantized", "quest", "random", "rotated", "snapkv", "think", "turboquant",
    }  # fmt: skip


def test_a_prefix_is_computed_once_for_methods_stores_and_budgets(loaded: LoadedModel, files: PrefixFiles) -> None:
    prefixes = Prefixes(loaded, files)
    for params in (
        {"name": "snapkv", "budget": 40, "window": 8},
        {"name": "snapkv", "budget": 80, "window": 32},
        {"name": "kivi", "bits": 2, "group": 16, "residual": 16},
        {"name": "dense"},
    ):
        answer(PrefixSession(loaded.model, registry.build(params), prefixes), ids(150))
        assert prefixes.computed == 3  # chunks of 64, 64 and 22
    assert prefixes.served == 4


def test_questions_share_the_pieces_of_their_context(loaded: LoadedModel, files: PrefixFiles) -> None:
    """As under compress_at=prompt: the question is part of what is read."""
    prefixes, method = Prefixes(loaded, files), registry.build({"name": "snapkv", "budget": 40, "window": 32})
    context = ids(130)
    for asked, (question, new_pieces) in enumerate(((ids(20, seed=2), 3), (ids(30, seed=3), 1), (ids(100, seed=4), 2))):
        prompt = torch.cat([context, question], 1)
        before = prefixes.computed
        found = answer(PrefixSession(loaded.model, method, prefixes), prompt)
        assert prefixes.computed - before == new_pieces
        assert prefixes.served == asked + 1
        equal(found, answer(PrefixSession(loaded.model, method), prompt))


def test_last_queries_reach_over_the_cuts(loaded: LoadedModel, files: PrefixFiles) -> None:
    """The last piece has 2 tokens, and 32 queries are asked for."""
    method = registry.build({"name": "snapkv", "budget": 40, "window": 32})
    found = answer(PrefixSession(loaded.model, method, Prefixes(loaded, files)), ids(130), chunk=16)
    equal(found, answer(PrefixSession(loaded.model, method), ids(130), chunk=16))


def test_what_decides_the_numbers_decides_the_address(loaded: LoadedModel, files: PrefixFiles) -> None:
    from dataclasses import replace

    def computed(of: LoadedModel, method: Method, prompt: Tensor, chunk: int | None) -> int:
        prefixes = Prefixes(of, files)
        with torch.no_grad(), PrefixSession(of.model, method, prefixes) as s:
            s.prefill(prompt, chunk=chunk)
        return prefixes.computed

    dense = Dense()
    assert computed(loaded, dense, ids(40), None) == 1
    assert computed(loaded, dense, ids(40), None) == 0
    assert computed(loaded, dense, ids(40), 20) == 2
    assert computed(loaded, dense, ids(40, seed=9), None) == 1
    assert computed(loaded, Dense(backend="eager"), ids(40), None) == 1
    assert computed(loaded, dense, torch.cat([ids(40), ids(40)]), None) == 1
    assert computed(replace(loaded, revision="other"), dense, ids(40), None) == 1
    config = loaded.model.config
    before, config.rms_norm_eps = config.rms_norm_eps, 1e-3  # the weights are the same, and the model is not
    try:
        assert computed(loaded, dense, ids(40), None) == 1
    finally:
        config.rms_norm_eps = before
    assert computed(loaded, dense, ids(40), None) == 0


@pytest.mark.parametrize("params", REFUSING, ids=title)
def test_what_does_not_adopt_reads_its_prompt_itself(params, loaded: LoadedModel, files: PrefixFiles) -> None:
    method = registry.build(params)
    prefixes = Prefixes(loaded, files)
    with torch.no_grad(), PrefixSession(loaded.model, method, prefixes) as s:
        assert why_not(s)
        s.prefill(ids(20), chunk=16)
        s.reset()
        k = torch.zeros(1, 2, 4, 32)
        with pytest.raises(ValueError, match="prefill instead"):
            s.adopt([(k, k)] * 2, torch.zeros(1, 258), queries=[torch.zeros(1, 4, 4, 32)] * 2)
    assert (prefixes.served, prefixes.computed) == (0, 0)


def test_a_method_that_needs_more_queries_than_are_kept_reads_its_prompt_itself(
    loaded: LoadedModel, files: PrefixFiles
) -> None:
    prefixes = Prefixes(loaded, files)
    wide = registry.build({"name": "snapkv", "budget": 100, "window": 80})
    with torch.no_grad(), PrefixSession(loaded.model, wide, prefixes) as s:
        assert "80 queries, and 64" in (why_not(s) or "")
        s.prefill(ids(120))
    assert prefixes.served == 0


@torch.no_grad()
def test_forks_later_texts_and_calls_that_go_on(loaded: LoadedModel, files: PrefixFiles) -> None:
    """The first prefill of each text adopts, what follows it is read, and a fork goes its own way."""
    prefixes, plain = Prefixes(loaded, files), PrefixSession(loaded.model, Dense())
    with PrefixSession(loaded.model, Dense(), prefixes) as s, plain:
        for seed in (0, 7):
            s.reset()
            plain.reset()
            for session in (s, plain):
                session.prefill(ids(40, seed), chunk=CHUNK, seal=False)
                session.prefill(ids(20, seed + 1), chunk=CHUNK)
            assert torch.allclose(s.fork().decode(ids(3)), plain.fork().decode(ids(3)), atol=1e-5)
        assert prefixes.served == 2
        with pytest.raises(RuntimeError, match="after seal"):
            s.prefill(ids(4))


def test_a_model_with_windows_of_its_own_is_served(files: PrefixFiles) -> None:
    """Gemma 3's hybrid of window and full attention: windowed layers hold their window, and drop."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=258, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, sliding_window=24, initializer_range=0.1,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    model = Gemma3ForCausalLM(config).eval().requires_grad_(False)
    hybrid = LoadedModel(model, None, "gemma", "seeded", 4096, "none", 0)
    prefixes = Prefixes(hybrid, files)
    for params in ({"name": "dense"}, {"name": "snapkv", "budget": 40, "window": 8}):
        method = registry.build(params)
        expected = answer(PrefixSession(model, method), ids(150))
        equal(answer(PrefixSession(model, method, prefixes), ids(150)), expected)
    assert (prefixes.served, prefixes.computed) == (2, 3)
