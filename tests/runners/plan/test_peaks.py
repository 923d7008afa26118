"""What fake tensors predict is what a run on the CPU holds, to the byte."""

from dataclasses import replace

import pytest
import torch

from kvfrontier.methods import Dense, registry
from kvfrontier.runners import compose, meter, models
from kvfrontier.runners.plan import peaks as predicted
from kvfrontier.runners.plan.peaks import Run, peaks
from kvfrontier.runners.session import Session

METHODS = {
    "dense": {}, "window": {"window": 40}, "kivi2": {"residual": 32, "group": 16}, "int8": {"residual": 0, "group": 16},
    "paged": {}, "snapkv": {"budget": 64}, "h2o": {"budget": 64, "block": 16}, "moving_average": {},
}  # fmt: skip
CELLS = [(method, dtype, chunk, batch) for method in METHODS for dtype in ("float32", "bfloat16")
         for chunk, batch in ((None, 1), (64, 1), (64, 2), (100, 1))]  # fmt: skip


def run_of(method, dtype="float32", chunk: int | None = 64, batch=1, prompt=290, **options):
    compose.register()
    params = registry.complete({**compose.choice("method", method), **METHODS.get(method, {})})
    return Run({"kind": "tiny", "dtype": dtype}, params, batch, prompt, 4, chunk, **options)


def measured(run):
    """Peaks of a real run on the CPU, by the meter. The bridge is there and has looked at the model before, so that
    what it keeps of its look, some hundred bytes, counts in neither."""
    model = models.skeleton({**run.model, "device": "cpu"})  # outside of a fake mode its parameters are real
    ids = torch.randint(250, (run.batch, run.prompt + run.new), generator=torch.Generator().manual_seed(0))
    prompt, decode = ids[:, : run.prompt], ids[:, run.prompt :]
    with Session(model, Dense()) as before:
        before.prefill(ids[:, :2])
        method = registry.build(run.method)
        return meter.measure_memory(lambda: Session(model, method), prompt, decode, chunk=run.chunk, weights=model)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(map(str, cell)))
def test_the_predicted_peak_is_the_measured_one_to_the_byte(cell):
    run = run_of(*cell)
    real, fake = measured(run), peaks(run)
    assert (fake.prefill, fake.decode) == (real.prefill_peak, real.decode_peak)
    assert (fake.prefill_parts, fake.decode_parts) == (real.prefill_parts, real.decode_parts)


def test_at_least_60_cells_agree():
    assert len(CELLS) >= 60


@pytest.mark.parametrize("prompt", [200, 290, *(pytest.param(n, marks=pytest.mark.slow) for n in (512, 700))])
@pytest.mark.parametrize("method", ["dense", "kivi2", "int8", "paged", "snapkv", "pyramidkv", "keydiff"])
def test_a_text_begun_before_its_last_growth_peaks_as_the_whole(method, prompt):
    run = run_of(method, prompt=prompt)
    assert predicted._simulate(run) == predicted._simulate(run, shortened=False)


def test_a_known_run_is_not_run_again(monkeypatch):
    first = peaks(run_of("dense"))
    monkeypatch.setattr(predicted, "_simulate", lambda *_: pytest.fail("it ran again"))
    assert peaks(run_of("dense")) == first
    with pytest.raises(pytest.fail.Exception):
        peaks(run_of("dense", batch=3))


def test_a_method_whose_shapes_depend_on_data_says_so(monkeypatch):
    from kvfrontier.methods.cached import Cached

    def attend(self, q, k, *_):
        return q[q > 0]

    monkeypatch.setattr(Cached, "attend", attend)
    assert "its shapes depend on data" in predicted._simulate(run_of("window")).why


def test_all_logits_are_held_until_the_next_call():
    last, every = peaks(run_of("dense", chunk=None)), peaks(run_of("dense", chunk=None, logits="all"))
    assert every.decode - last.decode == 289 * 258 * 4


def test_a_run_in_another_dtype_is_another_run():
    run = run_of("dense")
    assert peaks(run) != peaks(replace(run, model={**run.model, "dtype": "bfloat16"}))
