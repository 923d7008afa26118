"""methods <- runners; analysis reads records and nothing else of ours; configs import nothing."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FOLDERS = ("analysis", "configs", "methods", "runners")

#: What a folder may import of the project: whole folders, or single modules.
OURS = {
    "analysis": {"analysis", "runners.record"},
    "configs": set(),
    "methods": {"methods"},
    "runners": {"methods", "runners", "analysis", "configs"},
}
#: A method that drives its own passes names, in an annotation alone, the session that it is handed.
ONLY_TYPES = {"methods": {"runners.session"}}
#: What analysis must never load: with one of these, reading a leaderboard would cost a deep-learning environment.
HEAVY = {"torch", "transformers", "accelerate", "safetensors", "hydra", "wandb"}
#: A method is torch and arithmetic; the backends are imported where they are asked for.
OF_METHODS = {"torch", "flash_attn", "xformers"}
#: The names by which transformers hands over attention, masks and caches.
INTERNALS = ("transformers.cache_utils", "transformers.masking_utils", "transformers.modeling_utils")


def imports(file: Path) -> Iterator[tuple[str, bool]]:
    """The dotted names that `file` imports, `from a import b` as a.b, each with whether only a type checker sees it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, id(node) in checking
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                yield f"{node.module}.{name.name}", id(node) in checking


def modules(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).rglob("*.py"))


def within(name: str, allowed: set[str]) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in allowed)


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_only_what_lies_below_it(root: Path, folder: str) -> None:
    wrong = [
        f"{file.relative_to(root)} imports {name}"
        for file in modules(root, folder)
        for name, only_types in imports(file)
        if name.startswith("kvfrontier.")
        and not within(name.removeprefix("kvfrontier."), OURS[folder])
        and not (only_types and within(name.removeprefix("kvfrontier."), ONLY_TYPES.get(folder, set())))
    ]
    assert not wrong, "\n".join(wrong)


def test_methods_need_torch_alone(root: Path) -> None:
    allowed = OF_METHODS | {"kvfrontier"} | sys.stdlib_module_names
    wrong = [
        f"{file.relative_to(root)} imports {name}"
        for file in modules(root, "methods")
        for name, _ in imports(file)
        if name.split(".")[0] not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_bridge_touches_the_internals_of_transformers(root: Path) -> None:
    names = {"AttentionInterface", "AttentionMaskInterface", "Cache", "DynamicCache", "ALL_ATTENTION_FUNCTIONS"}
    wrong = [
        f"{file.relative_to(root)} imports {name}"
        for folder in FOLDERS
        for file in modules(root, folder)
        # bench_self*.py run transformers' own caches as the peers that they measure. train/model.py is a model: it asks
        # for its attention function where transformers' own models do.
        if file not in (root / "runners" / "bridge.py", root / "runners" / "train" / "model.py")
        and not file.name.startswith("bench_self")
        for name, only_types in imports(file)
        if not only_types
        and (name.startswith(INTERNALS) or (name.startswith("transformers.") and name.split(".")[-1] in names))
    ]
    assert not wrong, "\n".join(wrong)


def loaded(run: Callable[..., str], folder: Path, *names: str) -> set[str]:
    """The modules in a fresh process after it imported `names`, in this order."""
    listing = "import json, sys; print(json.dumps(sorted(sys.modules)))"
    statements = [*(f"import {name}" for name in names), listing]
    return set(json.loads(run([sys.executable, "-W", "error", "-c", "\n".join(statements)], folder)))


def dotted(root: Path, folder: str) -> list[str]:
    files = [file.relative_to(root).with_suffix("") for file in modules(root, folder)]
    return [".".join(("kvfrontier", *file.parts)).removesuffix(".__init__") for file in files]


def test_analysis_imported_cold_loads_no_torch(run: Callable[..., str], root: Path, tmp_path: Path) -> None:
    found = loaded(run, tmp_path, *dotted(root, "analysis"))
    assert not found & HEAVY
    ours = {name for name in found if name.startswith("kvfrontier.") and not within(name, {"kvfrontier.analysis"})}
    assert ours <= loaded(run, tmp_path, "kvfrontier.runners.record")


def test_methods_imported_cold_load_no_transformers(run: Callable[..., str], root: Path, tmp_path: Path) -> None:
    optional = ("kvfrontier.methods.attend.flash_attn", "kvfrontier.methods.attend.xformers")
    found = loaded(run, tmp_path, *(name for name in dotted(root, "methods") if name not in optional))
    assert "torch" in found
    assert not found & {"transformers", "hydra", "wandb", "pydantic", "kvfrontier.runners", "kvfrontier.analysis"}


def test_configs_imported_cold_load_nothing_but_themselves(run: Callable[..., str], root: Path, tmp_path: Path) -> None:
    found = loaded(run, tmp_path, *dotted(root, "configs"))
    assert not found & (HEAVY | {"pydantic", "omegaconf", "kvfrontier.runners", "kvfrontier.methods"})


def test_the_public_names_load_only_what_they_need(run: Callable[..., str], tmp_path: Path) -> None:
    bare = loaded(run, tmp_path, "kvfrontier")
    assert not bare & (HEAVY | {"pydantic", "numpy"})
    assert not loaded(run, tmp_path, "kvfrontier; kvfrontier.load_records, kvfrontier.__version__") & HEAVY


@pytest.mark.parametrize("package", ["kvfrontier.runners", "kvfrontier.runners.models", "kvfrontier.runners.tasks"])
def test_a_package_of_runners_is_imported_cold(run: Callable[..., str], tmp_path: Path, package: str) -> None:
    assert package in loaded(run, tmp_path, package)


def test_the_public_names_are_those_that_are_announced() -> None:
    import kvfrontier

    assert dir(kvfrontier) == sorted(kvfrontier.__all__)
    for name in kvfrontier.__all__:
        assert getattr(kvfrontier, name) is not None
    with pytest.raises(AttributeError, match="it offers Session"):
        _ = kvfrontier.session
