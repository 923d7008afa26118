"""kvfrontier measures what long context costs, and what each way of paying less loses.

    from kvfrontier import Session, methods
    with Session(model, methods.Sinks(window=252, sinks=4)) as session: ...

The public names resolve on first use (PEP 562), so that importing one of them, or `kvfrontier.analysis`, loads nothing
that it does not need.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvfrontier import methods
    from kvfrontier.runners.plan.ask import plan
    from kvfrontier.runners.record import load_records
    from kvfrontier.runners.session import Session

    __version__: str

#: Public name -> (module, attribute of it; None: the module itself).
_PUBLIC: dict[str, tuple[str, str | None]] = {
    "Session": ("kvfrontier.runners.session", "Session"),
    "load_records": ("kvfrontier.runners.record", "load_records"),
    "methods": ("kvfrontier.methods", None),
    "plan": ("kvfrontier.runners.plan.ask", "plan"),
}

__all__ = ["Session", "__version__", "load_records", "methods", "plan"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _installed_version()
    elif name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        value = import_module(module)
        if attribute is not None:
            value = getattr(value, attribute)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it offers {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _installed_version() -> str:
    """The version of the installed distribution; "unknown" where the sources run without an installation."""
    try:
        return _version("kvfrontier")
    except PackageNotFoundError:
        return "unknown"
