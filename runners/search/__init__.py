"""Searches for what fits: the longest context, or the largest batch, under a limit on memory.

settings.py   what a search is asked for (configs/search)
seek.py       doubling, then bisection: which sizes are tried
predict.py    what fits by the peaks of fake tensors, before anything is run
process.py    one try in a process of its own, whose death is a result
probe.py      what such a process does
run.py        a whole search, and what the record keeps of it
"""
