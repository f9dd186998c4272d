"""Self-improvement: a committee labels questions harder than any it was taught, and learns from its own labels.

1. The voters, a population from different seeds, learn base difficulties from true answers, each voter from its own
   batches.
2. In each round every voter answers prompts of the next difficulty (`labels.py`); filters and a vote, of equal votes or
   by reliability, choose which answers to keep; all voters train on these and on everything older, each on its own
   batches, so that they stay different (`rounds.py`). Too little trust in the labels may end the rounds before that.
3. After the round the committee answers test prompts (`guard.py`). Where it has come apart, or forgot what it knew,
   the round is undone and tried again with a stricter vote.

No true answer beyond the base difficulties is used to choose, filter, open, stop or keep: agreement among the voters
decides these. True answers stand in the record, beside the figures that decide.

After Lee et al. 2025, "Self-Improving Transformers Overcome Easy-to-Hard and Length Generalization Challenges", arXiv
2502.01612. The mixture, the vote and, nearly, the length filter are from there; the gate by agreement, the
guard and votes by reliability (`evaluate/reliability.py`) are not.
"""
