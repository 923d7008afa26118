"""The documentation: every command in it is one that exists, and runs; every page and file that it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
#: Pages whose commands want a cluster, an account or a download: they are read, and not run.
READ_ONLY = ("launchers", "wandb", "published-benchmarks", "run-a-sweep")
#: Commands that are another program's command line.
OTHERS = ("lm-eval",)
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"(?:^<!-- test: (\w+)[^\n]*-->\n)?^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """A command of a page. `when`: "" runs in the quick tests, slow in the others, skip never."""

    page: Path
    when: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.stem}: {' '.join(self.words)}"


def commands(page: Path) -> list[Command]:
    """The kvfrontier commands of a page's bash blocks, in their order."""
    found = []
    for when, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["kvfrontier"]:
                found.append(Command(page, when, tuple(words[1:])))
    return found


ALL = [command for page in PAGES for command in commands(page)]
MAIN = "import sys; from kvfrontier.runners.cli import main; sys.exit(main())"


def test_the_pages_show_commands() -> None:
    assert len(ALL) >= 30 and {command.when for command in ALL} >= {"", "slow", "skip"}


@pytest.mark.parametrize("command", ALL, ids=str)
def test_every_command_has_words_that_exist(command: Command) -> None:
    """The subcommand and its options; of `run`, that Hydra can read the overrides."""
    from kvfrontier.runners import cli, compose

    if command.words[0] == "run":
        compose.parse([word for word in command.words[1:] if "=" in word])
    elif "--help" not in command.words and command.words[0] not in OTHERS:
        cli._parser().parse_args(command.words)


def test_the_menu_names_pages_that_are_there(root: Path) -> None:
    def pages(nav: object) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        parts = nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else []
        return [page for part in parts for page in pages(part)]

    nav = yaml.safe_load((root / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    missing = [page for page in pages(nav) if not (root / "docs" / page).exists()]
    assert pages(nav) and not missing


def test_every_link_to_a_file_leads_somewhere() -> None:
    missing = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in PAGES
        for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        # Figures are made when the documentation is built.
        if not (page.parent / link).exists() and "/figures/" not in f"/{link}"
    ]
    assert not missing, "\n".join(missing)


def test_the_changelog_has_this_version(root: Path) -> None:
    import tomllib

    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"\n## {version}\n" in (root / "CHANGELOG.md").read_text(encoding="utf-8")
    assert yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version


def test_workflows_have_no_right_that_they_do_not_need(root: Path) -> None:
    for file in sorted((root / ".github" / "workflows").glob("*.yml")):
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
        events = told[True]  # YAML reads the word `on` so
        assert "pull_request_target" not in events
        assert told["permissions"] == {"contents": "write" if file.stem == "release" else "read"}


def run(command: Command, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *command.words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"kvfrontier {' '.join(command.words)}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in READ_ONLY], ids=lambda page: page.stem)
def test_the_commands_of_a_page_run_in_their_order(page: Path, tmp_path: Path) -> None:
    for command in commands(page):
        if command.when != "skip":
            run(command, tmp_path)


@pytest.mark.slow
def test_the_task_of_the_how_to_is_a_task(tmp_path: Path) -> None:
    """As the page tells it: the class is written down, and asked for samples."""
    import random

    from kvfrontier.runners import models

    text = (ROOT / "docs" / "how-to" / "add-a-task.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    file = tmp_path / "last_word.py"
    file.write_text(code)
    sys.path.insert(0, str(tmp_path))
    try:
        from importlib import import_module

        task = import_module("last_word").LastWord(samples=3)
    finally:
        sys.path.remove(str(tmp_path))
    loaded = models.load({"name": "tiny", "kind": "tiny", "device": "cpu"})
    sample = task.sample(loaded.tokenizer, 300, 0, random.Random(0))
    assert 280 <= len(sample.ids) + task.answer_tokens <= 300 and len(task.hash()) == 16
