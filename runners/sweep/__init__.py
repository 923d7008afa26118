"""Sweeps: from one command to records of all its cells, through whatever happens on the way.

axes.py       axes, zipped axes and exclusions -> the overrides of each cell
cells.py      overrides -> cells, less what is recorded, grouped into jobs
order.py      which job comes first, and which part of a sweep it is in
present.py    what is recorded, read quickly
pace.py       how long cells take, from earlier records
forecast.py   state, peak and time of cells before they run, and what will not fit
run.py        plan, launch, and say what came of it
show.py       the tables of a dry run and of a run
crew.py       cells in a process apart, and what becomes a record when it ends
worker.py     that process
stop.py       SIGTERM: what runs is finished soon, or given back
claims.py     which sweep works on what, where several share a folder
manifest.py   what a sweep set out to do, for whoever looks at its folder
"""
