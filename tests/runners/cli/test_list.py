import pytest


@pytest.mark.parametrize("kind", ["methods", "axes", "models", "tasks", "workloads", "devices"])
def test_a_kind_is_listed_as_table_and_as_json(kvfrontier, kind):
    rows = kvfrontier("list", kind, "--json").json
    table = kvfrontier("list", kind).out
    assert rows
    assert all(row["name"] in table for row in rows)


@pytest.mark.parametrize("kind", ["methods", "axes", "models", "tasks", "workloads", "devices"])
def test_all_of_one_is_shown(kvfrontier, kind):
    for row in kvfrontier("list", kind, "--json").json:
        answer = kvfrontier("list", kind, row["name"], "--json")
        assert answer.code == 0
        assert answer.json["name"] == row["name"]
        assert kvfrontier("list", kind, row["name"]).code == 0


def test_a_method_says_what_it_costs_and_where_it_is_from(kvfrontier):
    kivi = kvfrontier("list", "methods", "kivi4", "--json").json
    assert kivi["parameters"]["bits"] == 4
    assert "arXiv" in kivi["paper"]
    assert kivi["cost"]
    assert kivi["flags"]["bounded"] is False


def test_everything_is_listed(kvfrontier):
    assert set(kvfrontier("list", "--json").json) == {"methods", "axes", "models", "tasks", "workloads", "devices"}
    assert kvfrontier("list").code == 0


def test_methods_are_grouped_by_family(kvfrontier):
    from kvfrontier.methods.registry import FAMILIES

    rows = kvfrontier("list", "methods", "--json").json
    families = [row["family"] for row in rows]
    assert families == sorted(families, key=FAMILIES.index)
    assert all(f"methods: {family}" in kvfrontier("list", "methods").out for family in set(families))


def test_a_choice_of_an_axis_says_how_it_is_chosen(kvfrontier):
    dense = kvfrontier("list", "axes", "store/dense", "--json").json
    assert dense["chosen by"] == "method=cached method/store=dense"
