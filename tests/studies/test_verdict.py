"""Verdicts of hand-made figures: which way is better, what is not shown, and what a sentence has to say."""

import math

import numpy as np
import pytest

from nanogrove.errors import StudyError
from nanogrove.record.measures import Measure
from nanogrove.studies.sequential import until_decided
from nanogrove.studies.verdict import Figures, Rule, Verdict, arms_compared, check_seeds, decide

LOSS = Measure("loss", "loss", "nats per token")
ACCURACY = Measure("exact_match", "exact match", better="higher")
NOISE = [0.010, -0.012, 0.003, 0.007, -0.004, 0.001, -0.008, 0.005]


def arm(shift: float, noise: float = 1.0, seeds: int = 8) -> dict[int, float | None]:
    """Figures that differ by seed, shifted; the noise is of this arm alone."""
    return {seed: 2 + 0.1 * seed + shift + noise * NOISE[seed] for seed in range(seeds)}


def only(figures: Figures, rule: Rule) -> Verdict:
    (verdict,) = decide([figures], rule)
    return verdict


def test_less_loss_is_better() -> None:
    verdict = only({"adamw": arm(0, 0), "muon": arm(-0.041)}, Rule(LOSS))
    assert (verdict.arm, verdict.against, verdict.outcome, verdict.pairs) == ("muon", "adamw", "better", 8)
    assert verdict.difference == pytest.approx(np.mean(NOISE) - 0.041)
    assert verdict.interval[0] < verdict.difference < verdict.interval[1] < 0
    assert verdict.p == verdict.holm_p == 2 / 2**8
    assert verdict.sentence == (
        "muon is better than adamw by 0.041 nats per token (95 % interval 0.034 to 0.047, 8 pairs, p = .0078)"
    )


def test_more_accuracy_is_better_and_the_mirror_is_worse() -> None:
    figures = {"one": arm(0, 0), "other": arm(0.041)}
    better, worse = only(figures, Rule(ACCURACY)), only(figures, Rule(LOSS))
    assert (better.outcome, worse.outcome) == ("better", "worse")
    assert better.difference == worse.difference > 0
    assert better.interval == pytest.approx(worse.interval)
    assert better.interquartile_means == pytest.approx(worse.interquartile_means)
    assert better.probability_of_improvement == pytest.approx(1 - worse.probability_of_improvement)
    assert better.sentence.startswith("other is better than one by 0.041 of exact match (95 % interval 0.035 to")
    assert worse.sentence.startswith("other is worse than one by 0.041 nats per token (95 % interval 0.035 to")


def test_a_null_result_is_not_shown_and_says_what_could_be() -> None:
    verdict = only({"one": arm(0, 0), "other": arm(0.001)}, Rule(LOSS))
    assert verdict.outcome == "not shown"
    assert verdict.sentence.startswith(
        "not shown: other against one, difference 0.001 nats per token (95 % interval -0"
    )
    shown = f"{1.1728 * np.std(NOISE, ddof=1):.4f}"
    assert verdict.sentence.endswith(
        f"8 pairs show differences of 1.17 standard deviations, here {shown}, four times of five"
    )
    assert "equal" not in verdict.sentence


def test_equal_figures_are_not_shown_to_be_equal() -> None:
    verdict = only({"one": arm(0), "other": arm(0)}, Rule(LOSS))
    assert (verdict.outcome, verdict.p, verdict.interval) == ("not shown", 1, (0, 0))
    assert verdict.probability_of_improvement == 0.5
    assert verdict.sentence == "not shown: other and one have the same figures on each seed"


@pytest.mark.parametrize(
    ("margin", "outcome"), [(0.05, "within the margin"), (0.005, "not shown"), (None, "not shown")]
)
def test_only_a_margin_that_holds_the_interval_is_met(margin: float | None, outcome: str) -> None:
    verdict = only({"one": arm(0, 0), "other": arm(0.001)}, Rule(LOSS, margin=margin))
    assert verdict.outcome == outcome
    assert ("differ by less than the margin of 0.05 nats" in verdict.sentence) == (margin == 0.05)


