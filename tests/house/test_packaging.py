"""What is installed: one import name, every folder, every YAML; from anywhere, editable or not."""

from __future__ import annotations

import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest


@pytest.fixture(scope="session")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def folder_of(package: str, package_dir: dict[str, str]) -> PurePosixPath:
    """Where the sources of `package` lie: the mapping of its nearest parent that has one."""
    parent, rest = package, []
    while parent not in package_dir:
        parent, _, last = parent.rpartition(".")
        rest.insert(0, last)
    return PurePosixPath(package_dir[parent], *rest)


def test_every_folder_with_an_init_is_a_listed_package(root: Path, project: dict) -> None:
    settings = project["tool"]["setuptools"]
    listed = {folder_of(package, settings["package-dir"]) for package in settings["packages"]}
    there = {
        PurePosixPath(file.parent.relative_to(root).as_posix())
        for top in settings["package-dir"].values()
        for file in (root / top).rglob("__init__.py")
    }
    assert sorted(map(str, there - listed)) == [], "add these to [tool.setuptools] packages in pyproject.toml"
    assert sorted(map(str, listed - there)) == [], "these have no __init__.py; drop them from pyproject.toml"


def test_every_folder_with_sources_or_yaml_has_an_init(root: Path, project: dict) -> None:
    tops = project["tool"]["setuptools"]["package-dir"].values()
    files = [file for top in tops for kind in ("*.py", "*.yaml") for file in (root / top).rglob(kind)]
    assert sorted({str(file.parent) for file in files if not (file.parent / "__init__.py").exists()}) == []


def test_the_constraints_pin_what_the_project_asks_for(root: Path, project: dict) -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    text = (root / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
    wanted = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, wanted):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pinned), f"{requirement} excludes {pinned} of constraints.txt"


def test_an_editable_install_works_from_anywhere_and_sees_new_files(
    install: Callable[..., Path], run: Callable[..., str], sources: Path, tmp_path: Path
) -> None:
    python = install("--editable", sources)
    (sources / "methods" / "newcomer.py").write_text("WORD = 'seen'\n")
    room = sources / "methods" / "newroom"
    room.mkdir()
    (room / "__init__.py").write_text("WORD = 'too'\n")
    (sources / "configs" / "method" / "newcomer.yaml").write_text("name: newcomer\n")
    asked = (
        "import kvfrontier, kvfrontier.configs.method as group, pathlib\n"
        "import kvfrontier.analysis, kvfrontier.runners.record\n"
        "print(kvfrontier.__file__)\n"
        "print(pathlib.Path(group.__file__).with_name('newcomer.yaml').read_text())\n"
        "import kvfrontier.methods.newcomer as a, kvfrontier.methods.newroom as b; print(a.WORD, b.WORD)\n"
    )
    said = run([python, "-c", asked], tmp_path)
    assert str(sources) in said
    assert "name: newcomer" in said
    assert "seen too" in said


def test_the_wheel_holds_one_name_with_every_file_and_runs(
    install: Callable[..., Path], run: Callable[..., str], root: Path, sources: Path, project: dict, tmp_path: Path
) -> None:
    run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, sources], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    package_dir = project["tool"]["setuptools"]["package-dir"]
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {
        str(PurePosixPath(*package.split("."), *file.relative_to(root / top).parts))
        for package, top in package_dir.items()
        for file in (root / top).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    # The plug-in's sources also lie in runners/, but are installed where Hydra looks.
    expected = {name for name in expected if not name.startswith("kvfrontier/runners/hydra_plugin/")}
    assert names == expected

    python = install(wheel)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = run([python, "-c", "import kvfrontier; print(kvfrontier.__file__)"], elsewhere).strip()
    assert Path(where).is_relative_to(python.parents[1])
    listed = run([python.with_name("kvfrontier"), "list", "methods"], elsewhere)
    assert "dense" in listed
    composed = run([python.with_name("kvfrontier"), "run", "--cfg", "job", "method=window"], elsewhere)
    assert "window" in composed
