"""The Session API: what a user calls, what it returns, and what it refuses."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from kvfrontier import methods
from kvfrontier.methods.contract import Method, Step
from kvfrontier.methods.layer import Layer
from kvfrontier.methods.state import Bytes, measure
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.peak import track
from kvfrontier.runners.rows import PerRow, Piece, left_pads, pack
from kvfrontier.runners.session import Session

PROMPT = 50


@pytest.fixture(scope="module")
def model() -> Any:
    config = LlamaConfig(
        vocab_size=97, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=128,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = LlamaForCausalLM(config).eval().requires_grad_(False)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    return model


def tokens(rows: int = 2, n: int = 70, seed: int = 0) -> Tensor:
    return torch.randint(3, 97, (rows, n), generator=torch.Generator().manual_seed(seed))


def own(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


ALL = {
    "dense": methods.Dense(),
    "window": methods.Window(window=16),
    "sinks": methods.Sinks(window=12, sinks=4),
    "kivi": methods.Kivi(bits=4, group=16, residual=16),
    "snapkv": methods.SnapKV(budget=24, window=8),
    "moving_average": methods.MovingAverage(window=16),
    "recompute": methods.Recompute(),
    "linear": methods.Linear(),
    "infini": methods.Infini(segment=16),
}
every_method = pytest.mark.parametrize("method", ALL.values(), ids=ALL)


# ------------------------------------------------------------------------------------------- reading and writing


def test_one_token_for_each_row_is_decoded_as_it_comes_from_argmax(model: Any) -> None:
    ids = tokens()
    with Session(model, methods.Window(window=4)) as s:
        token = s.prefill(ids).argmax(-1)
        flat = s.decode(token)
        s.reset()
        s.prefill(ids)
        torch.testing.assert_close(flat, s.decode(token[:, None]), rtol=0, atol=0)


def test_prefill_and_decode_return_the_logits_of_the_last_position(model: Any) -> None:
    ids = tokens()
    expected = own(model, ids)
    with Session(model, methods.Dense()) as s:
        logits = s.prefill(ids[:, :PROMPT], chunk=16)
        assert logits.shape == (2, 97)
        assert logits.dtype == torch.float32
        assert torch.allclose(logits, expected[:, PROMPT - 1], atol=1e-5)
        assert torch.allclose(s.decode(ids[:, PROMPT:]), expected[:, -1], atol=1e-5)
        assert (s.n_tokens, s.new_tokens) == (70, 20)


def test_a_prompt_may_come_in_several_calls(model: Any) -> None:
    ids = tokens()
    with Session(model, methods.SnapKV(budget=24, window=8)) as s:
        whole = s.prefill(ids)
        held = s.state_bytes()
        s.reset()
        s.prefill(ids[:, :30], seal=False)
        s.prefill(ids[:, 30:], chunk=7, seal=False)
        s.seal()
        assert s.last_logits is not None
        assert torch.allclose(s.last_logits, whole, atol=1e-5)
        assert s.state_bytes() == held


@every_method
def test_live_bytes_equal_the_footprint_at_every_point(model: Any, method: Method) -> None:
    ids = tokens()
    with Session(model, method) as s:
        assert s.state_bytes() == s.footprint().held == Bytes()
        for a, b in ((0, 20), (20, PROMPT)):
            s.prefill(ids[:, a:b], seal=False)
            assert s.state_bytes() == s.footprint().held
        s.seal()
        assert s.state_bytes() == s.footprint().held
        for i in range(PROMPT, 70):
            s.decode(ids[:, i : i + 1])
            assert s.state_bytes() == s.footprint().held


@every_method
@pytest.mark.parametrize("step", [None, 1, 7])
def test_forced_logits_predict_the_continuation(model: Any, method: Method, step: int | None) -> None:
    ids = tokens()
    with Session(model, method) as s:
        one = [s.prefill(ids[:, :PROMPT])]
        one += [s.decode(ids[:, i : i + 1]) for i in range(PROMPT, 69)]
        s.reset()
        s.prefill(ids[:, :PROMPT])
        got = torch.cat(list(s.forced(ids[:, PROMPT:], step=step)), 1)
        assert got.shape == (2, 20, 97)
        assert s.new_tokens == 20
        if step == 1 or method.chunk_invariant:
            assert torch.allclose(got, torch.stack(one, 1), atol=1e-4)


def test_forced_takes_single_steps_where_chunks_matter(model: Any) -> None:
    @dataclass(frozen=True)
    class Particular(methods.Recompute):
        chunk_invariant = False

    for method, sizes in ((Particular(), {1}), (methods.Dense(), {20})):
        with Session(model, method) as s:
            s.prefill(tokens()[:, :PROMPT])
            assert {x.shape[1] for x in s.forced(tokens()[:, PROMPT:])} == sizes


def test_score_gives_log_probabilities(model: Any) -> None:
    ids = tokens()
    expected = own(model, ids).log_softmax(-1)[:, PROMPT - 1 : -1].gather(2, ids[:, PROMPT:, None])[..., 0]
    with Session(model, methods.Dense()) as s:
        s.prefill(ids[:, :PROMPT])
        scores = s.score(ids[:, PROMPT:])
        assert scores.shape == (2, 20)
        assert torch.allclose(scores, expected, atol=1e-4)
        assert s.n_tokens == 70


def greedy(model: Any, ids: Tensor, n: int) -> list[list[int]]:
    for _ in range(n):
        ids = torch.cat([ids, own(model, ids)[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[:, -n:].tolist()


def test_generate_is_greedy_and_may_go_on(model: Any) -> None:
    ids = tokens()[:, :PROMPT]
    expected = greedy(model, ids, 12)
    with Session(model, methods.Dense()) as s:
        s.prefill(ids)
        first, second = s.generate(5), s.generate(7)
        assert [a + b for a, b in zip(first, second, strict=True)] == expected
        assert s.new_tokens == 12


def test_generate_stops_each_row_at_its_own_stop_token(model: Any) -> None:
    ids = tokens()[:, :PROMPT]
    expected = greedy(model, ids, 12)
    stop = next(t for t in expected[0][1:] if t not in expected[1])
    with Session(model, methods.Dense()) as s:
        s.prefill(ids)
        rows = s.generate(12, stop_ids=[stop])
        assert rows[0] == expected[0][: expected[0].index(stop)]
        assert rows[1] == expected[1]
        s.reset()
        s.prefill(ids[:1])
        assert s.generate(12, stop_ids=[stop]) == [rows[0]]
        assert s.new_tokens == len(rows[0])


@every_method
def test_reset_leaves_nothing_behind(model: Any, method: Method) -> None:
    ids, other = tokens(), tokens(seed=4)
    with Session(model, method) as s:
        fresh = s.prefill(ids[:, :PROMPT], chunk=16), s.decode(ids[:, PROMPT : PROMPT + 1])
        s.reset()
        assert s.state_bytes() == Bytes()
        s.prefill(other[:1], seal=False)
        s.reset()
        again = s.prefill(ids[:, :PROMPT], chunk=16), s.decode(ids[:, PROMPT : PROMPT + 1])
    assert torch.equal(fresh[0], again[0])
    assert torch.equal(fresh[1], again[1])


# ------------------------------------------------------------------------------------------- rows


@every_method
@pytest.mark.parametrize("chunk", [None, 16])
def test_left_padded_rows_equal_each_row_alone(model: Any, method: Method, chunk: int | None) -> None:
    ids, pads = tokens(3), (0, 19, 7)
    mask = torch.ones(3, PROMPT, dtype=torch.long)
    for b, pad in enumerate(pads):
        mask[b, :pad] = 0
    with Session(model, method) as s:
        alone, held = [], 0
        for b, pad in enumerate(pads):
            s.reset()
            rows = [s.prefill(ids[b : b + 1, pad:PROMPT])]
            alone.append(torch.stack(rows + [s.decode(ids[b : b + 1, i : i + 1]) for i in range(PROMPT, 70)], 1))
            held += s.state_bytes().payload
        s.reset()
        batch = [s.prefill(ids[:, :PROMPT], chunk=chunk, attention_mask=mask)]
        batch += [s.decode(ids[:, i : i + 1]) for i in range(PROMPT, 70)]
        assert s.state_bytes() == s.footprint().held
        # Recompute runs the rectangle again, and holds the token ids of all of it.
        assert s.state_bytes().payload == held + (8 * sum(pads) if isinstance(method, type(methods.Recompute())) else 0)
        assert all(isinstance(m, PerRow) for m in s.methods)
        s.reset()
        s.prefill(ids[:, :PROMPT], attention_mask=torch.ones_like(mask))
        assert not any(isinstance(m, PerRow) for m in s.methods)
    tolerance = 1e-4 if chunk is None or method.chunk_invariant else 1.0
    assert torch.allclose(torch.stack(batch, 1), torch.cat(alone), atol=tolerance)


PACKABLE = [name for name, method in ALL.items() if not method.drives]


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("chunk", [None, 16])
def test_packed_rows_equal_each_row_alone_and_hold_only_what_they_need(
    model: Any, name: str, chunk: int | None
) -> None:
    ids, lengths, method = tokens(4), (50, 31, 3, 43), ALL[name]
    with Session(model, method) as s:
        alone, held = [], 0
        for b, n in enumerate(lengths):
            s.reset()
            rows = [s.prefill(ids[b : b + 1, :n])]
            alone.append(torch.stack(rows + [s.decode(ids[b : b + 1, i : i + 1]) for i in range(60, 70)], 1))
            held += s.state_bytes().payload
        s.reset()
        batch = [s.prefill_packed([ids[b, :n] for b, n in enumerate(lengths)], chunk=chunk)]
        assert s.state_bytes() == s.footprint().held
        batch += [s.decode(ids[:, i : i + 1]) for i in range(60, 70)]
        assert s.state_bytes() == s.footprint().held
        assert s.state_bytes().payload == held
    tolerance = 1e-4 if chunk is None or method.chunk_invariant else 1.0
    assert torch.allclose(torch.stack(batch, 1), torch.cat(alone), atol=tolerance)


def test_packed_rows_work_on_no_padding(model: Any) -> None:
    ids, lengths = tokens(4), (60, 5, 5, 5)
    mask = torch.zeros(4, 60, dtype=torch.long)
    for b, n in enumerate(lengths):
        mask[b, 60 - n :] = 1
    peaks = []
    for packed in (True, False):
        with track("cpu", external=model.parameters()) as memory, Session(model, methods.Dense()) as s:
            memory.tell_apart(lambda: s.state, model.get_output_embeddings())
            if packed:
                s.prefill_packed([ids[b, :n] for b, n in enumerate(lengths)])
            else:
                s.prefill(ids[:, :60], attention_mask=mask)
            held = s.state_bytes()
            peaks.append(memory.peak_parts)
    less, more = peaks
    assert held.live == less.state + less.slack == more.state + more.slack
    assert less.activations < more.activations / 2, "75 tokens are worked on instead of 240"


def test_a_packed_forward_holds_pieces_of_rows_in_order() -> None:
    assert pack([3, 5], None) == [[Piece(0, 0, 3), Piece(1, 0, 5)]]
    assert pack([3, 5, 1], 4) == [
        [Piece(0, 0, 3), Piece(1, 0, 1)],
        [Piece(1, 1, 5)],
        [Piece(2, 0, 1)],
    ]


def test_what_cannot_be_packed_says_so(model: Any) -> None:
    rows = [tokens()[0, :4], tokens()[1, :7]]
    with Session(model, methods.Recompute()) as s, pytest.raises(ValueError, match="cannot read packed prompts"):
        s.prefill_packed(rows)
    with Session(model, methods.Dense()) as s:
        with pytest.raises(ValueError, match="each of at least one token"):
            s.prefill_packed([rows[0], rows[1][:0]])
        with pytest.raises(ValueError, match="chunk 0"):
            s.prefill_packed(rows, chunk=0)
        s.prefill_packed(rows)
        with pytest.raises(RuntimeError, match="reset"):
            s.prefill_packed(rows)


def test_a_mask_that_is_not_left_padding_is_refused() -> None:
    ids = tokens()[:, :4]
    assert left_pads(torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]), ids) == (0, 2)
    assert left_pads(torch.ones(2, 4), ids) is None
    for mask, reason in (
        ([[1, 1, 1, 1], [1, 1, 0, 0]], "on the left"),
        ([[1, 1, 1, 1], [0, 1, 0, 1]], "on the left"),
        ([[1, 1, 1, 1], [0, 0, 0, 0]], "without a token"),
        ([[1, 1, 1, 1]], "differ"),
    ):
        with pytest.raises(ValueError, match=reason):
            left_pads(torch.tensor(mask), ids)


# ------------------------------------------------------------------------------------------- copies


@every_method
def test_a_fork_goes_its_own_way(model: Any, method: Method) -> None:
    ids, other = tokens(), tokens(seed=4)
    with Session(model, method) as s:
        s.prefill(ids[:, :PROMPT])
        s.decode(ids[:, 50:52])
        expected = s.decode(ids[:, 52:53])
        s.reset()
        s.prefill(ids[:, :PROMPT])
        s.decode(ids[:, 50:52])
        child = s.fork()
        before = s.state_bytes()
        assert child.state_bytes() == before
        assert child.last_logits is s.last_logits
        child.generate(6)
        child.decode(other[:, :9])
        assert (child.n_tokens, s.n_tokens) == (67, 52)
        assert s.state_bytes() == before
        grandchild = child.fork()
        child.reset()
        grandchild.decode(other[:, :1])
        assert torch.equal(s.decode(ids[:, 52:53]), expected)


def test_a_fork_and_its_parent_share_what_is_frozen(model: Any) -> None:
    with Session(model, methods.Dense()) as s:
        s.prefill(tokens())
        child = s.fork()
        together = measure([s.state, child.state]).live
        assert together == s.state_bytes().live + child.state_bytes().live  # dense freezes nothing


def test_a_fork_lives_no_longer_than_what_is_open(model: Any) -> None:
    with Session(model, methods.Dense()) as s:
        s.prefill(tokens())
        child = s.fork()
        expected = s.fork().decode(tokens()[:, :1])
    with pytest.raises(RuntimeError, match="inside `with"):
        child.decode(tokens()[:, :1])
    with child:
        assert torch.equal(child.decode(tokens()[:, :1]), expected)
    assert model.config._attn_implementation == "sdpa"


@every_method
def test_a_snapshot_restores_in_another_session(model: Any, method: Method) -> None:
    ids = tokens()
    file = io.BytesIO()
    with Session(model, method) as s:
        s.prefill(ids[:, :PROMPT])
        s.decode(ids[:, 50:53])
        torch.save(s.snapshot(), file)
        held, expected = s.state_bytes(), s.decode(ids[:, 53:60])
    file.seek(0)
    with Session(model, method) as s:
        s.restore(torch.load(file, weights_only=True))
        assert s.state_bytes() == s.footprint().held == held
        assert (s.n_tokens, s.new_tokens) == (53, 3)
        assert torch.equal(s.decode(ids[:, 53:60]), expected)


def test_a_snapshot_of_padded_rows_restores(model: Any) -> None:
    ids = tokens()
    mask = torch.ones(2, PROMPT, dtype=torch.long)
    mask[1, :9] = 0
    with Session(model, methods.Sinks(window=12, sinks=4)) as s:
        s.prefill(ids[:, :PROMPT], attention_mask=mask)
        saved = s.snapshot()
        expected = s.decode(ids[:, 50:51])
        s.restore(saved)
        assert torch.equal(s.decode(ids[:, 50:51]), expected)
        s.restore(saved)
        assert torch.equal(s.fork().decode(ids[:, 50:51]), expected)


def test_a_snapshot_of_another_method_is_refused(model: Any) -> None:
    with Session(model, methods.Dense()) as s:
        s.prefill(tokens())
        saved = s.snapshot()
    with Session(model, methods.Window(window=8)) as s, pytest.raises(ValueError, match="this snapshot is of method"):
        s.restore(saved)


def test_an_adopted_prefix_equals_a_prefill(model: Any) -> None:
    ids = tokens()

    @dataclass(frozen=True)
    class Keeping(methods.Recompute):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
            kept.append((q.clone(), k.clone(), v.clone()))
            return super().attend(q, k, v, state, layer, step)

    kept: list[Any] = []
    with Session(model, Keeping()) as s:
        logits = s.prefill(ids[:, :PROMPT])
    prefix, queries = [(k, v) for _, k, v in kept], [q[:, :, -8:] for q, _, _ in kept]
    for method in (methods.Dense(), methods.SnapKV(budget=24, window=8), methods.Kivi(bits=4, group=16, residual=16)):
        with Session(model, method) as s:
            s.prefill(ids[:, :PROMPT])
            held, expected = s.state_bytes(), s.decode(ids[:, 50:51])
            s.reset()
            assert torch.equal(s.adopt(prefix, logits, queries=queries), logits)
            assert s.state_bytes() == s.footprint().held == held
            assert torch.allclose(s.decode(ids[:, 50:51]), expected, atol=1e-5)
    with Session(model, methods.Sinks(window=12, sinks=4)) as s, pytest.raises(ValueError, match="prefill instead"):
        s.adopt(prefix, logits)


# ------------------------------------------------------------------------------------------- layers


def test_layers_may_have_methods_of_their_own(model: Any) -> None:
    ids = tokens()
    method = methods.PerLayer(methods.Dense(), ((methods.Layers("1"), methods.Window(window=8)),))
    with Session(model, method) as s:
        logits = s.prefill(ids)
        held = [measure(state).payload for state in s.states]
        assert s.state_bytes() == s.footprint().held
    assert held == [2 * 70 * 256, 2 * 8 * 256, 2 * 70 * 256]
    assert not torch.allclose(logits, own(model, ids)[:, -1], atol=1e-3)


def test_methods_that_cannot_serve_a_layer_are_refused(model: Any) -> None:
    unknown = methods.PerLayer(methods.Dense(), ((methods.Layers("3"), methods.Window(window=8)),))
    with pytest.raises(ValueError, match=r"layers \[3\] do not exist"):
        Session(model, unknown).__enter__()
    choice = (methods.Layers("1"), methods.Recompute())
    with pytest.raises(ValueError, match="drives the whole model"):
        methods.PerLayer(methods.Dense(), (choice,))
    with pytest.raises(ValueError, match="group"):
        Session(model, methods.Kivi(bits=4, group=48, residual=48)).__enter__()
    assert model.config._attn_implementation == "sdpa"


def test_seal_visits_each_state_once_and_is_idempotent(model: Any) -> None:
    sealed: list[int] = []

    @dataclass(frozen=True)
    class Counting(methods.Recompute):
        def seal(self, state: Any, layer: Layer) -> None:
            sealed.append(layer.index)

    with Session(model, Counting()) as s:
        s.prefill(tokens())
        s.seal()
        s.seal()
    assert sealed == [0, 1, 2]


def test_a_layer_is_prefetched_before_the_one_in_front_attends(model: Any) -> None:
    log: list[tuple[str, int]] = []

    @dataclass(frozen=True)
    class Noting(methods.Recompute):
        def prefetch(self, state: Any, layer: Layer) -> None:
            log.append(("prefetch", layer.index))

        def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
            log.append(("attend", layer.index))
            return super().attend(q, k, v, state, layer, step)

    with Session(model, Noting()) as s:
        s.prefill(tokens())
    assert log == [("prefetch", 1), ("attend", 0), ("prefetch", 2), ("attend", 1), ("attend", 2)]


def test_a_method_may_drive_the_model(model: Any) -> None:
    """Two passes over each chunk, the first of them not remembered; hidden states and embeddings on request."""
    ids = tokens()

    @dataclass(frozen=True)
    class Twice(methods.Cached):
        def drive(self, run: Any, ids: Tensor, session: Session) -> Tensor:
            before = session.state_bytes().payload
            looked = run(ids, phase="score", keep=None)
            assert session.state_bytes().payload == before
            assert looked.shape == (*ids.shape, 97)
            hidden = run(ids, phase="score", hidden=True)
            embeds = session.model.get_input_embeddings()(ids)
            again = run(embeds=embeds, phase="score", keep=2)
            assert torch.allclose(again, looked[:, -2:], atol=1e-5)
            assert torch.allclose(session.model.lm_head(hidden), looked, atol=1e-5)
            out = run(ids)
            assert torch.allclose(out[:, -1], looked[:, -1], atol=1e-5)
            return out

    expected = own(model, ids)
    with Session(model, Twice()) as s:
        assert torch.allclose(s.prefill(ids[:, :PROMPT], chunk=16), expected[:, PROMPT - 1], atol=1e-5)
        assert torch.allclose(s.decode(ids[:, PROMPT:]), expected[:, -1], atol=1e-5)


# ------------------------------------------------------------------------------------------- errors


def test_calls_out_of_order_say_so(model: Any) -> None:
    ids = tokens()
    s = Session(model, methods.Dense())
    with pytest.raises(RuntimeError, match="inside `with"):
        s.prefill(ids)
    with s:
        for call in (lambda: s.decode(ids), lambda: s.generate(3), lambda: next(s.forced(ids)), s.seal):
            with pytest.raises(RuntimeError, match="before prefill"):
                call()
        with pytest.raises(RuntimeError, match="open already"):
            s.__enter__()
        s.prefill(ids[:, :20])
        with pytest.raises(RuntimeError, match="after seal"):
            s.prefill(ids[:, 20:30])
        s.decode(ids[:, 20:21])
        with pytest.raises(RuntimeError, match="after decode"):
            s.prefill(ids[:, 20:30])
        assert s.n_tokens == 21
    with pytest.raises(RuntimeError, match="inside `with"):
        s.decode(ids)


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (torch.zeros(5, dtype=torch.long), "2 rows, and 5 were given"),  # a token a row
        (torch.zeros(2, 5, 1, dtype=torch.long), r"integers \[B, T\]"),
        (torch.zeros(2, 0, dtype=torch.long), r"integers \[B, T\]"),
        (torch.zeros(2, 5), r"integers \[B, T\]"),
        (torch.zeros(3, 5, dtype=torch.long), "2 rows, and 3 were given"),
    ],
)
def test_wrong_shapes_are_refused_and_nothing_is_lost(model: Any, ids: Tensor, reason: str) -> None:
    with Session(model, methods.Dense()) as s:
        s.prefill(tokens())
        with pytest.raises(ValueError, match=reason):
            s.decode(ids)
        assert s.n_tokens == 70
        s.decode(tokens()[:, :1])


def test_a_chunk_of_nothing_and_no_new_token_are_refused(model: Any) -> None:
    with Session(model, methods.Dense()) as s:
        with pytest.raises(ValueError, match="holds no token"):
            s.prefill(tokens(), chunk=0)
        s.prefill(tokens())
        with pytest.raises(ValueError, match="asks for no token"):
            s.generate(0)


def test_a_context_beyond_the_models_positions_is_refused(model: Any) -> None:
    long = tokens(1, 150)
    for method in (methods.Dense(), methods.Sinks(window=12, sinks=4, positions="original"), methods.Recompute()):
        with Session(model, method) as s:
            with pytest.raises(UsageError, match="longer than the 128 positions"):
                s.prefill(long, chunk=32)
            assert s.n_tokens == 0
            s.prefill(long[:, :128])
            with pytest.raises(UsageError, match="longer than the 128 positions"):
                s.generate(1)
            with pytest.raises(UsageError, match="longer than the 128 positions"):
                s.decode(long[:, 128:129])
            assert s.n_tokens == 128
    for method in (methods.Sinks(window=12, sinks=4), methods.Window(window=16)):  # no distance grows
        with Session(model, method) as s:
            assert s.prefill(long, chunk=32).isfinite().all()


def test_a_failing_forward_leaves_the_session_without_a_text(model: Any) -> None:
    @dataclass(frozen=True)
    class Failing(methods.Cached):
        def attend(self, q: Tensor, k: Tensor, v: Tensor, state: Any, layer: Layer, step: Step) -> Tensor:
            if layer.index == 1 and step.phase == "decode":
                raise MemoryError("no memory")
            return super().attend(q, k, v, state, layer, step)

    ids = tokens()
    with Session(model, Failing()) as s:
        expected = s.prefill(ids)
        with pytest.raises(MemoryError, match="no memory") as raised:
            s.decode(ids[:, :1])
        assert raised.value.__notes__ == ["the session was reset; prefill again"]
        assert s.n_tokens == 0
        assert s.state_bytes() == Bytes()
        with pytest.raises(RuntimeError, match="before prefill"):
            s.decode(ids[:, :1])
        assert torch.equal(s.prefill(ids), expected)
        child = s.fork()
        with pytest.raises(MemoryError):
            child.decode(ids[:, :1])
        assert s.n_tokens == 70
