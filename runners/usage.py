"""What `kvfrontier run --help` prints: read from the YAMLs, since Hydra would load every method to list their names."""

from __future__ import annotations

import re
import textwrap
from importlib.resources import files

import yaml

from kvfrontier.runners.errors import UsageError

_CONFIGS = "kvfrontier.configs"
#: What a group chooses; of the others of configs/ no cell is made.
_GROUPS = {
    "model": "the model", "method": "how it attends", "task": "what it is asked", "tracker": "where records also go",
    "workload": "requests to time it under", "sweep": "a sweep that is ready (+sweep=NAME)",
    "search": "what is sought instead of a task (+search=NAME)",
}  # fmt: skip


def run_help() -> str:
    """The page, for a width of 100."""
    text = files(_CONFIGS).joinpath("config.yaml").read_text(encoding="utf-8")
    told = yaml.safe_load(text)["hydra"]["help"]
    head, foot = (told[part].replace("$$", "$").rstrip() for part in ("header", "footer"))
    groups = "\n".join(_group(name, what) for name, what in _GROUPS.items())
    axes = "  method/selection, /store, /memory, /positions   the axes of method=cached: kvfrontier list axes"
    return "\n".join(
        [
            f"{head}\n\nGroups, and what each chooses from (all of one: kvfrontier list methods NAME):",
            f"{groups}\n{axes}\n\nKeys and their defaults:\n{_keys(text)}\n\n{foot}",
        ]
    )


def check_completion(args: list[str], line: str | None) -> None:
    """Raise UsageError where words are asked for and no shell has said which line they are to complete."""
    for arg in args:
        shell = arg.partition("query=")[2]
        if shell and not line:
            raise UsageError(
                "a shell asks for completion, with the line in COMP_LINE; to have yours ask: "
                f'eval "$(kvfrontier run --shell-completion install={shell})"'
            )


def _group(name: str, what: str) -> str:
    found = [f.name for f in files(_CONFIGS).joinpath(name).iterdir()]
    choices = sorted(file.removesuffix(".yaml") for file in found if file.endswith(".yaml"))
    listed = textwrap.fill(", ".join(choices), 100, initial_indent=" " * 4, subsequent_indent=" " * 4)
    return f"  {name}   {what}\n{listed}"


def _keys(text: str) -> str:
    """The lines of config.yaml that a person may override, with their comments."""
    between = re.split(r"^hydra:", text.split("override hydra/job_logging: none\n")[1], flags=re.MULTILINE)[0]
    lines = [line for line in between.strip().splitlines() if line and not line.startswith("cells:")]
    return textwrap.indent("\n".join(lines), "  ")
