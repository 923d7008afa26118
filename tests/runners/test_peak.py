"""The peak of what tensors hold, against peaks worked out by hand, and against torch's profiler."""

from __future__ import annotations

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile

from kvfrontier.methods.state import Buf, Host
from kvfrontier.runners.peak import _peak_of_allocations, _without_kineto_chatter, storage_bytes, track
from kvfrontier.runners.record import Parts

KIB = 1024


def kib(n: float, **options) -> torch.Tensor:
    return torch.zeros(int(n * KIB), dtype=torch.uint8, **options)


def test_a_peak_worked_out_by_hand():
    with track("cpu") as memory:
        a = kib(3)
        b = kib(5)  # a and b: 8
        assert memory.current == 8 * KIB
        del a  # 5
        c = b + 1  # b and c: 10, the peak
        d = c.view(2, -1).t()  # the same storage
        del b, c
        assert d.numel() == memory.current == 5 * KIB
    assert memory.peak == 10 * KIB


def test_temporaries_of_an_expression_count():
    with track("cpu") as memory:
        x = kib(1)
        y = (x + 1) * 2  # x, x + 1 and y at once
        del x, y
        assert memory.current == 0
    assert memory.peak == 3 * KIB


def test_phases_have_peaks_of_their_own():
    with track("cpu") as memory:
        kept, spare = kib(1), kib(9)
        assert memory.peak == 10 * KIB
        del spare
        memory.reset_peak()
        assert memory.peak == KIB
        more = kib(2)
        del more
    assert memory.peak == 3 * KIB
    assert kept.numel() == KIB


def test_what_was_there_counts_where_it_is_named():
    weights, state, ids = kib(7), kib(2), kib(4)
    with track("cpu", external=[weights, weights[:10], state]) as memory:
        assert memory.current == 9 * KIB
        view = ids[:100]  # of a tensor that was not named
        ids.add_(1)
        assert memory.current == 9 * KIB
        del state  # existing state that is given up
        assert memory.current == 7 * KIB
        del view
    assert memory.peak == 9 * KIB


def test_what_python_makes_counts_and_what_it_only_hands_over_does_not():
    there = torch.ones(8)
    with track("cpu") as memory:
        made = torch.tensor([1.0, 2.0])
        assert memory.current == 8
        same = torch.as_tensor(there).reshape(2, 4)
        assert memory.current == 8
    del made, same


