"""Published benchmarks whose data lie on the hub or in a folder: their prompts as data, their own metrics.

A YAML beside this file is one benchmark: where its data are (repository and pinned commit), and for each of its data
sets the prompt, how many tokens may be generated, and which metric scores them.

source.py     rows of a data set, from a folder or the hub
metrics.py    the official metrics, one function each
task.py       what the benchmarks share: prompt, truncation, scoring; and the benchmarks that are nothing else
nolima.py     NoLiMa, whose needles are set into a book here
"""
