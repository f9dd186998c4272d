"""Reinforcement learning drawn as regret: every method from one base, against an optimum that is known exactly.

`study.py` runs it, `settings.py` says what may be set, `entrants.py` is the table of methods, `worlds.py` has the base
of a seed with all that is exact about it, `measured.py` the points of a run, and `page.py` the report.
"""
