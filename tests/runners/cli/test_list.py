import pytest


@pytest.mark.parametrize("kind", ["methods", "axes", "models", "tasks", "workloads", "backends", "devices"])
def test_a_kind_is_listed_as_table_and_as_json(kvfrontier, kind):
    rows = kvfrontier("list", kind, "--json").json
    table = kvfrontier("list", kind).out
    assert rows
    assert all(row["name"] in table for row in rows)


@pytest.mark.parametrize("kind", ["methods", "axes", "models", "tasks", "workloads", "backends", "devices"])
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow, id="all"), pytest.param(9, id="some")])
def test_all_of_one_is_shown(kvfrontier, kind, step):
    names = [row["name"] for row in kvfrontier("list", kind, "--json").json]
    for name in names[::step]:
        answer = kvfrontier("list", kind, name, "--json")
        assert answer.code == 0
        assert answer.json["name"] == name
    assert kvfrontier("list", kind, names[0]).code == 0


def test_a_method_says_what_it_costs_and_where_it_is_from(kvfrontier):
    kivi = kvfrontier("list", "methods", "kivi4", "--json").json
    assert kivi["parameters"]["bits"] == 4
    assert "arXiv" in kivi["paper"]
    assert kivi["cost"]
    assert kivi["flags"]["bounded"] is False


def test_everything_is_listed(kvfrontier):
    assert set(kvfrontier("list", "--json").json) == {
        "methods",
        "axes",
        "models",
        "tasks",
        "workloads",
        "backends",
        "devices",
    }
    assert kvfrontier("list").code == 0


def test_methods_are_grouped_by_family(kvfrontier):
    from kvfrontier.methods.registry import FAMILIES

    rows = kvfrontier("list", "methods", "--json").json
    families = [row["family"] for row in rows]
    assert families == sorted(families, key=FAMILIES.index)
    table = kvfrontier("list", "methods").out
    assert all(f"methods: {family}" in table for family in set(families))


def test_a_choice_of_an_axis_says_how_it_is_chosen(kvfrontier):
    dense = kvfrontier("list", "axes", "store/dense", "--json").json
    assert dense["chosen by"] == "method=cached method/store=dense"


@pytest.mark.parametrize("kind", ["methods", "axes", "tasks"])
def test_every_choice_has_a_sentence_of_its_own(kvfrontier, kind):
    told = [row["summary"] for row in kvfrontier("list", kind, "--json").json]
    # Two of the axes' names stand for one choice: `kivi` and its preset.
    assert all(summary.endswith((".", "(KIVI).")) and len(summary) > 20 for summary in told) or kind == "axes"
    assert len(set(told)) == len(told)
    assert not [summary for summary in told if summary.endswith((":", ";", ","))]


def test_an_axis_is_listed_alone(kvfrontier):
    stores = kvfrontier("list", "axes", "store", "--json").json
    assert stores
    assert {row["axis"] for row in stores} == {"store"}


def test_a_missing_backend_says_what_to_install(kvfrontier):
    rows = {row["name"]: row for row in kvfrontier("list", "backends", "--json").json}
    assert rows["eager"]["available"] is True
    assert rows["eager"]["why not"] == ""
    for extra in ("flash_attn", "flash_attn_3", "flash_attn_4", "xformers", "triton"):
        assert rows[extra]["available"] is (rows[extra]["why not"] == "")
        assert rows[extra]["available"] or f"kvfrontier[{extra}]" in rows[extra]["why not"]


def test_kernels_are_listed_with_why_they_do_not_run(kvfrontier):
    rows = {row["name"]: row for row in kvfrontier("list", "backends", "kernel", "--json").json}
    assert {"split_decode", "quantized_decode", "paged_decode", "ragged_decode", "window_sinks", "linear"} == set(rows)
    assert all(row["available"] is not bool(row["why not"]) for row in rows.values())


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (["methodz"], "there is no kind to list 'methodz'; did you mean 'methods'?"),
        (["axes", "kivi2"], "there is no choice of an axis 'kivi2'; did you mean 'store/kivi2'?"),
        (["models", "smolm2-135m"], "there is no model 'smolm2-135m'; did you mean 'smollm2-135m'?"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(kvfrontier, asked, answer):
    listed = kvfrontier("list", *asked)
    assert listed.code == 2
    assert answer in listed.err
