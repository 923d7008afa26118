"""A data set in a folder: what is in it, that others can load it, and that nothing is pushed without being asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from kvfrontier.runners import cli
from kvfrontier.runners.publish import send
from kvfrontier.runners.record import load_records


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    told = ["model=tiny", "task=needle", "task.samples=5", "context=384", "meter.decode_tokens=2", "tracker=none"]
    assert cli.main(["run", "-m", *told, "method=dense,window", f"results={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def dataset(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "set"
    assert cli.main(["publish", str(records), "--to", "folder", "-o", str(folder), "--name", "Mine"]) == 0
    return folder


@pytest.mark.slow
def test_the_records_are_those_that_were_given(records: Path, dataset: Path) -> None:
    assert {r.id for r in load_records(dataset / "records")} == {r.id for r in load_records(records)}


@pytest.mark.slow
def test_the_card_says_what_a_viewer_reads(dataset: Path) -> None:
    _, front, text = (dataset / "README.md").read_text().split("---\n", 2)
    told = yaml.safe_load(front)
    (file,) = told["configs"][0]["data_files"]
    assert told["license"] == "apache-2.0" and len(pl.read_parquet(dataset / file["path"])) == 2
    assert text.startswith("\n# Mine") and "| dense |" in text.replace("● ", "")


@pytest.mark.slow
def test_the_metadata_name_every_column_and_the_files_as_they_are(dataset: Path) -> None:
    about = json.loads((dataset / "croissant.json").read_text())
    fields = {field["name"] for field in about["recordSet"][0]["field"]}
    assert fields == set(pl.read_parquet(dataset / "rows.parquet").columns)
    for file in about["distribution"]:
        assert file["sha256"] == hashlib.sha256((dataset / file["contentUrl"]).read_bytes()).hexdigest()


@pytest.mark.slow
def test_nothing_is_overwritten(records: Path, dataset: Path, capsys) -> None:
    assert cli.main(["publish", str(records), "--to", "folder", "-o", str(dataset)]) == 2
    assert "overwrites nothing" in capsys.readouterr().err


@pytest.mark.slow
def test_records_that_were_changed_are_not_published(records: Path, tmp_path: Path, capsys) -> None:
    file = next(records.glob("*.jsonl"))
    record = json.loads(file.read_text())
    record["memory"]["peak"] = 1
    (tmp_path / "changed.jsonl").write_text(json.dumps(record) + "\n")
    told = ["publish", str(tmp_path / "changed.jsonl"), "--to", "folder", "-o", str(tmp_path / "set")]
    assert cli.main(told) == 2
    assert "peak is 1" in capsys.readouterr().err and not list((tmp_path / "set").iterdir())


def test_without_a_token_the_hub_is_not_asked(monkeypatch, tmp_path: Path) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalTokenNotFoundError

    def nobody(self):
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(HfApi, "whoami", nobody)
    monkeypatch.setattr(HfApi, "create_repo", lambda *a, **k: pytest.fail("asked"))
    with pytest.raises(send.UsageError, match="hf auth login"):
        send.to_hub(tmp_path, "me/mine", private=False)


def test_with_one_the_whole_folder_is_pushed_as_a_data_set(monkeypatch, tmp_path: Path) -> None:
    from huggingface_hub import HfApi

    asked: dict[str, dict] = {}
    monkeypatch.setattr(HfApi, "whoami", lambda self: {"name": "me"})
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, **about: asked.update(create=about))
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **about: asked.update(upload=about))
    assert send.to_hub(tmp_path, "me/mine", private=True).endswith("/datasets/me/mine")
    assert asked["create"] == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert asked["upload"]["folder_path"] == tmp_path and asked["upload"]["repo_type"] == "dataset"


def test_a_place_needs_its_name(tmp_path: Path, capsys) -> None:
    assert cli.main(["publish", str(tmp_path), "--to", "hf", "-o", str(tmp_path / "set")]) == 2
    assert "--repo" in capsys.readouterr().err
