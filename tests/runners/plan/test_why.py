"""Four planted causes of running out of memory, each found, with what helps."""

import pytest

from kvfrontier.runners.plan import words
from kvfrontier.runners.plan.rows import Planned
from kvfrontier.runners.plan.why import explain

PLANTED = {
    "weights": ["model=llama-3.2-1b", "context=256"],
    "logits": ["model=smollm2-135m", "context=8192", "chunk=null", "logits=all"],
    "cache": ["model=smollm2-135m", "context=2048", "batch=64", "chunk=64"],
    "fragmentation": ["model=smollm2-135m", "method=paged", "method.block=256", "requests=256x16"],
}


@pytest.fixture
def why():
    return lambda *asked: explain(Planned(words.read(asked)[0]))


@pytest.mark.parametrize("cause", PLANTED)
def test_a_planted_cause_is_what_dominates_and_what_is_mended(why, cause):
    found = why(*PLANTED[cause])
    assert found.dominant == cause
    assert found.remedies[0].term == cause
    assert found.share(cause) > 0.5


def test_the_terms_make_up_the_peak(planned):
    one = planned()
    assert sum(explain(one).terms.values()) == max(one.peaks.prefill, one.peaks.decode)


def test_the_remedy_for_logits_saves_what_it_says(why):
    asked = PLANTED["logits"]
    every, last = Planned(words.read(asked)[0]).peaks, Planned(words.read([*asked[:-1], "logits=last"])[0]).peaks
    assert why(*asked).remedies[0].saved == max(every.prefill, every.decode) - max(last.prefill, last.decode)


def test_the_diagnosis_is_a_sentence_that_a_person_can_act_on(why):
    text = why(*PLANTED["logits"]).text()
    assert "the logits of the whole prompt" in text
    assert "logits_to_keep=1" in text
    assert "GiB" in text


def test_the_command_says_why(plan):
    (row,) = plan("model=tiny", "context=200", "chunk=64", "--why")
    assert row["why"]["dominant"] in row["why"]["terms"]
    assert row["why"]["text"]
