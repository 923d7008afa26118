"""Every mistake is answered with exit code 2 and one sentence that says what to do, before any work is done."""

import shutil

import pytest

from kvfrontier.runners.record import SCHEMA_VERSION, load_records

MISTAKES = {
    "unknown method": (["method=windwo"], "there is no method 'windwo'; did you mean 'window'?"),
    "unknown method in a sweep": (["-m", "method=dense,windwo"], "did you mean 'window'?"),
    "unknown group": (["metod=window"], "there is no key 'metod'; did you mean 'method'?"),
    "unknown key": (["contxt=3"], "there is no key 'contxt'; did you mean 'context'?"),
    "unknown key in a sweep": (["-m", "contxt=3,4"], "did you mean 'context'?"),
    "unknown parameter": (["method=window", "method.windw=3"], "did you mean 'method.window'?"),
    "unknown sweep": (["+sweep=quikstart"], "there is no sweep 'quikstart'; did you mean 'quickstart'?"),
    "unknown dtype": (["dtype=float23"], "there is no dtype 'float23'; did you mean 'float32'?"),
    "unknown device": (["device=cpuu"], "did you mean 'cpu'?"),
    "unreadable": (["method=[window"], "cannot read"),
    "text for a number": (["context=long"], "context='long' must be a whole number"),
    "wrong type": (["method=window", "method.window=wide"], "method.window='wide'"),
    "budget smaller than the sinks": (["method=sinks", "method.budget=3"], "budget 3 leaves no token beside 4 sinks"),
    "bytes smaller than the sinks": (["method=sinks", "budget=2"], "holds more at the smallest method.window; raise"),
    "method that cannot serve the model": (["method=mla"], "mla on tiny"),
    "method that cannot serve the model, planned": (["method=mla", "--dry-run"], "has no latents to hold"),
    "missing backend in a sweep": (["-m", "method.backend=eager,flash_attn"], "pip install 'kvfrontier[flash_attn]'"),
    "parameter of an axis": (
        ["method=cached", "method/selection=window", "method/memory=compressive", "method.memory.rate=0"],
        "set method.memory.rate",
    ),
    "group of a store": (
        ["method=cached", "method/store=kivi4", "method.store.group=48"],
        "change method.store.residual or method.store.group",
    ),
    "context longer than the positions": (["context=9000"], "context 9000 is longer than the 8192 positions"),
    "context too short for the task": (["context=192"], "context 192 is too short"),
    "contexts all too short in a sweep": (["-m", "context=191,192"], "context 191 is too short"),
    "empty axis": (["-m", "+hydra.sweeper.params={seed: []}"], "the sweep is empty"),
    "everything excluded": (["-m", "seed=0,1", "hydra.sweeper.exclude=[{seed: [0, 1]}]"], "the sweep is empty"),
    "unknown exclude": (["-m", "seed=0,1", "hydra.sweeper.exclude=[{sed: 0}]"], "there is no group or key 'sed'"),
    "missing backend": (["method.backend=flash_attn"], "flash_attn"),
    "group does not divide head_dim": (["method=kivi2", "method.group=64"], "does not divide value head_dim 32"),
    "nothing to prefill": (["meter.decode_tokens=384"], "leaves nothing of context 384"),
    "continuous sweep": (["-m", "seed=interval(0,1)"], "values with commas between them"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_in_one_sentence(run, tmp_path, mistake):
    args, sentence = MISTAKES[mistake]
    answer = run(*args)
    assert answer.code == 2
    assert sentence in answer.err
    assert "Traceback" not in answer.err
    assert len(answer.err.strip().split("\n")) == 1
    assert not list(tmp_path.rglob("*.jsonl"))


def test_a_folder_without_weights(run, tmp_path):
    answer = run("model=hf", f"model.path={tmp_path}")
    assert answer.code == 2
    assert "weights" in answer.err


def test_a_results_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    answer = run(f"results={tmp_path / 'file' / 'results'}")
    assert answer.code == 2
    assert "results=DIR" in answer.err
    assert len(answer.err.strip().split("\n")) == 1


def test_records_of_a_newer_schema_are_refused_and_kept(run, kvfrontier, tmp_path):
    run()
    (file,) = (tmp_path / "results").glob("*.jsonl")
    newer = file.read_text().replace(f'"schema_version":{SCHEMA_VERSION}', '"schema_version":999')
    file.write_text(newer)
    for answer in (run(), kvfrontier("report", str(file), "-o", str(tmp_path / "report"))):
        assert answer.code == 2
        assert "upgrade" in answer.err
        assert len(answer.err.strip().split("\n")) == 1
    assert file.read_text() == newer


def test_a_torn_last_line_is_set_aside_and_its_cell_run_again(run, tmp_path, recwarn):
    import warnings

    run("-m", "seed=0,1")
    whole = {r.id for r in load_records(tmp_path / "results")}
    (file,) = (tmp_path / "results").glob("*.jsonl")
    torn = file.read_bytes()[:-40]
    file.write_bytes(torn)
    warnings.simplefilter("always")
    answer = run("-m", "seed=0,1", "--json")
    assert answer.json["ran"] == 1
    assert answer.code == 0
    assert "torn" in answer.err
    assert {r.id for r in load_records(tmp_path / "results")} == whole
    assert (tmp_path / "results" / f"{file.name}.torn").read_bytes().strip() == torn[torn.index(b"\n") + 1 :]


@pytest.mark.parametrize(
    "command", [["list", "method"], ["list", "methods", "windw"], ["report", "nowhere", "-o", "x"]]
)
def test_other_commands_answer_alike(kvfrontier, command):
    answer = kvfrontier(*command)
    assert answer.code == 2
    assert len(answer.err.strip().split("\n")) == 1


def test_a_command_that_does_not_exist(kvfrontier):
    assert kvfrontier("rum").code == 2


def test_nothing_recorded_is_lost_by_a_mistake(run, tmp_path):
    run()
    shutil.copytree(tmp_path / "results", tmp_path / "before")
    run("method=windwo")
    run("-m", "seed=0,1", "context=9000")
    for file in (tmp_path / "before").glob("*.jsonl"):
        assert (tmp_path / "results" / file.name).read_bytes() == file.read_bytes()
