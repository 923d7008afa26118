"""Planning: what a model, a method and a context take of a device that need not be there.

words.py      key=value -> cells
sizes.py      the state, in closed form
peaks.py      the peaks, by the real code on fake tensors
roofline.py   the least time it can take
rows.py       one cell: sizes, whether it fits and what would
why.py        what dominates the peak, and what would help most
fit.py        which methods and budgets fit
show.py       the command's tables
hardware.py   the devices of configs/hardware
"""
