"""Sweeps: from axes to cells, to jobs, to records.

cells.py  which cells a sweep has, which are recorded, and which share a job; nothing is run there
run.py    checking, launching what is missing, and saying what came of it
"""
