"""`kvfrontier lm-eval ...`: lm-evaluation-harness's own command line, to which the model `kvfrontier` is known.

Releases of the harness that read the entry points `lm_eval.models` know it by themselves: there `lm_eval --model
kvfrontier` is the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kvfrontier.runners.harness import NAME, require


def run(args: Sequence[str]) -> int:
    """Run the harness with these arguments; its exit code. Raises UsageError where it is not installed, and for
    model_args that describe no cell."""
    require()
    register()
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    before, sys.argv = sys.argv, ["kvfrontier lm-eval", *args]
    try:
        cli_evaluate()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    finally:
        sys.argv = before
    return 0


def register() -> None:
    """Make our model known to the harness by its name; loaded when it is asked for."""
    import lm_eval.models  # noqa: F401  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import model_registry  # pyright: ignore[reportMissingImports]

    if NAME not in model_registry:
        model_registry.register(NAME, target=f"{__package__}.model:KVFrontierLM")
