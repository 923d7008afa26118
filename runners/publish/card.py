"""What a data set of records says of itself: the Hub's card, and Croissant metadata (MLCommons, version 1.0)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kvfrontier.runners.record import Record

LICENSE = "apache-2.0"
#: The table of all rows, from which viewers and programs read.
TABLE = "rows.parquet"
_LICENSE_PAGE = "https://www.apache.org/licenses/LICENSE-2.0"
_ABOUT = (
    "What long context costs and what each way of paying less loses: quality, memory and time of attention methods, "
    "measured by kvfrontier."
)


def card(name: str, records: Sequence[Record], rows: int, leaderboard: str) -> str:
    """README.md of the data set: front matter that its viewer reads, what is in it, how to load it, the leaderboard."""
    matter = {
        "pretty_name": name,
        "license": LICENSE,
        "tags": ["kv-cache", "long-context", "attention", "benchmark"],
        "size_categories": [_size(len(records))],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": TABLE}]}],
    }
    lines = [
        "---",
        yaml.safe_dump(matter, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {name}",
        "",
        _ABOUT,
        "",
        f"{len(records)} records in {rows} rows: {_counted(records)}.",
        "",
        "| File | What it holds |",
        "|---|---|",
        f"| `{TABLE}` | one row a method, context and device: scores with intervals, bytes, seconds |",
        "| `records/*.jsonl` | the records themselves, one a line: every sample, every setting, the environment |",
        "| `leaderboard.md`, `leaderboard.csv` | the tables below |",
        "| `report.html` | the page, in one file |",
        "| `croissant.json` | this data set, for programs |",
        "",
        "```python",
        "import polars",
        f'rows = polars.read_parquet("{TABLE}")',
        "",
        "from kvfrontier import load_records",
        'records = load_records("records")',
        "```",
        "",
        "A record that is changed afterwards fails `kvfrontier validate records/`.",
        "",
        leaderboard.strip(),
    ]
    return "\n".join(lines) + "\n"


def croissant(name: str, folder: Path, files: Iterable[Path], schema: Mapping[str, str]) -> dict[str, Any]:
    """Croissant metadata: the files with their sha256, and the columns of the table. `schema`: kind by column."""
    kinds = {"Int64": "sc:Integer", "Float64": "sc:Float", "String": "sc:Text", "Boolean": "sc:Boolean"}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name,
        "description": _ABOUT,
        "license": _LICENSE_PAGE,
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": file.relative_to(folder).as_posix(),
                "name": file.name,
                "contentUrl": file.relative_to(folder).as_posix(),
                "contentSize": f"{file.stat().st_size} B",
                "encodingFormat": _FORMATS.get(file.suffix, "application/octet-stream"),
                "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
            }
            for file in sorted(files)
            if file.suffix in _FORMATS
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "field": [
                    {
                        "@type": "cr:Field",
                        "@id": f"rows/{column}",
                        "name": column,
                        "dataType": kinds.get(kind, "sc:Text"),
                        "source": {"fileObject": {"@id": TABLE}, "extract": {"column": column}},
                    }
                    for column, kind in schema.items()
                ],
            }
        ],
    }


_FORMATS = {
    ".jsonl": "application/jsonlines",
    ".parquet": "application/x-parquet",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".html": "text/html",
}
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "conformsTo": "http://purl.org/dc/terms/conformsTo",
    "recordSet": "cr:recordSet",
    "field": "cr:field",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "source": "cr:source",
    "fileObject": "cr:fileObject",
    "extract": "cr:extract",
    "column": "cr:column",
    "sha256": "cr:sha256",
}


def _counted(records: Sequence[Record]) -> str:
    """Models and devices, each with how many records it has."""
    models = Counter(r.cell.model for r in records)
    devices = Counter(r.environment.device_name for r in records)
    return "; ".join(
        f"{what}: {', '.join(f'{_plain(name)} ({n})' for name, n in found.most_common())}"
        for what, found in (("models", models), ("devices", devices))
    )


def _plain(text: str) -> str:
    """A name from a record as text: no markup comes of it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")


def _size(n: int) -> str:
    return "n<1K" if n < 1000 else "1K<n<10K" if n < 10_000 else "10K<n<100K"
