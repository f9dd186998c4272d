"""Tasks with known answers: formats worked out by hand, answers computed another way, examples by their number."""

import re

import numpy as np
import pytest

from nanogrove.data.rng import random
from nanogrove.errors import DataError
from nanogrove.synthetic.tasks import TASKS, Task, examples, find_task

DIFFICULTIES = dict.fromkeys(TASKS, (1, 2, 3, 7)) | {"maze": (1, 4, 29), "maze-nodes": (10, 17, 99)}
OPTIONS: list[tuple[str, dict[str, object]]] = [(name, {}) for name in TASKS] + [
    ("addition", {"padded": True}),
    ("reversed-addition", {"equal": False}),
    ("addition", {"equal": False}),
    ("multiplication", {"equal": False}),
    ("maze", {"nodes": 12}),
    ("maze-nodes", {"hops": 3}),
]
ARITHMETIC = [(name, options) for name, options in OPTIONS if name in ("addition", "reversed-addition")]


def some(task: Task, count: int = 300) -> list[tuple[int, str, str]]:
    """Difficulties, prompts and answers."""
    levels = [d for d in DIFFICULTIES[task.name] if task.name != "maze" or d < getattr(task, "nodes", 30)]
    return [(d, *pair) for d in levels for pair in examples(task, d, 3, "some", range(count))]


@pytest.mark.parametrize(
    ("name", "options", "prompt", "answer"),
    [
        ("copy", {}, "12345=", "12345"),
        ("copy", {}, "007=", "007"),
        ("reverse", {}, "12345=", "54321"),
        ("reverse", {}, "120=", "021"),
        ("reversed-addition", {}, "21+54=", "750"),  # 12 + 45 = 057
        ("reversed-addition", {}, "99+99=", "891"),  # 99 + 99 = 198
        ("reversed-addition", {}, "5+87=", "380"),  # 5 + 78 = 083
        ("addition", {}, "12+45=", "57"),
        ("addition", {}, "95+7=", "102"),
        ("addition", {"padded": True}, "12+45=", "057"),
        ("addition", {"padded": True}, "95+7=", "102"),
        ("multiplication", {}, "3*4=", "21=21"),  # 4 · 3 = 12
        ("multiplication", {}, "3*2=", "60=60"),  # 2 · 3 = 06
        ("multiplication", {}, "21*43=", "840+0630=8040"),  # 4 · 12 = 048, 30 · 12 = 0360; 0408
        # 6 · 123 = 0738, 50 · 123 = 06150, together 06888, 400 · 123 = 049200; 056088
        ("multiplication", {}, "321*654=", "8370+05160(88860)+002940=880650"),
        ("multiplication", {}, "21*304=", "630+0000(6300)+00840=63840"),  # 12 · 403 = 4836
        ("multiplication", {}, "321*4=", "2940=2940"),  # 4 · 123 = 0492
        ("maze", {}, "A>C#B:A,C-A:B-C:B=", "A>B>C"),
        ("maze-nodes", {}, "9>å#9:å-å:a,9-a:å=", "9>å"),
    ],
)
def test_the_formats_by_hand(name: str, options: dict[str, object], prompt: str, answer: str) -> None:
    task = find_task(name, **options)
    assert task.answer(prompt) == answer
    assert task.correct(prompt, answer)
    for wrong in (answer[:-1], answer + "0", " " + answer, "", answer[::-1] + "1"):
        assert not task.correct(prompt, wrong)


@pytest.mark.parametrize(("name", "options"), ARITHMETIC)
def test_sums_against_integers(name: str, options: dict[str, object]) -> None:
    order = -1 if name == "reversed-addition" else 1
    for difficulty, prompt, answer in some(find_task(name, **options)):
        first, second = (text[::order] for text in prompt[:-1].split("+"))
        assert int(answer[::order]) == int(first) + int(second)
        assert max(len(first), len(second)) == difficulty
        if name == "reversed-addition" or options.get("padded"):
            assert len(answer) == difficulty + 1
        else:
            assert answer[0] != "0"


