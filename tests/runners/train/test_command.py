"""`kvfrontier train`, as a user types it."""

import json
import shlex
from typing import Any

import pytest

from kvfrontier.analysis.figures.trained import recall_figure
from kvfrontier.analysis.trained import table, trained
from kvfrontier.methods import registry
from kvfrontier.runners import cli
from kvfrontier.runners.record import load_records
from kvfrontier.runners.train import build, tasks
from kvfrontier.runners.train.plan import plan

QUICK = [
    "task=mqar", "task.vocabulary=64", "task.examples=8", "task.train=[{length: 32, pairs: 4, examples: 32}]",
    "task.test=[{length: 32, pairs: 4}]", "train.steps=2", "train.batch=16", "train.lr=[0.01]", "train.valid=8",
    "model.width=32", "meter.repetitions=0", "meter.decode_tokens=2", "tracker=none",
]  # fmt: skip


def loaded(folder) -> list[Any]:
    return load_records(folder)


@pytest.fixture
def train(capfd, tmp_path):
    def command(*words):
        code = cli.main(["train", *QUICK, f"results={tmp_path}", *words])
        out, err = capfd.readouterr()
        return code, out, err

    return command


def test_it_trains_each_method_once_and_records_every_test(train, tmp_path):
    words = ["method=dense,rmt", "task.lengths=[2]", "--json"]
    code, out, _ = train(*words)
    assert code == 0
    cells = json.loads(out)["cells"]
    assert [(c["method"]["name"], c["shape"]["length"]) for c in cells] == [
        (name, n) for name in ("dense", "rmt") for n in (32, 64)
    ]
    assert all(c["ran"] and c["status"] == "ok" and c["state_bytes"] > 0 for c in cells)
    assert not list(tmp_path.glob("checkpoints/*"))
    records = loaded(tmp_path)
    assert {r.id for r in records} == {c["id"] for c in cells}
    for record in records:
        training = record.training
        assert (training.steps, training.tokens) == (2, 2 * 16 * 32)
        assert training.flops > 0
        assert training.seconds > 0
        assert training.curve[-1]["step"] == 2
        assert record.quality.chance == 1 / 32
        task, shape = tasks.of(record.cell.task)
        assert task.hash(shape) == record.quality.task_hash
        again = shlex.split(record.command)
        assert again[:2] == ["kvfrontier", "train"]
        assert {a.id for one in plan(again[2:]) for a in one.asked} >= {record.id}
    again = json.loads(train(*words)[1])["cells"]
    assert not any(c["ran"] for c in again)
    assert [c["scores"] for c in again] == [c["scores"] for c in cells]


@pytest.mark.slow
def test_published_it_would_agree_with_the_closed_forms(train, tmp_path):
    """As tests/runners/test_published_records.py asks of every record in results/."""
    train("method=window,deltanet,rmt")
    for record in loaded(tmp_path):
        model = record.config["model"]
        method, own = registry.build(record.cell.method), (model["kernel"] - 1) * model["width"] * 4
        held = sum(
            method.footprint(layer, 1, record.memory.prompt_tokens, record.memory.decoded_tokens).held.payload
            for layer in build.layers(model)
        )
        assert record.memory.live_payload == held + own


def test_a_grid_keeps_the_best_rate_and_says_what_the_others_took(train, tmp_path):
    train("method=dense", "train.lr=[0.0000001,0.01]", "train.steps=8", "train.every=8", "train.stop=null")
    (record,) = loaded(tmp_path)
    tried = record.training.tried
    assert [t.lr for t in tried] == [1e-7, 0.01]
    assert record.training.lr == max(tried, key=lambda t: t.score).lr


def test_a_rate_that_solves_the_task_ends_the_search(train, tmp_path):
    """Any score is at least the least that may be asked, once something is right; so it is asked for nothing."""
    train("method=dense", "train.lr=[0.01,0.02]", "train.stop=0.0000001", "train.steps=40", "train.every=1")
    (record,) = loaded(tmp_path)
    assert record.training.stopped == "solved"
    assert len(record.training.tried) == 1
    assert record.training.steps < 40


