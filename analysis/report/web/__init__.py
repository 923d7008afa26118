"""The page in its two forms: one file with everything inside, and a folder for a web server.

Both have the same template, style and scripts. The scripts make elements and text, never HTML, so that text from
records stays text; as a second lock the page's policy lets no script run but these, and no request go anywhere else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from kvfrontier.analysis import style
from kvfrontier.analysis.report import tables
from kvfrontier.analysis.report.libraries import libraries, notices

_HERE = Path(__file__).parent
#: The page's own scripts, in this order: each uses what stands before it.
SCRIPTS = (
    "dom", "state", "drawing", "detail", "filters", "frontier", "board", "cost", "needles", "methods", "advice",
    "trained", "page",
)  # fmt: skip


def pages(data: Mapping[str, Any], explained: Sequence[tables.Field]) -> dict[str, str]:
    """File name -> text of both forms. `explained`: the columns whose meaning is told."""
    script = "\n".join(['"use strict";\n(() => {', *(_text(f"{name}.js") for name in SCRIPTS), "})();\n"])
    released = {one.file: one.text for one in libraries()}
    scripts = {name: text for name, text in released.items() if name.endswith(".js")} | {"page.js": script}
    css = "\n".join([*(text for name, text in released.items() if name.endswith(".css")), _colors(), _text("page.css")])
    # Within a script element only "</" could end it, and "<!--" begin a comment; JSON may write "<" as an escape.
    told = json.dumps(data, allow_nan=False, ensure_ascii=False)
    assert not any("</script" in text.lower() or "<!--" in text for text in scripts.values())
    common = {"data": data, "explained": explained, "flag_words": tables.FLAG_WORDS, "notices": notices()}
    template = _environment().get_template("page.html")
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in scripts.values())
    whole = template.render(
        **common,
        policy=f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:",
        css=Markup(css),
        scripts=[Markup(text) for text in scripts.values()],
        json=Markup(told.replace("<", "\\u003c")),
        folder=None,
    )
    parts = template.render(
        **common,
        policy="default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; "
        "img-src data:",
        folder=[f"assets/{name}" for name in scripts],
    )
    assets = {f"assets/{name}": text for name, text in (scripts | {"page.css": css, "LICENSES.txt": notices()}).items()}
    return {"report.html": whole, "index.html": parts, "data/page.json": told, **assets}


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _colors() -> str:
    """The palette as CSS variables, light and dark."""

    def sheet(which: int) -> str:
        return "".join(f"--{name}:{shades[which]};" for name, *shades in style.themes().values())

    return (
        f":root{{color-scheme:light dark;{sheet(0)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{sheet(1)}}}}}"
        f"@media screen{{:root[data-theme=dark]{{color-scheme:dark;{sheet(1)}}}}}"
        ":root[data-theme=light]{color-scheme:light}"
    )
