"""What comes to a server: lengths, arrivals, prefixes, a file of one's own."""

import numpy as np
import pytest

from kvfrontier.runners.allocators.requests import Request, ShareGPT, Traffic, distribution, read_csv
from kvfrontier.runners.errors import UsageError


def drawn(spec, n=40_000):
    return distribution(spec).draw(n, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("spec", "means"),
    [("uniform:prompt=11-21:output=5", (16, 5)), ("lognormal:prompt=300:output=90:sigma=0.5", (300.5, 90.5))],
)
def test_lengths_have_the_means_that_are_asked_for(spec, means):
    prompt, output = drawn(spec)
    assert prompt.mean() == pytest.approx(means[0], rel=0.01)
    assert output.mean() == pytest.approx(means[1], rel=0.01)
    assert min(prompt.min(), output.min()) >= 1


def test_the_deviation_of_the_logarithm_is_sigma():
    prompt, _ = drawn("lognormal:prompt=5000:sigma=0.7")
    assert np.log(prompt).std() == pytest.approx(0.7, rel=0.02)


def test_uniform_reaches_both_ends():
    prompt, output = drawn("uniform:prompt=3-5:output=1-2", 500)
    assert set(prompt) == {3, 4, 5} and set(output) == {1, 2}


def test_sharegpt_has_the_published_means_and_nothing_that_is_too_long():
    prompt, output = drawn("sharegpt")
    assert prompt.mean() == pytest.approx(ShareGPT().prompt, rel=0.02)
    assert output.mean() == pytest.approx(ShareGPT().output, rel=0.04)
    assert (prompt + output).max() <= 2048
    uncut, _ = drawn("sharegpt:longest=1000000")
    assert uncut.mean() == pytest.approx(161.31, rel=0.02)


def test_the_seed_decides_the_requests_and_arrivals_leave_the_lengths_alone():
    first = Traffic("sharegpt", count=50, seed=1).requests()
    assert first == Traffic("sharegpt", count=50, seed=1).requests()
    assert first != Traffic("sharegpt", count=50, seed=2).requests()
    later = Traffic("sharegpt", "poisson:0.1", count=50, seed=1).requests()
    assert [(r.prompt, r.output) for r in later] == [(r.prompt, r.output) for r in first]


def test_a_poisson_process_has_its_rate_and_independent_gaps():
    times = [r.arrival for r in Traffic("8000x2", "poisson:0.05").requests()]
    assert times == sorted(times)
    gaps = np.diff(times)
    # Gaps of an exponential distribution deviate by their mean.
    assert gaps.mean() == pytest.approx(20, rel=0.05)
    assert gaps.std() == pytest.approx(20, rel=0.05)


def test_the_seeds_scenarios_say_number_and_length():
    many = Traffic("32x500").requests()
    assert many == [Request(499, 1)] * 32
    assert Traffic("1x16000", new=1000).requests() == [Request(15_000, 1000)]


def test_a_common_prefix_stands_before_every_prompt():
    requests = Traffic("4x10", prefix=100, groups=2).requests()
    assert requests == [Request(109, 1, group=group, prefix=100) for group in "0101"]


def test_a_csv_gives_requests(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("prompt,output,arrival,prefix_group,prefix_tokens\n10,5,0,,\n\n20, 6, 3, chat, 8\n")
    assert read_csv(file) == [Request(10, 5), Request(20, 6, 3, "chat", 8)]
    file.write_text("output,prompt\n5,10\n")
    assert Traffic(str(file), "poisson:1").requests()[0].prompt == 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,output\n1,2\n3,x\n", r"own\.csv line 3: output='x' is no whole number"),
        ("prompt,output\n1,2\n\n3\n", r"own\.csv line 4: output='' is no whole number"),
        ("prompt,output\n0,2\n", r"own\.csv line 2: prompt=0 and output=2 must be at least 1"),
        ("prompt,output\n1,2,3\n", r"own\.csv line 2: more values than the header has columns"),
        ("prompt,output,arrival\n1,2,-1\n", r"own\.csv line 2: arrival=-1 must not be negative"),
        ("prompt,output,prefix_tokens\n5,2,3\n", r"own\.csv line 2: prefix_tokens=3 needs a prefix_group"),
        ("prompt,output,prefix_group,prefix_tokens\n5,2,a,6\n", r"own\.csv line 2: prefix_tokens=6 must be 0 to"),
        ("prompt,outptu\n1,2\n", r"own\.csv line 1: there is no column 'output'"),
        ("prompt,output,arival\n1,2,3\n", r"own\.csv line 1: there is no column 'arival'; did you mean 'arrival'"),
        ("prompt,output\n", r"own\.csv has no requests"),
        ("", r"own\.csv line 1: there is no column 'prompt'"),
    ],
)
def test_a_bad_csv_names_its_line(tmp_path, text, message):
    file = tmp_path / "own.csv"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_csv(file)


@pytest.mark.parametrize(
    ("traffic", "message"),
    [
        (Traffic("lognormel"), "did you mean 'lognormal'"),
        (Traffic("lognormal:sigm=1"), "did you mean 'sigma'"),
        (Traffic("lognormal:sigma=much"), "write a number"),
        (Traffic("lognormal:prompt=nan"), "needs means of at least 1"),
        (Traffic("uniform:prompt=9-2"), "must rise"),
        (Traffic("uniform:prompt=a-b"), "write 1-1024"),
        (Traffic("sharegpt:longest=100"), "no more than the longest"),
        (Traffic("32x1"), "leaves nothing to read"),
        (Traffic("4x5", "poisson:0"), "has no rate"),
        (Traffic("4x5", "poison:1"), "did you mean 'poisson:0.05'"),
        (Traffic("nowhere.csv"), "cannot read nowhere.csv"),
    ],
)
def test_what_cannot_be_read_is_said_with_what_to_do(traffic, message):
    with pytest.raises(UsageError, match=message):
        traffic.requests()


def test_a_csv_with_times_takes_no_other_arrivals(tmp_path):
    file = tmp_path / "own.csv"
    file.write_text("prompt,output,arrival\n1,2,7\n")
    with pytest.raises(UsageError, match="leave arrivals=at_once out"):
        Traffic(str(file), "at_once").requests()
