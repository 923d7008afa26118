"""Where a measurement ran."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest
import torch

from kvfrontier.runners import environment
from kvfrontier.runners.errors import UsageError


def test_it_says_what_a_reader_must_know():
    here = environment.describe("cpu")
    assert here.device_kind == "cpu"
    assert here.device_name
    assert here.threads == torch.get_num_threads()
    assert here.torch == torch.__version__
    assert here.kvfrontier[0].isdigit()


def test_auto_takes_the_best_device():
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert environment.resolve_device("auto") == best


@pytest.mark.parametrize(
    ("device", "words"),
    [("cuad", "did you mean 'cuda'"), ("cuda:99", "choose one of: .*cpu, auto"), ("cpu:x", "did you mean 'cpu'")],
)
def test_a_device_that_is_not_there_is_refused(device, words):
    with pytest.raises(UsageError, match=words):
        environment.resolve_device(device)


def git(folder, *arguments):
    command = ["git", "-c", "user.name=n", "-c", "user.email=e@x", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def test_the_revision_is_that_of_the_source_and_of_no_checkout_around_it(tmp_path):
    """A copy of the module, first loose inside somebody's checkout, then committed there, then changed."""
    file = tmp_path / "site-packages" / "environment.py"
    file.parent.mkdir()
    file.write_bytes(Path(environment.__file__).read_bytes())
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs")

    def revision() -> str | None:
        spec = importlib.util.spec_from_file_location("loose", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.git_revision()

    assert revision() is None
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "ours")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert revision() == head
    file.write_text(file.read_text() + "\n")
    assert revision() == f"{head}-dirty"
