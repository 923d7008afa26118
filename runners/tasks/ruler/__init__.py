"""RULER's 13 tasks (Hsieh et al. 2024, arXiv 2404.06654), at any length: needles of eight kinds, variable tracking,
common and frequent words, and questions about documents.

Our own generators, to the definitions of the official code (github.com/NVIDIA/RULER, scripts/data/synthetic and
scripts/synthetic.yaml at c3f5e3b): its templates, counts, kinds of distractors and scoring. Prompts are put
together from tokens, so that a prompt is never too long, and short by less than one unit of its filler (a sentence, a
line, a document, or a coded word).

Where we differ: samples are drawn by our seeds; where the official code wraps every example of a few-shot prompt in
the chat template, ours wraps the whole.
"""
