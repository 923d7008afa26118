"""The README's steps, followed to the letter on a copy of the source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source under its import name, with the files that the README tells to write."""
    top = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "kvfrontier", top / "kvfrontier")
    ignore = shutil.ignore_patterns("__pycache__")
    for folder in ("methods", "runners", "analysis", "configs"):
        shutil.copytree(ROOT / folder, top / "kvfrontier" / folder, ignore=ignore)
    shutil.copytree(ROOT / "runners" / "hydra_plugin", top / "hydra_plugins" / "kvfrontier", ignore=ignore)
    files = FILE.findall((ROOT / "README.md").read_text())
    assert [name.split("/")[0] for name, _ in files] == ["methods", "configs"]
    for name, content in files:
        assert not (ROOT / name).exists(), f"{name} is in the repository already; the README needs another example"
        (top / "kvfrontier" / name).write_text(content)
    return top


def run(copy: Path, *command: str) -> str:
    """A command of a fresh process that imports the copy."""
    env = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], cwd=copy, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_method_of_one_file_and_one_yaml_is_listed_and_runs(copy: Path) -> None:
    main = "import sys; from kvfrontier.runners.cli import main; sys.exit(main())"
    assert "Every n-th token" in run(copy, "-c", main, "list", "methods", "stride")
    cell = ("method=stride", "method.window=8", "model=tiny", "task=needle", "context=512")
    run(copy, "-c", main, "run", *cell, "tracker=none", "meter.decode_tokens=2", f"results={copy / 'records'}")
    (records,) = (copy / "records").glob("*.jsonl")
    assert '"label":"stride"' in records.read_text()


def test_it_passes_the_conformance_suite(copy: Path) -> None:
    code = """
import kvfrontier, sys
from kvfrontier.methods import registry
from kvfrontier.runners.conformance import run
assert kvfrontier.__file__.startswith(sys.argv[1]), kvfrontier.__file__
wrong = [r for r in run(registry.build({"name": "stride", "stride": 3, "window": 8})) if not r.holds]
sys.exit("; ".join(f"{r.name}: {r.found}" for r in wrong) or None)
"""
    run(copy, "-c", code, str(copy))


def test_files_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    example = {name for name, _ in FILE.findall(text)}
    linked = re.findall(r"\]\((?!https?:)([^)#]+)\)", text)
    named = [name for name in re.findall(r"`([\w/]+\.(?:py|yaml))`", text) if name not in example]
    missing = [name for name in linked + named if not (ROOT / name).exists()]
    assert not missing, missing
