"""A copy of the project to install from, and clean environments that see the dependencies but not the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("analysis", "configs", "kvfrontier", "methods", "runners", "LICENSE", "README.md", "pyproject.toml")


def run(command: Sequence[str | Path], folder: Path) -> str:
    """What `command` prints when run in `folder`; its whole output is in the error where it fails."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} exits with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(name="run", scope="session")
def run_fixture() -> Callable[[Sequence[str | Path], Path], str]:
    return run


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """The files that the package is built from, in a folder of their own: no stale build/ and none left behind."""
    copy = tmp_path / "sources"
    copy.mkdir()
    for name in SOURCES:
        here = ROOT / name
        if here.is_dir():
            shutil.copytree(here, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        elif here.exists():
            shutil.copy(here, copy / name)
    return copy


@pytest.fixture
def clean_python(tmp_path: Path) -> Path:
    """The interpreter of a new environment. A .pth line shows it the dependencies that are installed already; an
    editable kvfrontier among them stays hidden, because the .pth files of a folder so named are not read."""
    folder = tmp_path / "environment"
    venv.EnvBuilder(with_pip=False, symlinks=True).create(folder)
    python = folder / "bin" / "python"
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run([python, "-c", asked], tmp_path).strip())
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def install(clean_python: Path, tmp_path: Path) -> Callable[..., Path]:
    """Installs what it is given into the clean environment, with what is here: `install("--editable", folder)`."""

    def install(*what: str | Path) -> Path:
        pip = [sys.executable, "-m", "pip", "--python", clean_python, "--disable-pip-version-check"]
        options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--force-reinstall"]
        run([*pip, "install", *options, *what], tmp_path)
        return clean_python

    return install
