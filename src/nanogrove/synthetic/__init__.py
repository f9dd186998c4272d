"""Data with known truth: tasks with answers to check, and grammars with exact next-token probabilities."""

from nanogrove.synthetic.rhm import RandomHierarchyModel
from nanogrove.synthetic.rlm import RandomLanguageModel

__all__ = ["RandomHierarchyModel", "RandomLanguageModel"]
