"""The trained track: small models trained from scratch with each method, and what they can then do.

tasks/       what they are trained on and asked: recall, copying, lists, text
model.py     the compact decoder; any configuration of transformers serves as well (build.py)
session.py   the session of the drop-in track, whose calls are differentiated and whose learnable parts are trained
trainer.py   one training: batches, schedule, checkpoints; the same run whether it was interrupted or not
search.py    learning rates, best first
exam.py      what a trained model scores, and what its state holds, measured, while it does
plan.py      from words and sweeps to trainings, less those that are recorded
show.py      the command
"""
