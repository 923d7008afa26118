"""Planning: what a model, a method and a context take of a device that need not be there.

words.py      key=value -> cells
sizes.py      the state, in closed form
run.py        what decides a peak
peaks.py      the peaks, by the real code on fake tensors
shorter.py    chunks and layers that need not be run again
roofline.py   the least time it can take
rows.py       one cell: sizes, whether it fits and what would
why.py        what dominates the peak, and what would help most
fit.py        which methods and budgets fit
ask.py        the same from Python, kvfrontier.plan
show.py       the command's tables
agreement.py  predicted against measured
hardware.py   the devices of configs/hardware
"""
