"""What a GPU is asked, in minutes: `kvfrontier gpu-suite`, or `python -m kvfrontier.runners.gpu_suite`.

conductor.py  starts the worker, ends what takes too long, starts it anew after a crash; loads no torch
worker.py     runs one item after the other, the most valuable first, until the time is over
items.py      what an item is, and all of them in order
journal.py    what is written down at once, so that nothing is lost and a second run goes on
scale.py      sizes: of a GPU, and so small that a CPU runs the same path in seconds (--dry-run)
bench.py      what items share: the device, its clock, tensors and models of Llama-3.1-8B's shape
checks.py     (a) kernels and backends against eager; every method in bfloat16; predicted and measured peaks
curves.py     (b) decode and prefill of dense backends and kernels, over the context
families.py   (c) families of methods side by side
walls.py      (d) the longest context that this device holds
quality.py    (e) the embedded model in bfloat16
traces.py     (f) profiles of the slowest
page.py       all of it on one page, with what was to be reached
"""
