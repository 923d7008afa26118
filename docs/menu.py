"""The menu of the documentation: what mkdocs.yml orders, and every other page under "How to"."""

from __future__ import annotations

from pathlib import Path
from typing import Any

REST = "How to"


def on_config(config: Any) -> Any:
    """Add pages that the menu does not name; MkDocs calls it (mkdocs.yml, hooks)."""
    docs = Path(config["docs_dir"])
    named = set(pages(config["nav"]))
    others = sorted({page.relative_to(docs).as_posix() for page in docs.rglob("*.md")} - named)
    next(section[REST] for section in config["nav"] if isinstance(section, dict) and REST in section).extend(others)
    return config


def pages(nav: Any) -> list[str]:
    """The pages that a menu names, in their order."""
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in pages(part)]
