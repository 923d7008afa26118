import re
from importlib.resources import files

import pytest

from kvfrontier.runners import tasks
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.tasks.answer import AnswerTask


def test_tasks_are_found_by_being_in_the_folder():
    assert {"needle", "perplexity"} <= set(tasks.names())


@pytest.mark.parametrize("name", tasks.names())
def test_a_task_says_what_it_is_and_comes_back_from_its_parameters(name):
    task = tasks.make({"name": name})
    about = tasks.describe(name)
    assert about["summary"]
    assert about["version"] >= 1
    # Greedy decoding goes without saying where no other was chosen.
    unsaid = {"sampling": None} if isinstance(task, AnswerTask) else {}
    assert about["parameters"] == unsaid | {k: v for k, v in task.parameters().items() if k != "name"}
    assert tasks.make(task.parameters()) == task
    assert tasks.make(task.parameters()).hash() == task.hash()
    assert set(task.size) <= set(about["parameters"])


@pytest.mark.parametrize("name", tasks.names())
def test_each_task_has_a_yaml(name):
    text = files("kvfrontier.configs").joinpath("task", f"{name}.yaml").read_text()
    assert re.search(rf"^defaults: \[base/{name}@_here_", text, re.M)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "needel"}, "there is no task 'needel'; did you mean 'needle'"),
        ({}, "there is no task ''"),
        ({"name": "needle", "sample": 3}, "parameter of task needle 'sample'; did you mean 'samples'"),
        ({"name": "needle", "samples": "many"}, r"task\.samples='many'"),
        ({"name": "needle", "samples": 0}, "samples=0: at least one"),
        ({"name": "needle", "depth": 1.5}, "depth=1.5: give a number from 0 to 1, or even"),
        ({"name": "needle", "depth": "deep"}, r"task\.depth='deep'"),
        ({"name": "needle", "keys": 0}, "keys=0"),
        ({"name": "needle", "values": 0}, "values=0"),
        ({"name": "needle", "compress_at": "once"}, r"task\.compress_at='once': Input should be 'context' or 'prompt'"),
        ({"name": "perplexity", "texts": []}, "texts is empty"),
        ({"name": "perplexity", "scored": 100}, "scored=100 is not a multiple of block=32"),
        ({"name": "perplexity", "passages": 0}, "passages=0"),
    ],
)
def test_a_wrong_choice_answers_with_one_sentence_that_says_what_to_do(config, message):
    with pytest.raises(UsageError, match=message) as caught:
        tasks.make(config)
    assert "\n" not in str(caught.value)


def test_what_decides_a_score_changes_the_hash_and_the_number_of_samples_does_not():
    def needle(**options):
        return tasks.make({"name": "needle", **options}).hash()

    assert needle(samples=100) == needle()
    others = [
        {"compress_at": "prompt"},
        {"chat_template": False},
        {"haystack": "hamlet"},
        {"depth": 0.5},
        {"keys": 2},
        {"values": 2},
    ]
    assert len({needle(), *(needle(**other) for other in others)}) == 1 + len(others)
    assert needle(keys=2, retrieve="all") != needle(keys=2)
    assert needle(depth=0) == needle(depth=0.0)
