"""`kvfrontier check` on a class outside the project."""

import os
import subprocess
import sys

import pytest

from kvfrontier.runners.record import load_records

QUICK = [
    "model=tiny", "task=needle", "task.samples=1", "meter.decode_tokens=2", "meter.repetitions=1", "meter.warmups=0",
    "tracker=none",
]  # fmt: skip

THEIRS = """
from dataclasses import dataclass, replace
from kvfrontier.methods import Cached
from kvfrontier.methods.selection.window import WindowSelection

def Mine(window: int = 24) -> Cached:
    return Cached(WindowSelection(window))

@dataclass(frozen=True)
class Liar(Cached):
    def footprint(self, layer, batch, prompt, new=0, sealed=True):
        return super().footprint(layer, batch, prompt // 2, new, sealed)

@dataclass(frozen=True)
class Breaks(Cached):
    def attend(self, *args):
        raise RuntimeError("not written yet")

not_a_method = 3
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch) -> str:
    """A package in the current folder, of a name that no other test imports."""
    name = f"theirs_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(THEIRS)
    monkeypatch.chdir(tmp_path)
    return name


def test_a_method_from_elsewhere_that_holds(kvfrontier, theirs):
    answer = kvfrontier("check", f"{theirs}.Mine", "window=16", "--json")
    assert answer.code == 0, answer.out
    assert len(answer.json) >= 15
    assert all(row["holds"] for row in answer.json)


def test_a_lie_about_memory_is_named_with_its_numbers(kvfrontier, theirs):
    answer = kvfrontier("check", f"{theirs}.Liar")
    assert answer.code == 1
    assert "live bytes equal analytic bytes" in answer.out
    assert "its footprint says" in answer.out


def test_what_a_method_raises_is_what_was_found(kvfrontier, theirs):
    answer = kvfrontier("check", f"{theirs}.Breaks", "--json")
    assert answer.code == 1
    assert any("RuntimeError: not written yet" in row["found"] for row in answer.json)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["snapkw"], "did you mean 'snapkv'?"),
        (["window", "windw=3"], "did you mean 'window'?"),
        (["window", "24"], "write key=value"),
        (["no_such_package.Mine"], "there is no module 'no_such_package'"),
        (["kvfrontier.methods.Mine"], "has no 'Mine'"),
        (["{theirs}.not_a_method"], "is no class or function"),
        (["kvfrontier.methods.Layers", "spec=0-1"], "is no kvfrontier.methods.Method"),
    ],
)
def test_what_cannot_be_checked_says_why(kvfrontier, theirs, args, message):
    answer = kvfrontier("check", *(arg.replace("{theirs}", theirs) for arg in args))
    assert answer.code == 2
    assert message in answer.err


PACKAGE = '''
from kvfrontier.methods import Cached, register
from kvfrontier.methods.selection.window import WindowSelection

@register("halved", family="selection", cost="2 Hkv d min(T, w / 2) elements", tags=("fixed", "internal", "lossy"))
def Halved(window: int = 64) -> Cached:
    """Half a window."""
    return Cached(WindowSelection(window // 2))
'''


def test_an_entry_point_brings_a_method_to_run_and_list(tmp_path):
    (tmp_path / "their_package.py").write_text(PACKAGE)
    info = tmp_path / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[kvfrontier.methods]\nhalved = their_package:Halved\n")
    script = (
        "from kvfrontier.runners.cli import main\n"
        "assert main(['list', 'methods', 'halved']) == 0\n"
        "main(['run', 'method=halved', 'method.window=48', 'context=384', 'results=results', *QUICK])\n"
    )
    script = f"QUICK = {QUICK!r}\n" + script
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "Half a window." in ran.stdout
    (record,) = load_records(tmp_path / "results")
    assert record.cell.method == {"name": "halved", "window": 48}
    assert record.status == "ok"
