"""`kvfrontier publish`: records as a data set that others can load, with a card, a leaderboard and its page.

dataset.py   the folder: records as they are, one table of all rows, the report, the card
card.py      the card (README.md, with the Hub's front matter) and Croissant metadata
send.py      to the Hugging Face Hub or to Weights & Biases, with the user's own credentials
"""
