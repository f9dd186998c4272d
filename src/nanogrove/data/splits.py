"""The three splits of every corpus."""

from typing import Literal

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
WITHOUT_TEST: tuple[Split, ...] = ("train", "validation")
