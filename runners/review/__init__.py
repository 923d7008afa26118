"""What a reviewer asks of scores, answered from records, mostly without a model.

rescore.py    stored answers, scored again
prompts.py    exactly what a sample feeds to the model, and what came back
protocol.py   what decides whether two scores may be put together, and why these two may not
power.py      how many samples it takes to tell two methods apart
"""