def test_a_margin_is_met_at_the_level_of_all_comparisons() -> None:
    figures = {"one": arm(0, 0), "other": arm(0.001), "third": arm(0.001, -1)}
    alone = only({"one": arm(0, 0), "other": arm(0.001)}, Rule(LOSS, margin=1))
    verdicts = decide([figures], Rule(LOSS, margin=1))
    assert verdicts[0].interval[0] < alone.interval[0]
    assert "97.5 % interval" in verdicts[0].sentence
    narrow = max(map(abs, alone.interval)) * 1.01
    assert only({"one": arm(0, 0), "other": arm(0.001)}, Rule(LOSS, margin=narrow)).outcome == "within the margin"
    assert decide([figures], Rule(LOSS, margin=narrow))[0].outcome == "not shown"


def test_arms_are_compared_with_the_first_or_with_each_other() -> None:
    assert arms_compared(["a", "b", "c"]) == [("b", "a"), ("c", "a")]
    assert arms_compared(["a", "b", "c"], all_pairs=True) == [("b", "a"), ("c", "a"), ("c", "b")]


def test_p_values_are_adjusted_over_all_comparisons() -> None:
    figures = {"a": arm(0, 0), "b": arm(-0.05), "c": arm(0.001), "d": arm(0.05)}
    verdicts = decide([figures], Rule(LOSS))
    assert [verdict.outcome for verdict in verdicts] == ["better", "not shown", "worse"]
    assert verdicts[0].holm_p == pytest.approx(3 * verdicts[0].p)
    assert "p = .0234 after Holm" in verdicts[0].sentence
    assert len(decide([figures], Rule(LOSS, all_pairs=True))) == 6


def test_six_pairs_show_one_difference_and_not_one_of_three() -> None:
    figures = {"a": arm(0, 0, 6), "b": arm(-1, seeds=6), "c": arm(-1, seeds=6), "d": arm(-1, seeds=6)}
    assert [verdict.outcome for verdict in decide([figures], Rule(LOSS))] == ["not shown"] * 3
    assert "6 pairs can show no difference, 7 or more can" in decide([figures], Rule(LOSS))[0].sentence
    assert only({"a": figures["a"], "b": figures["b"]}, Rule(LOSS)).outcome == "better"


@pytest.mark.parametrize("figure", [None, math.nan, math.inf])
@pytest.mark.parametrize(("measure", "worst"), [(LOSS, 2 * 2.705 - 2.0), (ACCURACY, 2 * 2.0 - 2.705)])
def test_a_diverged_run_counts_as_worse_than_any_other_by_their_range(
    figure: float | None, measure: Measure, worst: float
) -> None:
    figures = {"one": arm(0, 0), "other": arm(0) | {0: 2.0, 3: figure}}
    verdict = only(figures, Rule(measure))
    assert verdict.diverged == (1, 0)
    assert verdict == replace_sentence(
        only({**figures, "other": figures["other"] | {3: worst}}, Rule(measure)), verdict
    )
    assert verdict.sentence.endswith("1 run of other diverged and counts as worse than any other run")


def replace_sentence(verdict: Verdict, like: Verdict) -> Verdict:
    """The verdict, with what only a diverged run changes as in another one."""
    return Verdict(**{**vars(verdict), "diverged": like.diverged, "sentence": like.sentence})


@pytest.mark.parametrize("figures", [arm(0, 0), dict.fromkeys(range(8), 2.0), dict.fromkeys(range(8), 0.0)])
def test_an_arm_of_which_all_runs_diverge_is_worse(figures: dict[int, float | None]) -> None:
    assert only({"one": figures, "other": dict.fromkeys(range(8))}, Rule(LOSS)).outcome == "worse"


def test_where_all_runs_diverge_nothing_is_shown() -> None:
    lost: dict[int, float | None] = dict.fromkeys(range(8))
    verdict = only({"one": lost, "other": lost}, Rule(LOSS))
    assert (verdict.outcome, verdict.diverged, verdict.difference) == ("not shown", (8, 8), 0)
    assert "8 runs of one diverged and count as worse than any other" in verdict.sentence


