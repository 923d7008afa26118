"""What comes to a server: requests of some lengths, at some times, that may begin alike.

    uniform:prompt=1-1024:output=1-1024     each length as likely as another
    lognormal:prompt=161:output=338:sigma=1 means in tokens, and the deviation of the logarithm
    sharegpt                                conversations, as far as their published means tell
    32x500                                  as many of that many tokens, of which `new` are decoded
    rag                                     a workload of configs/workload, with its common prefixes
    file.csv                                columns prompt,output[,arrival,prefix_group,prefix_tokens]

Arrivals are in decode steps: all at once, poisson:0.05 (requests a step), or a CSV's own.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from kvfrontier.runners import workloads
from kvfrontier.runners.errors import UsageError, unknown

#: "32x500"
_SAME = re.compile(r"(\d+)x(\d+)")
_REQUIRED, _OPTIONAL = ("prompt", "output"), ("arrival", "prefix_group", "prefix_tokens")
Lengths = NDArray[np.int64]


@dataclass(frozen=True)
class Request:
    """One text that is read and continued.

    prompt, output   tokens, at least one each
    arrival          the step at which it comes
    group, prefix    the first `prefix` tokens of its prompt are those of every request of its group, so far as these
                     have as many
    """

    prompt: int
    output: int
    arrival: int = 0
    group: str = ""
    prefix: int = 0

    def __post_init__(self) -> None:
        if self.prompt < 1 or self.output < 1:
            raise ValueError(f"prompt={self.prompt} and output={self.output} must be at least 1")
        if self.arrival < 0:
            raise ValueError(f"arrival={self.arrival} must not be negative")
        if not 0 <= self.prefix <= self.prompt:
            raise ValueError(f"prefix_tokens={self.prefix} must be 0 to the prompt's {self.prompt}")
        if self.prefix and not self.group:
            raise ValueError(f"prefix_tokens={self.prefix} needs a prefix_group with which they are shared")

    @property
    def total(self) -> int:
        """Tokens when it ends."""
        return self.prompt + self.output


# -------------------------------------------------------------------------------------------------- lengths


@dataclass(frozen=True)
class Uniform:
    """Every length of a range, its ends included, as likely as another."""

    prompt: tuple[int, int] = (1, 1024)
    output: tuple[int, int] = (1, 1024)

    def __post_init__(self) -> None:
        for name, (low, high) in (("prompt", self.prompt), ("output", self.output)):
            if not 1 <= low <= high:
                raise UsageError(f"{name}={low}-{high} must rise from at least 1")

    def draw(self, n: int, rng: Generator) -> tuple[Lengths, Lengths]:
        """n prompts and n outputs, in tokens."""
        return rng.integers(*self.prompt, n, endpoint=True), rng.integers(*self.output, n, endpoint=True)


@dataclass(frozen=True)
class LogNormal:
    """Logarithms of a normal distribution: prompt and output are the means in tokens, sigma the deviation of the
    natural logarithm, of both. Rounded up, so that a text has a token; long tails are not cut."""

    prompt: float = 161.0
    output: float = 338.0
    sigma: float = 1.0

    def __post_init__(self) -> None:
        if not (self.prompt >= 1 and self.output >= 1 and 0 <= self.sigma <= 5):
            raise UsageError(
                f"lognormal:prompt={self.prompt}:output={self.output}:sigma={self.sigma} needs means of at least 1 and "
                "a sigma of 0 to 5"
            )

    def draw(self, n: int, rng: Generator) -> tuple[Lengths, Lengths]:
        """n prompts and n outputs, in tokens."""
        prompt, output = (
            np.ceil(rng.lognormal(math.log(mean) - self.sigma**2 / 2, self.sigma, n)).astype(np.int64)
            for mean in (self.prompt, self.output)
        )
        return prompt, output


@dataclass(frozen=True)
class ShareGPT:
    """Conversations of ShareGPT, from what is published of them: the mean prompt and the mean output (Kwon et al. 2023,
    arXiv:2309.06180, figure 11, in tokens of OPT).

    Assumed: prompt and output are independent, and geometric, the distribution on 1, 2, ... of the largest entropy at a
    given mean, so that nothing is chosen beside the two means. Pairs of more than `longest` tokens are drawn again: the
    data were used without those that the models cannot take. (This lowers the mean output by 2%.)
    """

    prompt: float = 161.31
    output: float = 337.99
    longest: int = 2048

    def __post_init__(self) -> None:
        if not (self.prompt >= 1 and self.output >= 1 and self.longest >= self.prompt + self.output):
            raise UsageError(
                f"sharegpt:prompt={self.prompt}:output={self.output}:longest={self.longest} needs means of at least 1 "
                "whose sum is no more than the longest"
            )

    def draw(self, n: int, rng: Generator) -> tuple[Lengths, Lengths]:
        """n prompts and n outputs, in tokens."""
        prompt, output = rng.geometric(1 / self.prompt, n), rng.geometric(1 / self.output, n)
        while (again := np.flatnonzero(prompt + output > self.longest)).size:
            prompt[again] = rng.geometric(1 / self.prompt, again.size)
            output[again] = rng.geometric(1 / self.output, again.size)
        return prompt, output


#: By the name that `requests=` takes.
DISTRIBUTIONS: Mapping[str, type[Uniform | LogNormal | ShareGPT]] = {
    "uniform": Uniform,
    "lognormal": LogNormal,
    "sharegpt": ShareGPT,
}


def distribution(asked: str) -> Uniform | LogNormal | ShareGPT:
    """The distribution that is asked for, as `lognormal:sigma=0.5`. Raises UsageError."""
    name, *settings = asked.split(":")
    if name not in DISTRIBUTIONS:
        raise unknown("distribution of requests", name, [*DISTRIBUTIONS, *workloads.names(), "32x500", "file.csv"])
    kind = DISTRIBUTIONS[name]
    known = {field.name: type(field.default) for field in fields(kind)}
    given = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in known:
            raise unknown(f"setting of {name}", key, known)
        given[key] = _value(known[key], text, f"{name}:{setting}")
    return kind(**given)


def _value(kind: type, text: str, where: str) -> float | int | tuple[int, int]:
    try:
        if kind is tuple:
            low, _, high = text.partition("-")
            return int(low), int(high or low)
        return kind(text)
    except ValueError:
        example = "1-1024" if kind is tuple else "a number"
        raise UsageError(f"{where} cannot be read; write {example} after the =") from None


# -------------------------------------------------------------------------------------------------- arrivals


def at_once(n: int, rng: Generator) -> Sequence[int]:
    """All at the first step."""
    return [0] * n


def poisson(rate: float) -> Callable[[int, Generator], Sequence[int]]:
    """A Poisson process of `rate` requests a step; a request is seen at the next whole step."""
    return lambda n, rng: np.ceil(np.cumsum(rng.exponential(1 / rate, n))).astype(int).tolist()


def arrivals(asked: str) -> Callable[[int, Generator], Sequence[int]]:
    """The times of n requests, as `at_once` or `poisson:0.05`. Raises UsageError."""
    name, _, rate = asked.partition(":")
    if name == "at_once" and not rate:
        return at_once
    if name != "poisson":
        raise unknown("arrivals", asked, ("at_once", "poisson:0.05"))
    try:
        requests_a_step = float(rate)
    except ValueError:
        requests_a_step = 0.0
    if not 0 < requests_a_step < math.inf:
        raise UsageError(f"arrivals={asked} has no rate; write poisson:0.05 for one request in 20 steps")
    return poisson(requests_a_step)


# -------------------------------------------------------------------------------------------------- all of it


@dataclass(frozen=True)
class Traffic:
    """What decides the requests.

    lengths        as in this file's head
    arrivals       at_once, poisson:RATE, or None: at once, or the CSV's own
    count, seed    how many a distribution gives, and from which seed
    new            of 32x500, tokens of each that are decoded
    prefix, groups tokens put before every prompt that are common to its group, and how many groups there are
    """

    lengths: str
    arrivals: str | None = None
    count: int = 1000
    seed: int = 0
    new: int = 1
    prefix: int = 0
    groups: int = 1

    def requests(self) -> list[Request]:
        """The requests. Raises UsageError, and names the line of a CSV that cannot be read."""
        # Streams of their own, so that other arrivals leave the lengths as they are.
        of_lengths, of_times = (np.random.default_rng([self.seed, stream]) for stream in range(2))
        found = self._of_lengths(of_lengths)
        if self.arrivals is not None:
            if any(request.arrival for request in found):
                raise UsageError(f"{self.lengths} says when its requests arrive; leave arrivals={self.arrivals} out")
            times = arrivals(self.arrivals)(len(found), of_times)
            found = [replace(request, arrival=time) for request, time in zip(found, times, strict=True)]
        return found

    def _of_lengths(self, rng: Generator) -> list[Request]:
        if self.lengths in workloads.names():
            if self.prefix:
                raise UsageError(f"{self.lengths} has prefixes of its own; leave prefix= out")
            return of_workload(workloads.load(self.lengths))
        same = _SAME.fullmatch(self.lengths)
        if self.lengths.endswith(".csv"):
            if self.prefix:
                raise UsageError(f"{self.lengths} has prefixes of its own (prefix_tokens); leave prefix= out")
            return read_csv(Path(self.lengths))
        if same:
            n, total = int(same[1]), int(same[2])
            if not n or total <= self.new:
                raise UsageError(f"requests={self.lengths} with new={self.new} leaves nothing to read")
            lengths = [(total - self.new, self.new)] * n
        else:
            drawn = distribution(self.lengths).draw(self.count, rng)
            lengths = list(zip(*(x.tolist() for x in drawn), strict=True))
        if not self.prefix:
            return [Request(prompt, output) for prompt, output in lengths]
        return [
            Request(self.prefix + prompt, output, group=str(i % self.groups), prefix=self.prefix)
            for i, (prompt, output) in enumerate(lengths)
        ]


def of_workload(workload: workloads.Workload) -> list[Request]:
    """A workload's requests. Of several turns, all that comes after the first prompt counts as output."""
    return [
        Request(r.prompt, r.total - r.prompt, group=str(i) if r.shared else "", prefix=r.shared)
        for i, r in enumerate(workload.requests)
        for _ in range(r.count)
    ]


