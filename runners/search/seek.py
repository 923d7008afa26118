"""Which sizes are tried: doubling until one does not fit, then bisection."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def largest(
    fits: Callable[[int], bool], *, start: int, most: int, step: int = 1, least: int = 1, hints: Sequence[int] = ()
) -> int:
    """The largest size that fits, of `start` doubled, `most`, and the multiples of `step` that are at least `least`; 0
    where none does.

    Bisection tries the first of `hints` (where the wall is thought to be) that lies between what fits and what does
    not; a right hint, and the next multiple, end it in two tries. The answer fits, and within one step of it lies a
    size that does not: with a cost that is not monotone there may be others beyond.
    """
    low, high = 0, min(start, most)
    while fits(high):
        low = high
        if low == most:
            return most
        high = min(2 * high, most)
    while True:
        first, last = max(low // step + 1, -(-least // step)), (high - 1) // step  # multiples strictly between
        if first > last:
            return low
        hint = next((h for h in hints if max(low, least - 1) < h < high), None)
        middle = (first + last) // 2 * step if hint is None else hint
        low, high = (middle, high) if fits(middle) else (low, middle)