def test_of_several_methods_one_that_cannot_be_trained_is_a_result(train, tmp_path):
    assert train("method=dense,kivi2")[0] == 0
    statuses = {r.info.label: r.quality for r in loaded(tmp_path)}
    assert statuses["dense"].status == "ok"
    assert statuses["kivi2"].status == "infeasible"
    assert "gradient" in statuses["kivi2"].reason


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["task.vocab=64"], "did you mean 'task.vocabulary'"),
        (["method=kivi2"], "lets no gradient through"),
        (["method=dens"], "did you mean 'dense'"),
        (["model.widht=8"], "did you mean 'model.width'"),
        (["model.heads=3"], "must divide"),
        (["train.steps=0"], "train.steps=0"),
        (["+sweep=mqar_cpuu"], "did you mean 'mqar_cpu'"),
        (["seed=-1"], "seed=-1"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(train, words, says):
    code, _, err = train(*words)
    assert code == 2
    assert says in err
    assert "Traceback" not in err


def test_a_task_of_the_drop_in_track_is_not_trained_on(capfd):
    assert cli.main(["train", "task=needle"]) == 2
    assert "no task of the trained track 'needle'" in capfd.readouterr().err


def test_any_configuration_of_transformers_is_trained_from_random_weights(capfd, tmp_path):
    words = [w for w in QUICK if not w.startswith("model.")]
    code = cli.main(["train", *words, "model=tiny", "method=window", f"results={tmp_path}"])
    assert code == 0, capfd.readouterr().err
    (record,) = loaded(tmp_path)
    assert record.cell.model.endswith("from scratch")
    assert record.quality.status == "ok"


def test_a_dry_run_trains_nothing(train, tmp_path):
    code, out, _ = train("+sweep=mqar_cpu", "--dry-run")
    assert code == 0
    assert "16 trainings to run" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("sweep", "least"), [("mqar_cpu", 16), ("uptrain_smoke", 4)])
def test_every_sweep_plans(sweep, least):
    planned = plan([f"+sweep={sweep}", "results=nowhere"])
    assert len(planned) >= least
    assert len({one.identity for one in planned}) == len(planned)


@pytest.mark.slow
def test_the_zoo_has_more_than_twenty_methods():
    assert len({one.label for one in plan(["+sweep=mqar_zoo", "results=nowhere"])}) > 20


@pytest.mark.slow
def test_zoology_is_the_published_grid():
    planned = plan(["+sweep=zoology", "results=nowhere"])
    assert len(planned) == len({one.identity for one in planned}) >= 40
    task: Any = planned[0].task
    assert task.vocabulary == 8192
    assert [(s["length"], s["pairs"], s["examples"]) for s in task.train] == [
        (64, 4, 100_000), (128, 8, 20_000), (256, 16, 20_000), (256, 32, 20_000), (256, 64, 20_000),
    ]  # fmt: skip
    assert task.exams[-1] == {"length": 1024, "pairs": 256}
    assert task.examples == 1000
    settings = planned[0].settings
    assert (settings.steps, settings.epochs, settings.batch, settings.stop) == (None, 32, 256, 0.99)
    assert settings.lr == pytest.approx([10**x for x in (-3, -2.5, -2, -1.5)])


@pytest.mark.slow
def test_the_table_and_the_figure_show_measured_state(train, tmp_path):
    train("method=dense,window", "seed=0,1")
    records = loaded(tmp_path)
    (track,) = trained(records)
    assert {row.method: row.seeds for row in track.rows} == {"dense": 2, "window": 2}
    for row in track.rows:
        own = [r for r in records if r.info.label == row.info.label]
        assert row.state == own[0].quality.state.final_payload
        assert row.mean(track.tests) == pytest.approx(sum(r.quality.scores["accuracy"].value for r in own) / 2)
    assert any("| dense | width 32" in line for line in track.markdown)
    drawn = recall_figure(track)
    assert drawn is not None
    assert "dense" in drawn[1]
    accuracy = table([track]).filter(score="accuracy")
    assert len(accuracy) == 4
