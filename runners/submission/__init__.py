"""`kvfrontier validate`: whether records may be put beside others, before anybody merges them.

reading.py      lines of a file that may hold anything: sizes, plain JSON, the schema
invariants.py   what is true of every record that a run made
show.py         all problems of some files, for a person or for a program
"""
