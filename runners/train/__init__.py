"""The trained track: small models trained from scratch with each method, and what they can then do.

tasks/         what they are trained on and asked: recall, copying, lists, text
model.py       the compact decoder; any configuration of transformers serves as well (build.py)
begin.py       random weights; weights that dense attention trained; a pretrained model's
session.py     the session of the drop-in track, whose calls are differentiated and whose learnable parts are trained
trainer.py     one training: batches, schedule; the same run whether it was interrupted or not (checkpoint.py)
search.py      learning rates, best first
exam.py        what a trained model scores, and what its state holds, measured, while it does
plan.py        from words and sweeps (configs/train) to trainings, with the records that exist
run.py         running those that are missing
show.py        the command
"""
