"""Published comparisons, judged: from what was measured to a verdict that nobody writes by hand.

comparison.py   what a paper says, and what would show it here (a YAML of configs/reproduce)
evidence.py     what was measured of each case, and its resamples
judge.py        the rule: evidence -> holds, holds in direction, fails, cannot be tested here
table.py        claimed | measured | verdict, as a page and as data
"""
