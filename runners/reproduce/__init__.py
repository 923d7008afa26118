"""`kvfrontier reproduce`: runs what a published comparison needs. What it comes to, analysis/reproduce says.

cases.py      a comparison's cases as cells, and the records that are theirs
measures.py   what is measured without a model
run.py        runs what is missing, and judges what is there
show.py       for a person to read, or for a program
"""
