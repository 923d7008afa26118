"""The prefix store: what dense attention makes of a prompt is computed once, and every method whose prefill is exactly
dense attention starts from it, whatever its store, its budget and the question.

files.py     pieces of prefixes on disk: content-addressed, checked, bounded in size
prefix.py    the dense keys, values and last queries of a prompt, found on disk or computed
session.py   a session whose prompts begin with a prefix where its methods can adopt one
settings.py  what prefix_store= and prefix_store_size= ask for
bench.py     what it is worth, as ratios of one run
command.py   kvfrontier prefix

A pass that measures the time or the peak of a prefill never uses it.
"""
