"""On-policy policy gradients: a model writes samples, a reward scores them, and what scored above its group is learned.

1. A saved run, or `base_steps` of the data's true answers, is the policy to begin from, and the reference.
2. In each step the policy writes `samples` of each prompt, in one batched decoding (`samples.py`). Each gets a reward:
   1 for a right answer and 0 for a wrong one, where the data have answers, or what `reward` says of its text.
   One update by RLOO or GRPO follows (`train/objectives/policy_gradient.py`), or `iterations` of them on the same
   samples, with clipped ratios.
3. At evaluations the share of right answers of greedy decoding, or the reward of fresh samples, is measured after
   held-out prompts, and KL(policy ‖ reference) on held-out texts. The best model is the one of the highest figure.

Prompts are what the data begin with: all before the first scored token, such as a question, or the mark at which the
sequences of a grammar begin. Nothing after the prompt is shown to the policy; an answer decides a reward and no more.

Prompts, samples and dropout are functions of (seed, purpose, step, member), so a resumed run is the uninterrupted one.
Samples of several updates are kept with the state.
"""