class Toy(nn.Module):
    """A body whose activations are known, and a head that makes logits of 100 bytes a position."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(16, 16, bias=False), nn.Linear(16, 50, bias=False, dtype=torch.bfloat16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).bfloat16())


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_peak_is_made_of_parts_worked_out_by_hand(mode):
    toy, cache = Toy(), []
    weights = 16 * 16 * 4 + 16 * 50 * 2
    with mode(), track("cpu", external=toy.parameters()) as memory:
        memory.tell_apart(lambda: cache, toy.head)
        assert memory.peak_parts == Parts(weights=weights)
        cache += [Buf(torch.zeros(1, 1, 10, 4), 7), Host(torch.zeros(3, 4)), toy.body.weight]
        x = torch.zeros(2, 16)
        held = {"weights": weights, "state": 7 * 16, "slack": 3 * 16, "host": 48}
        assert memory.current_parts == Parts(**held, activations=128)
        memory.reset_peak()
        scores = toy(x).float()
        # The peak is where the copy stands beside its original; what the body gave has gone.
        assert memory.peak_parts == Parts(**held, activations=128, logits=2 * 50 * 2 + 2 * 50 * 4)
        assert memory.peak == memory.peak_parts.device + memory.peak_parts.host
        chosen = scores.argmax(-1)
        embedded = torch.zeros(50, 8)[chosen]
        assert memory.current_parts == Parts(**held, activations=128 + chosen.nbytes + embedded.nbytes, logits=400)
        del scores, x
        cache.clear()
    assert memory.current_parts == Parts(weights=weights, activations=chosen.nbytes + embedded.nbytes)
    assert not toy.head._forward_hooks
    assert not toy.head._forward_pre_hooks


def test_what_a_state_had_before_the_block_is_in_no_part():
    before, head = kib(3), nn.Linear(1, 1)
    with track("cpu") as memory:
        memory.tell_apart(lambda: [before], head)
        made = kib(1)
        assert memory.peak_parts == Parts(activations=KIB)
    del made


def test_a_storage_that_grows_in_place_counts_at_its_new_size():
    with track("cpu") as memory:
        x = kib(1)
        x.resize_(4 * KIB)
    assert memory.current == memory.peak == 4 * KIB
    assert x.numel() == 4 * KIB


def test_several_outputs_and_lists_count():
    with track("cpu") as memory:
        values, indices = kib(1).sort()
        pieces = list(torch.zeros(4, 8).unbind())  # views
        assert memory.current == values.nbytes + indices.nbytes + 4 * 8 * 4
        made = torch._foreach_add(pieces, 1.0)  # pyright: ignore[reportPrivateImportUsage]
        assert memory.current == values.nbytes + indices.nbytes + 2 * 4 * 8 * 4
    del made


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_mode_shows_what_composite_operators_hold(mode):
    """linear over three dimensions, einsum, layer_norm, reshape of a transposed tensor: made of several operators."""

    def work() -> torch.Tensor:
        x = F.linear(torch.zeros(2, 16, 64), weight, bias)
        attention = torch.einsum("bqd,bkd->bqk", x, F.layer_norm(x, (64,))).softmax(-1)
        return torch.matmul(attention, x).transpose(1, 2).reshape(2, 64, 16) + x.transpose(1, 2)

    bias = torch.zeros(64)
    weight = torch.zeros(64, 64)
    with mode():
        with track("cpu", external=[weight, bias]) as memory:
            work()
        assert memory.peak - weight.nbytes - bias.nbytes == allocator_peak(work)


def allocator_peak(work) -> int:
    with _without_kineto_chatter():
        profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        profiler.start()
    work()
    with _without_kineto_chatter():
        profiler.stop()
    return _peak_of_allocations(profiler)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(64), nn.Linear(64, 192), nn.Linear(64, 64)
        self.mlp = nn.Sequential(nn.Linear(64, 256), nn.SiLU(), nn.Linear(256, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
        logits = (q @ k.transpose(-1, -2)) / 4
        x = x + self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return x + self.mlp(x)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_model_peaks_where_the_profiler_says(mode):
    model = nn.Sequential(*(Block() for _ in range(3)))
    x = torch.randn(2, 100, 64)
    with mode():
        with track("cpu", external=model.parameters(), workspace=True) as memory:
            model(x)
        assert memory.peak - storage_bytes(model.parameters()) == allocator_peak(lambda: model(x))
    assert memory.workspace == 0


def test_gradients_that_are_saved_for_backward_count():
    x = torch.randn(1000, requires_grad=True)
    with track("cpu") as memory:
        y = x.exp().exp().sum()  # both results are kept for backward
        assert memory.current == 2 * 4000 + 4
        y.backward()
        del y
        gc.collect()
        assert memory.current == 4000  # the gradient
        assert x.grad is not None


def test_temporaries_in_a_kernel_stand_apart_as_workspace():
    q, k, v = torch.randn(3, 1, 4, 256, 64).unbind()
    with torch.no_grad():
        with track("cpu", workspace=True) as memory:
            out = F.scaled_dot_product_attention(q, k, v)
        # The output, and the logarithm of the sums that the kernel returns besides, and the composite drops.
        lse = 4 * 256 * 4
        assert memory.peak == out.nbytes + lse
        assert memory.workspace is not None
        assert memory.workspace > 0
        total = allocator_peak(lambda: F.scaled_dot_product_attention(q, k, v))
    assert memory.peak + memory.workspace == total


def test_fake_tensors_peak_as_real_ones_do():
    def work() -> int:
        model = Block()
        with track("cpu", external=model.parameters()) as memory:
            model(torch.zeros(2, 50, 64))
        return memory.peak

    with torch.no_grad():
        real = work()
        with FakeTensorMode():
            assert work() == real


def test_the_block_ends_as_it_should_when_memory_runs_out():
    with pytest.raises(RuntimeError, match="can't allocate memory"), track("cpu", workspace=True) as memory:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert memory.workspace == 0
    before = memory.current
    kept = kib(1)
    assert memory.current == before, "nothing is watched any more"
    del kept


def test_the_profilers_chatter_is_kept_away_and_other_words_pass(capfd):
    with _without_kineto_chatter():
        import os

        os.write(2, b"USDT:2026 profiler_start\na real warning\n")
    assert capfd.readouterr().err == "a real warning\n"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_counts_what_is_ours():
    others = torch.zeros(1 << 20, device="cuda")
    weights = torch.zeros(1 << 18, device="cuda")
    with track("cuda", external=[weights]) as memory:
        assert memory.current == weights.nbytes
        x = torch.zeros(1 << 19, device="cuda")
        del x
        assert memory.peak == weights.nbytes + (1 << 21)
        assert memory.peak_parts == Parts(weights=weights.nbytes, activations=1 << 21)
        memory.reset_peak()
        assert memory.peak == weights.nbytes
    assert memory.allocator_waste is not None
    assert memory.allocator_waste >= 0
    assert others.numel() == 1 << 20