@pytest.mark.parametrize("equal", [True, False])
def test_products_against_integers(equal: bool) -> None:
    for difficulty, prompt, answer in some(find_task("multiplication", equal=equal)):
        first, second = prompt[:-1].split("*")
        multiplicand, multiplier = int(first[::-1]), int(second[::-1])
        assert max(len(first), len(second)) == difficulty
        steps, product = answer.split("=")
        assert int(product[::-1]) == multiplicand * multiplier
        assert len(product) == len(first) + len(second)
        parts = [re.fullmatch(r"(\d+)(?:\((\d+)\))?", step) for step in steps.split("+")]
        assert len(parts) == len(second)
        total = 0
        for place, (part, digit) in enumerate(zip(parts, second, strict=True)):
            assert part is not None
            partial, so_far = part.groups()
            assert int(partial[::-1]) == multiplicand * int(digit) * 10**place
            assert len(partial) == len(first) + place + 1
            total += int(partial[::-1])
            assert (so_far is not None) is (0 < place < len(second) - 1)
            assert so_far is None or (int(so_far[::-1]) == total and len(so_far) == len(partial))
        assert total == multiplicand * multiplier


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_an_example_is_the_prompt_and_its_answer(name: str, options: dict[str, object]) -> None:
    task = find_task(name, **options)
    assert task.name == name
    for _, prompt, answer in some(task):
        assert prompt.endswith("=")
        assert task.answer(prompt) == answer
        assert task.correct(prompt, answer)
        assert not task.correct(prompt, answer[:-1] + ("0" if answer[-1] != "0" else "1"))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_an_example_is_a_function_of_its_number(name: str, options: dict[str, object]) -> None:
    task, difficulty = find_task(name, **options), DIFFICULTIES[name][1]
    whole = examples(task, difficulty, 3, "train", range(20))
    for i in (19, 0, 7):
        assert examples(task, difficulty, 3, "train", [i]) == [whole[i]]
    assert examples(find_task(name, **options), difficulty, 3, "train", np.arange(5, 9)) == whole[5:9]
    assert len(set(whole)) > 10
    assert examples(task, difficulty, 4, "train", range(20)) != whole
    assert examples(task, difficulty, 3, "test", range(20)) != whole


def test_equal_numbers_of_two_difficulties_share_nothing() -> None:
    task = find_task("copy")
    short, long = (examples(task, difficulty, 3, "train", range(500)) for difficulty in (10, 11))
    assert not {prompt[:10] for prompt, _ in short} & {prompt[:10] for prompt, _ in long}  # by chance: 3e-5


@pytest.mark.parametrize("name", ["copy", "reverse", "addition", "reversed-addition", "multiplication", "maze"])
def test_purposes_share_no_long_prompt(name: str) -> None:
    """Of 20 digits there are 10^20 prompts, so that 1,000 × 1,000 pairs coincide with probability 1e-14."""
    task = find_task(name)
    train, test = (
        {prompt for prompt, _ in examples(task, 20, 3, purpose, range(1000))} for purpose in ("train", "test")
    )
    assert len(train) == len(test) == 1000
    assert not train & test


def chi_square(counts: np.ndarray) -> float:
    """Of counts that should be equal."""
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected)


@pytest.mark.parametrize("name", ["copy", "reverse"])
def test_digits_are_uniform_at_every_place(name: str) -> None:
    rows = np.array([[int(d) for d in answer] for _, answer in examples(find_task(name), 5, 3, "train", range(4000))])
    assert rows.shape == (4000, 5)
    for place in rows.T:
        assert chi_square(np.bincount(place, minlength=10)) < 27.9  # exceeded once in 1,000
    pairs = np.bincount(rows[:, 0] * 10 + rows[:, 1], minlength=100)
    assert chi_square(pairs) < 148.2


def test_operands_start_with_no_zero_and_are_uniform() -> None:
    prompts = [prompt for prompt, _ in examples(find_task("addition"), 3, 3, "train", range(4000))]
    for operand in (0, 1):
        rows = np.array([[int(d) for d in prompt[:-1].split("+")[operand]] for prompt in prompts])
        assert rows.shape == (4000, 3)
        assert chi_square(np.bincount(rows[:, 0], minlength=10)[1:]) < 26.1
        assert not (rows[:, 0] == 0).any()
        for place in (1, 2):
            assert chi_square(np.bincount(rows[:, place], minlength=10)) < 27.9


