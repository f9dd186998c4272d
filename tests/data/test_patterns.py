"""Patterns of published tokenizers are safe; those that blow up are not."""

import pytest

from nanogrove.data.patterns import refusal

SAFE = [
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",  # GPT-2
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",  # Llama 3
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$",  # GPT-4
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'d)?",  # GPT-4o
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[一-龥぀-ゟ゠-ヿ]+",  # DeepSeek
    r" ?[^(\s|[.,!?…。，、।۔،])]+",  # BLOOM
    r"\d{1,3}(?=(?:\d{3})*\b)|(?=(\d{3})+(?!\d))",
    r"[\p{Lu}&&[^\p{Han}]]*|<\|startoftext\|>| {2,}|(?:ab){5}",
]
UNSAFE = {
    "((a{1000}){1000}){1000}": "repeats more than 100,000 characters",
    "[a]{1000000000}": "repeats a character more than 999,999 times",
    "(a|aa)+b": "repeats a group that repeats or has alternatives",
    "(a+)+$": "repeats a group that repeats or has alternatives",
    "(?i:(a*))*": "repeats a group that repeats or has alternatives",
    "(?<x>a{1,2}){3,}?": "repeats a group that repeats or has alternatives",
    "a{1,3}{2}": "repeats a group that repeats or has alternatives",
    r"(a)\1": "refers to a group",
    r"(?<n>a\g<n>)": "refers to a group",
    "(?(1)a|b)": "has a group (?(",
    "(?#:[)(a+)+$": "has a group (?#",
    "(?x) # [\n(a+)+$": "has the flag x",
    "(?P<n>a)(?P=n)": "refers to a group",
    "a*a*a*a*a*a*a*b": "has more than 6 open repeats one after the other",
    "a?" * 40 + "a" * 40: "may match in more than 1,000,000 ways",
    "(?:a|ab)" * 40 + "c": "may match in more than 1,000,000 ways",
    "a{0,200}b{0,200}c{0,200}": "may match in more than 1,000,000 ways",
    "a" * 10_001: "is longer than 10,000 characters",
}


@pytest.mark.parametrize("pattern", SAFE)
def test_published_patterns_are_safe(pattern: str) -> None:
    assert refusal(pattern) is None


@pytest.mark.parametrize("pattern", UNSAFE)
def test_a_pattern_that_blows_up(pattern: str) -> None:
    assert refusal(pattern) == UNSAFE[pattern]


@pytest.mark.parametrize(
    "pattern", ["(", ")", "a)b(", "[", "[^", "]", "[]a]+", "x{", "a{b}", "{3}", "\\", "(?", r"\p{", "*"]
)
def test_what_is_no_pattern_is_left_to_the_library(pattern: str) -> None:
    assert refusal(pattern) is None


@pytest.mark.parametrize("pattern", [r"[(a+)+]", r"\(a+\)+", r"[\]()+]+", r"[[ab](]+", r"(?:)"])
def test_what_only_looks_like_a_group(pattern: str) -> None:
    assert refusal(pattern) is None


def test_a_bracket_within_a_class_of_python_opens_no_other() -> None:
    assert refusal("[[](a+)+$") is None, "of Oniguruma, the class does not end"
    assert refusal("[[](a+)+$", classes_nest=False) == UNSAFE["(a+)+$"]