def read_csv(path: Path) -> list[Request]:
    """The requests of a CSV with a header. Raises UsageError, with the line, for what is no request."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not text'}") from error
    rows = csv.DictReader(text.splitlines(), skipinitialspace=True)
    header = list(rows.fieldnames or ())
    if missing := [name for name in _REQUIRED if name not in header]:
        raise UsageError(f"{path} line 1: there is no column {missing[0]!r}; the header is prompt,output and, if you "
                         f"like, {','.join(_OPTIONAL)}")  # fmt: skip
    for name in header:
        if name not in (*_REQUIRED, *_OPTIONAL):
            raise UsageError(f"{path} line 1: {unknown('column', name, (*_REQUIRED, *_OPTIONAL))}")
    found = []
    for row in rows:
        try:
            found.append(_request(row))
        except ValueError as error:
            raise UsageError(f"{path} line {rows.line_num}: {error}") from error
    if not found:
        raise UsageError(f"{path} has no requests; write one on each line below the header")
    return found


def _request(row: Mapping[str | None, str | None]) -> Request:
    if None in row:
        raise ValueError("more values than the header has columns")
    return Request(
        prompt=_whole(row, "prompt"),
        output=_whole(row, "output"),
        arrival=_whole(row, "arrival", 0),
        group=(row.get("prefix_group") or "").strip(),
        prefix=_whole(row, "prefix_tokens", 0),
    )


def _whole(row: Mapping[str | None, str | None], name: str, default: int | None = None) -> int:
    text = (row.get(name) or "").strip()
    if not text and default is not None:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is no whole number") from None