@pytest.mark.parametrize("name", ["addition", "reversed-addition", "multiplication"])
def test_lengths_are_equal_or_every_pair_alike(name: str) -> None:
    def lengths(equal: bool) -> list[tuple[int, int]]:
        prompts = [p for p, _ in examples(find_task(name, equal=equal), 4, 3, "train", range(2000))]
        return [tuple(map(len, re.split(r"[+*]", p[:-1]))) for p in prompts]  # type: ignore[misc]

    assert set(lengths(True)) == {(4, 4)}
    pairs, counts = np.unique(lengths(False), axis=0, return_counts=True)
    assert sorted(map(tuple, pairs.tolist())) == [(1, 4), (2, 4), (3, 4), (4, 1), (4, 2), (4, 3), (4, 4)]
    assert chi_square(counts) < 22.5


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_longest_example_is_as_long_as_said(name: str, options: dict[str, object]) -> None:
    task = find_task(name, **options)
    seen: dict[int, int] = {}
    for difficulty, prompt, answer in some(task, 400):
        seen[difficulty] = max(seen.get(difficulty, 0), len(prompt + answer))
    assert seen == {difficulty: task.longest(difficulty) for difficulty in seen}


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_the_symbols_are_those_that_occur(name: str, options: dict[str, object]) -> None:
    task = find_task(name, **options)
    assert sorted(set(task.symbols)) == list(task.symbols)
    assert set(task.symbols) == {c for _, prompt, answer in some(task) for c in prompt + answer}


@pytest.mark.parametrize(
    ("name", "prompts"),
    [
        ("copy", ["", "=", "12", "12==", "1a2=", "12=\n", " 12=", "1+2=", "٣=", "12=12"]),
        ("reverse", ["", "=", "12", "-12="]),
        ("addition", ["", "1+=", "+1=", "1+2", "1+2+3=", "1*2=", "1 + 2=", "²+1=", "٣+1=", "1" * 2001 + "+1="]),
        ("reversed-addition", ["1+2", "12=", "1+-2="]),
        ("multiplication", ["", "1*=", "*1=", "1*٣=", "1*2", "1*2*3=", "1+2=", "1" * 5000 + "*1="]),
    ],
)
def test_a_malformed_prompt_has_no_answer(name: str, prompts: list[str]) -> None:
    task = find_task(name)
    for prompt in prompts:
        assert task.answer(prompt) is None
        for answer in ("", "0", "1", "None", prompt[:-1]):
            assert not task.correct(prompt, answer)


@pytest.mark.parametrize(
    ("name", "options", "bad", "good"),
    [
        ("copy", {}, (0, -3), (1, 5000)),
        ("reverse", {}, (0, -3), (1, 5000)),
        ("addition", {}, (0, 2001), (1, 2000)),
        ("reversed-addition", {}, (0, 2001), (1, 2000)),
        ("multiplication", {}, (0, 2001), (1, 60)),
        ("maze", {}, (0, 30), (1, 29)),
        ("maze", {"nodes": 2}, (0, 2), (1,)),
        ("maze-nodes", {}, (9, 100), (10, 99)),
        ("maze-nodes", {"hops": 98}, (98, 100), (99,)),
    ],
)
def test_difficulties_out_of_range(
    name: str, options: dict[str, object], bad: tuple[int, ...], good: tuple[int, ...]
) -> None:
    task = find_task(name, **options)
    for difficulty in bad:
        for act in (lambda d=difficulty: task.example(d, random(0, "")), lambda d=difficulty: task.longest(d)):
            with pytest.raises(DataError, match=f"^{name}: difficulty {difficulty} is out of range; .*") as caught:
                act()
            assert "\n" not in str(caught.value)
    for difficulty in good:
        prompt, answer = task.example(difficulty, random(0, ""))
        assert task.correct(prompt, answer)
        assert len(prompt + answer) <= task.longest(difficulty)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("revers", {}, "no task is called 'revers' (did you mean reverse?); there are copy, reverse,"),
        ("sorting", {}, "no task is called 'sorting'; there are copy"),
        ("maze", {"node": 12}, "maze: no option is called 'node' (did you mean nodes?); it has nodes"),
        ("copy", {"padded": True}, "copy: no option is called 'padded'; it has none"),
        ("maze", {"nodes": "12"}, "maze: nodes is '12'; it takes a whole number"),
        ("maze", {"nodes": True}, "maze: nodes is True; it takes a whole number"),
        ("addition", {"padded": 1}, "addition: padded is 1; it takes true or false"),
        ("maze", {"nodes": 1}, "maze: nodes is 1; a maze has 2 to 99"),
        ("maze", {"nodes": 100}, "maze: nodes is 100; a maze has 2 to 99"),
        ("maze-nodes", {"hops": 0}, "maze-nodes: hops is 0; a path has 1 to 98"),
        ("maze-nodes", {"hops": 99}, "maze-nodes: hops is 99; a path has 1 to 98"),
    ],
)
def test_what_find_task_refuses(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match="^" + re.escape(said)) as caught:
        find_task(name, **options)
    assert "\n" not in str(caught.value)