def test_seeds_that_only_one_arm_has_are_left_out_and_counted() -> None:
    verdict = only({"one": {**arm(0, 0), 20: 9.0}, "other": {**arm(-0.05), 30: 1.0, 31: 1.0}}, Rule(LOSS))
    assert (verdict.pairs, verdict.left_out) == (8, 3)
    assert verdict.difference == only({"one": arm(0, 0), "other": arm(-0.05)}, Rule(LOSS)).difference
    assert verdict.sentence.endswith("; 3 seeds that only one arm has are left out")


def test_arms_that_share_no_seed_are_refused() -> None:
    with pytest.raises(StudyError, match="other and one share no seed; train both with the same seeds"):
        decide([{"one": {0: 1.0}, "other": {1: 1.0}}], Rule(LOSS))


def test_one_pair_has_no_interval() -> None:
    verdict = only({"one": {0: 1.0}, "other": {0: 2.0}}, Rule(LOSS))
    assert verdict.outcome == "not shown"
    assert (
        "(no interval of so few pairs, 1 pair, p = 1); 1 pair can show no difference, 6 or more can" in verdict.sentence
    )


def test_at_equal_time_a_verdict_holds_at_both_ends() -> None:
    clear = {"one": arm(0, 0), "other": arm(-0.05)}
    unclear = {"one": arm(0, 0), "other": arm(-0.003)}
    contrary = {"one": arm(0, 0), "other": arm(0.05)}
    (both,) = decide([clear, {"one": arm(0, 0), "other": arm(-0.04)}], Rule(LOSS))
    assert both.outcome == "better"
    assert both.sentence.endswith("; figures of the less clear end of the ratio of times, and so at both")
    assert both.interval[0] < -0.05 < -0.04 < both.interval[1]
    for ends in ([clear, unclear], [unclear, clear]):
        (verdict,) = decide(ends, Rule(LOSS))
        assert verdict.outcome == "not shown"
        assert verdict.difference == only(unclear, Rule(LOSS)).difference
    (opposite,) = decide([clear, contrary], Rule(LOSS))
    assert (opposite.outcome, opposite.p) == ("not shown", 1)


def test_an_arm_that_is_the_same_at_both_ends_has_no_ends() -> None:
    ends = [{"one": arm(0, 0), "same": arm(-0.041), "open": arm(shift)} for shift in (0.03, 0.04)]
    same, opened = decide(ends, Rule(LOSS))
    assert "end of the ratio" not in same.sentence
    assert "end of the ratio" in opened.sentence


def test_a_study_until_decided() -> None:
    figures = {"one": arm(0, 0), "other": arm(-0.05)}
    verdict = only(figures, Rule(LOSS, test=until_decided(24)))
    assert verdict.outcome == "better"
    assert verdict.p > only(figures, Rule(LOSS)).p
    undecided = only({"one": arm(0, 0), "other": arm(0.001)}, Rule(LOSS, test=until_decided(24)))
    assert undecided.outcome == "not shown"
    assert undecided.sentence.endswith(")")


@pytest.mark.parametrize(
    ("seeds", "tests", "message"),
    [
        (
            5,
            3,
            "5 seeds could show no difference, however large: the least p value would be 0.19. 3 comparisons at level "
            "0.05 need 7 seeds or more; 7 show differences of 1.86 standard deviations four times of five",
        ),
        (1, 1, "1 seed could show no difference, however large: the least p value would be 1. 1 comparison at level"),
        (41, 1, "41 seeds: the exact test takes up to 40; give 40 or fewer"),
        (8, 2**36, "68719476736 comparisons at level 0.05 would need 42 seeds, and 40 is the most"),
    ],
)
def test_a_number_of_seeds_that_could_show_nothing_is_refused(seeds: int, tests: int, message: str) -> None:
    with pytest.raises(StudyError) as error:
        check_seeds(seeds, tests)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(("seeds", "tests"), [(6, 1), (7, 3), (40, 1)])
def test_a_number_of_seeds_that_is_enough_passes(seeds: int, tests: int) -> None:
    check_seeds(seeds, tests)
