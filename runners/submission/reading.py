"""Lines of a file that anybody may have written: nothing in them is run, and none is larger than a record can be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kvfrontier.runners.record import SCHEMA_VERSION, Record

#: Bytes of a file, of a line, of a single text in a record; how deep values are nested.
FILE, LINE, TEXT, DEPTH = 256 * 2**20, 8 * 2**20, 100_000, 30
#: Texts hold no control characters but line ends and tabs: they reach terminals and pages. Only what a model generated
#: may, which is kept as it was.
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Line:
    """One line of a file: its record, or what is wrong with it."""

    number: int
    record: Record | None
    problem: str = ""


def lines(path: Path) -> Iterator[Line]:
    """Every line of a file that is not empty. Never raises for what stands in it; raises OSError."""
    size = path.stat().st_size
    if size > FILE:
        yield Line(0, None, f"{size:,} bytes, and a file may have {FILE:,}; split it")
        return
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE + 1):
            number += 1
            if len(line) > LINE:
                yield Line(number, None, f"longer than {LINE:,} bytes; no record is, and the rest is not read")
                return
            if not line.isspace():
                yield _line(number, line)


def _line(number: int, line: bytes) -> Line:
    try:
        data = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        return Line(number, None, f"not JSON ({type(error).__name__}: {str(error)[:200]})")
    problem = _unfit(data)
    if problem:
        return Line(number, None, problem)
    version = data.get("schema_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        told = f"schema version {version}, and this kvfrontier reads up to {SCHEMA_VERSION}; upgrade kvfrontier"
        return Line(number, None, told)
    try:
        return Line(number, Record.model_validate(data))
    except (ValidationError, RecursionError) as error:
        errors = error.errors(include_url=False, include_input=False)[:3] if isinstance(error, ValidationError) else []
        wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in errors) or str(error)
        return Line(number, None, f"not a record ({wrong[:500]})")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys are said once: of two, readers would not agree which counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def _unfit(value: Any, depth: int = 0, generated: bool = False) -> str:
    """What is unfit in a value, wherever in it; empty where nothing is. `generated`: it may hold a model's words."""
    if depth > DEPTH:
        return f"nested deeper than {DEPTH}"
    if isinstance(value, str):
        if len(value) > TEXT:
            return f"a text of {len(value):,} characters, and one may have {TEXT:,}"
        return "a control character in a text" if not generated and _CONTROL.search(value) else ""
    if isinstance(value, dict):
        parts = [(key, generated) for key in value]
        parts += [(part, generated or key == "samples") for key, part in value.items()]
    else:
        parts = [(part, generated) for part in value] if isinstance(value, list) else []
    return next((found for part, words in parts if (found := _unfit(part, depth + 1, words))), "")
