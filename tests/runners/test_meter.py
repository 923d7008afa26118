"""The meter: sizes that can be worked out by hand, and times of what was to be timed and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode
from transformers import AutoModelForCausalLM, MistralConfig

from kvfrontier import Session, methods
from kvfrontier.methods.cached import Cached
from kvfrontier.methods.contract import Footprint
from kvfrontier.methods.state import capacity
from kvfrontier.runners import meter
from kvfrontier.runners.guard import guarded
from kvfrontier.runners.meter import Bandwidth, measure_memory, measure_time, quartiles
from kvfrontier.runners.models import load
from kvfrontier.runners.peak import track
from kvfrontier.runners.record import Memory

LAYERS, HKV, D, B, T, R = 2, 2, 16, 2, 150, 5
#: Bytes of one token's keys and values in all layers, per 8 bits an element.
TOKEN = LAYERS * HKV * 2 * D


@pytest.fixture(scope="module")
def model() -> Any:
    sizes = {"layers": LAYERS, "heads": 4, "kv_heads": HKV, "head_dim": D}
    return load({"kind": "tiny", "name": "tiny", **sizes}).model


def ids(n: int, batch: int = B) -> torch.Tensor:
    return torch.randint(3, 100, (batch, n), generator=torch.Generator().manual_seed(n))


def memory_of(model: Any, method: Any, chunk: int | None = 64) -> Any:
    return measure_memory(lambda: Session(model, method), ids(T), ids(R), chunk=chunk, weights=model)


def weights_of(model: nn.Module) -> int:
    tensors = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in model.state_dict().values()}
    return sum(tensors.values()) + sum(b.nbytes for n, b in model.named_buffers() if n not in model.state_dict())


# ------------------------------------------------------------------------------------------ memory


def test_the_sizes_of_dense_attention_worked_out_by_hand(model):
    block = memory_of(model, methods.Dense())
    assert (block.status, block.reason) == ("ok", "")
    assert block.prompt_tokens == T
    assert block.decoded_tokens == R
    assert block.live_payload == block.analytic_payload == block.nominal == B * 4 * TOKEN * (T + R)
    assert block.live_slack == block.analytic_slack == B * 4 * TOKEN * (capacity(T + R) - T - R)
    assert block.sealed_payload == B * 4 * TOKEN * T
    assert block.dense16 == B * 2 * TOKEN * T
    assert block.share16 == 1
    assert block.bytes_read == 4 * TOKEN * (T + R), "of one sequence"
    assert block.live_host == 0
    assert block.weights == weights_of(model)


def test_a_share_is_of_dense_at_16_bits_whatever_the_run_computes_in(model):
    bits, group, residual = 2, 16, 32
    block = memory_of(model, methods.Kivi(bits=bits, group=group, residual=residual))
    assert block.status == "ok", block.reason

    def effective_bits(full: int) -> float:  # DEFINITIONS: an average over the tokens
        return ((bits + 32 / group) * (T - full) + 16 * full) / T

    keys, values = effective_bits(T % residual), effective_bits(min(T, residual))
    assert block.share16 == pytest.approx((keys + values) / 2 / 16)
    assert block.nominal == B * TOKEN * (T + R) * bits // 8, "the claim is of the codes alone"
    assert block.nominal < block.analytic_payload


def test_bounded_methods_hold_their_window_and_nothing_unused(model):
    block = memory_of(model, methods.Sinks(window=28, sinks=4))
    assert block.live_payload == block.sealed_payload == B * 4 * TOKEN * 32
    assert block.live_slack == 0
    assert block.share16 == pytest.approx(32 / T)


def test_a_compressing_method_is_sized_after_its_seal(model):
    block = memory_of(model, methods.SnapKV(budget=40, window=8))
    assert block.sealed_payload == B * 4 * TOKEN * 40
    assert block.live_payload == B * 4 * TOKEN * (40 + R)


def test_the_state_of_a_whole_sequence_counts(model):
    block = memory_of(model, methods.Recompute())
    assert block.status == "ok", block.reason
    assert block.live_payload == block.analytic_payload == block.nominal == B * 8 * (T + R)
    assert block.share16 == 8 * T / (2 * TOKEN * T)
    assert block.dense16 == B * 2 * TOKEN * T


def test_dense_holds_no_more_than_the_models_own_windows():
    sizes: Any = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    }
    config = MistralConfig(vocab_size=128, num_hidden_layers=2, sliding_window=20, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    block = memory_of(model, methods.Kivi(bits=4, group=16, residual=16))
    assert block.status == "ok", block.reason
    assert block.dense16 == B * 2 * (2 * 2 * 16) * 20
    assert block.share16 == 1, "such layers stay as they are"


@pytest.mark.parametrize("where", ["payload", "slack", "after"])
def test_a_footprint_that_is_wrong_fails_with_both_numbers(model, where, monkeypatch):
    honest = Cached.footprint

    def footprint(self, layer, batch, prompt, new=0, sealed=True):
        extra = {"payload": Footprint.of(3), "slack": Footprint.of(0, 3), "after": Footprint.of(3 if new else 0)}[where]
        return honest(self, layer, batch, prompt, new, sealed) + extra

    monkeypatch.setattr(Cached, "footprint", footprint)
    block = memory_of(model, methods.Window(32))
    held = B * 4 * TOKEN * 32
    says = f"{held} bytes of payload and 6 of slack" if where == "slack" else f"{held + 6} bytes of payload"
    assert block.status == "failed"
    assert f"the footprint says {says}" in block.reason
    assert f"the state holds {held} bytes of payload and 0 of slack" in block.reason
    assert block.reason.startswith(f"after {R} decoded tokens" if where == "after" else "at seal")
    assert block.live_payload == held, "the numbers stay, to find the error by"


def test_peaks_hold_weights_and_state_and_chunks_lower_them(model):
    whole, chunked = (memory_of(model, methods.Window(32), chunk) for chunk in (None, 16))
    for block in (whole, chunked):
        assert block.peak == max(block.prefill_peak, block.decode_peak)
        assert block.decode_peak > block.weights + block.live_payload
        assert block.workspace is not None
    assert chunked.prefill_peak - chunked.weights < (whole.prefill_peak - whole.weights) / 2


@pytest.mark.parametrize("chunk", [None, 64])
@pytest.mark.parametrize("method", [methods.Dense(), methods.Paged(block=16), methods.SnapKV(budget=40, window=8)])
def test_a_peak_is_the_sum_of_what_it_is_made_of(model, method, chunk):
    block = memory_of(model, method, chunk)
    for peak, parts in ((block.prefill_peak, block.prefill_parts), (block.decode_peak, block.decode_parts)):
        assert parts.device + parts.host == peak
        assert parts.weights == block.weights
        assert min(parts.model_dump().values()) >= 0
        assert parts.activations > 0
    held = block.decode_parts
    # A decoded token's work is so small that the peak comes when all of it but the last token's is held, or all.
    final = block.live_payload + block.live_slack
    assert final - B * 4 * TOKEN <= held.state + held.slack <= final


def test_what_is_offloaded_is_the_hosts_part_and_what_is_fetched_the_devices(model):
    block = memory_of(model, methods.Offloaded())
    parts = block.decode_parts
    assert parts.device + parts.host == block.decode_peak
    assert parts.host == block.live_host == B * 4 * TOKEN * capacity(T + R)
    assert 0 < parts.state <= B * 4 * TOKEN // LAYERS * (T + R), "no more than a layer's at a time"


def test_what_stays_at_rest_is_weights_state_and_the_last_logits(model):
    with Session(model, methods.Dense()) as before:
        before.prefill(ids(2))  # what the bridge keeps of its first look at a model is no part of this
        block = memory_of(model, methods.Dense())
    vocabulary = model.config.vocab_size
    assert block.resident == block.weights + block.live_payload + block.live_slack + B * vocabulary * 4


def test_all_rows_count_while_one_of_them_is_driven_alone(model):
    method = methods.RMT(segment=32, memory=4)
    prompt = ids(T)
    mask = torch.ones_like(prompt)
    mask[1, :40] = 0
    seen = []
    with track("cpu", external=model.parameters()) as memory, Session(model, method) as session:
        memory.tell_apart(lambda: session.state, model.get_output_embeddings())
        session.prefill(prompt, attention_mask=mask)
        real = session.method.drive

        def drive(run, given, inner):
            seen.append(memory.current_parts.state)
            return real(run, given, inner)

        held = session.state_bytes().payload
        object.__setattr__(session.method, "drive", drive)
        session.decode(ids(1))
    assert seen[0] == held
    assert len(seen) == B


def test_memory_is_the_same_each_time(model):
    first, second = (memory_of(model, methods.Kivi(bits=2, group=16, residual=32)) for _ in range(2))
    assert first.model_dump(exclude={"workspace"}) == second.model_dump(exclude={"workspace"})


def test_a_context_that_does_not_fit_is_a_record(model, monkeypatch):
    def attend(*_):
        return torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(Cached, "attend", attend)
    block = guarded(Memory, lambda: memory_of(model, methods.Dense()))
    assert block.status == "oom"
    monkeypatch.undo()
    assert memory_of(model, methods.Dense()).status == "ok", "and the sweep goes on"


# ------------------------------------------------------------------------------------------ time


@dataclass
class Fake:
    """A session that takes the time it is told to, by a clock of its own, and looks whether somebody watches."""

    prefill_seconds: Callable[[int], float] = lambda run: 1.0
    decode_seconds: float = 1.0
    log: list[Any] = field(default_factory=list)
    now: float = 0.0

    def __enter__(self) -> Fake:
        self.log.append("open")
        self.now += 100
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append("close")
        self.now += 100

    def prefill(self, ids: torch.Tensor, *, chunk: int | None) -> None:
        assert _get_current_dispatch_mode() is None
        assert not torch.autograd._profiler_enabled()  # pyright: ignore[reportPrivateImportUsage]
        self.log.append(("prefill", tuple(ids.shape), chunk))
        self.now += self.prefill_seconds(self.log.count("open"))

    def decode(self, ids: torch.Tensor) -> None:
        self.log.append(("decode", tuple(ids.shape)))
        self.now += self.decode_seconds

    def footprint(self) -> Footprint:
        return Footprint(read=1000)


@pytest.fixture
def timed(monkeypatch):
    monkeypatch.setattr(meter, "bandwidth", lambda device: Bandwidth(copy=1e6, read=2e6))

    def run(fake: Fake, **options: Any) -> Any:
        monkeypatch.setattr("kvfrontier.runners.meter.time.perf_counter", lambda: fake.now)
        open_session: Any = lambda: fake  # noqa: E731
        return measure_time(open_session, ids(10), ids(4), chunk=8, **options)

    return run


def test_each_repetition_is_a_fresh_session_and_warm_ups_are_thrown_away(timed):
    fake = Fake(prefill_seconds=lambda run: 50 if run == 1 else run)
    block = timed(fake, repetitions=3, warmups=1)
    one = ["open", ("prefill", (B, 10), 8), *[("decode", (B, 1))] * 4, "close"]
    assert fake.log == one * 4
    assert block.warmups == 1
    assert block.repetitions == 3
    assert block.prefill.model_dump() == {"q1": 2.5, "median": 3, "q3": 3.5, "n": 3}


def test_decode_is_timed_apart_and_per_token(timed):
    block = timed(Fake(lambda _: 5, 0.25), repetitions=2, warmups=0)
    assert block.prefill.median == 5
    assert block.decode.model_dump() == {"q1": 0.25, "median": 0.25, "q3": 0.25, "n": 2}
    assert block.prefill_tokens_per_second == B * 10 / 5
    assert block.decode_tokens_per_second == B / 0.25
    assert block.mbu is None


def test_the_utilisation_is_of_what_must_be_read(timed):
    block = timed(Fake(decode_seconds=0.25), repetitions=1, weights=nn.Linear(100, 10))
    assert block.mbu == pytest.approx((4 * 1010 + B * 1000) / 0.25 / 2e6)
    assert (block.copy_bandwidth, block.read_bandwidth) == (1e6, 2e6)


def test_nothing_to_time_is_refused(timed):
    with pytest.raises(ValueError, match="0 repetitions of 4 decoded tokens measure nothing"):
        timed(Fake(), repetitions=0)


def test_a_real_session_is_timed(model, monkeypatch):
    monkeypatch.setattr(meter, "bandwidth", lambda device: Bandwidth(copy=1e9))

    def open_session() -> Session:
        return Session(model, methods.Dense())

    block: Any = measure_time(open_session, ids(64), ids(3), chunk=32, repetitions=2, weights=model)
    assert block.status == "ok"
    assert 0 < block.decode.median < block.prefill.median
    assert block.mbu > 0


def test_quartiles_lie_between_the_values():
    assert quartiles([3.0]).model_dump() == {"median": 3, "q1": 3, "q3": 3, "n": 1}
    assert quartiles([4.0, 1.0, 2.0]).model_dump() == {"median": 2, "q1": 1.5, "q3": 3, "n": 3}


# ------------------------------------------------------------------------------------------ bandwidth


def test_a_copy_counts_twice_and_the_device_is_measured_once(monkeypatch):
    calls = []

    def fastest(act, device):
        calls.append(act)
        act()
        return 0.5

    monkeypatch.setattr(meter, "_fastest", fastest)
    monkeypatch.setattr(meter, "MIB", 1024)
    meter._bandwidth.cache_clear()
    first = meter.bandwidth("cpu")
    assert first == Bandwidth(copy=2 * 256 * 1024 / 0.5, read=256 * 1024 / 0.5)
    assert first.best == first.read
    assert meter.bandwidth(torch.device("cpu")) is first
    assert len(calls) == 2
    meter._bandwidth.cache_clear()


def test_a_gpus_utilisation_is_of_its_copy_bandwidth():
    assert Bandwidth(copy=4.3e12).best == 4.3e12


@pytest.mark.slow
def test_this_machines_bandwidth_is_plausible():
    here: Any = meter.bandwidth("cpu")
    assert 1e8 < here.copy < 1e13
    assert 1e8 < here.read < 1e13
