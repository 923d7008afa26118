"""A static step gives what a decoded token gives; what is captured is the call itself, where there is no CUDA."""

from __future__ import annotations

import pytest
import torch

from kvfrontier.methods import Method, registry
from kvfrontier.runners import conformance
from kvfrontier.runners.session import Session
from kvfrontier.runners.static_step import Act, StaticStep


def again(act: Act) -> Act:
    """In place of a graph: the call, after one that spoils the state as warming up does."""
    act()
    return act


def built(name: str) -> Method:
    return registry.build(registry.complete({"name": name}))


@pytest.mark.parametrize("name", ["linear", "retnet", "gla", "deltanet", "gated_deltanet"])
def test_a_static_step_decodes_as_the_session_does(name: str) -> None:
    ids = conformance.tokens(2, 40)
    with torch.no_grad(), Session(conformance.tiny(), built(name)) as session:
        session.prefill(ids[:, :30])
        child = session.fork()
        step = StaticStep(session, again)
        for i in range(30, 40):
            torch.testing.assert_close(step.decode(ids[:, i]), child.decode(ids[:, i]), atol=1e-5, rtol=1e-5)
        assert session.n_tokens == child.n_tokens == 40
        assert session.state_bytes() == child.state_bytes()
        # The session goes on by itself.
        torch.testing.assert_close(session.decode(ids[:, 0]), child.decode(ids[:, 0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["dense", "window", "compressive"])
def test_a_state_that_grows_or_counts_is_refused(name: str) -> None:
    ids = conformance.tokens(1, 31)
    with torch.no_grad(), Session(conformance.tiny(), built(name)) as session:
        session.prefill(ids[:, :30])
        with pytest.raises(ValueError, match="counts tokens in its state, or grows"):
            StaticStep(session, again)


def test_a_graph_needs_cuda() -> None:
    with torch.no_grad(), Session(conformance.tiny(), built("linear")) as session:
        with pytest.raises(RuntimeError, match="before prefill"):
            StaticStep(session)
        session.prefill(conformance.tokens(1, 5))
        with pytest.raises(ValueError, match="needs a CUDA device"):
            StaticStep(session)


@pytest.mark.gpu
def test_a_cuda_graph_decodes_as_the_session_does() -> None:
    import copy

    model = copy.deepcopy(conformance.tiny()).to("cuda")
    ids = conformance.tokens(1, 40).to("cuda")
    with torch.no_grad(), Session(model, built("linear")) as session:
        session.prefill(ids[:, :30])
        child, step = session.fork(), StaticStep(session)
        for i in range(30, 40):
            torch.testing.assert_close(step.decode(ids[:, i]), child.decode(ids[:, i]), atol=1e-3, rtol=1e-3)
