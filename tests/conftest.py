"""Every test runs offline, from one seed, on one thread, with deterministic kernels; those that need a GPU say so."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest

# Set before anything imports torch, transformers, wandb or matplotlib, and inherited by the processes that tests start.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    TRANSFORMERS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
    MPLBACKEND="Agg",
    OMP_NUM_THREADS="1",  # the workers share the cores
    CUBLAS_WORKSPACE_CONFIG=":4096:8",  # what deterministic kernels on CUDA ask for
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    wanting = [item for item in items if "gpu" in item.keywords]
    if not wanting:
        return
    import torch

    if not torch.cuda.is_available():
        for item in wanting:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def tables_as_wide_as_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's own width would cut the tables that commands print."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def no_log_into_a_closed_stream() -> None:
    """Hydra's logging keeps the captured stream of the test that first ran a command."""
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    for logger in loggers:
        for handler in list(logger.handlers):
            if isinstance(handler, logging.StreamHandler) and getattr(handler.stream, "closed", False):
                logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def deterministic(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed torch, where the test module has imported it: a test of the analysis must not."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    torch.manual_seed(0)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms("gpu" not in request.keywords)
    yield
    torch.use_deterministic_algorithms(before)
