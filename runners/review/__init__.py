"""What a reviewer asks of scores, answered from records, mostly without a model.

rescore.py    stored answers, scored again
"""
