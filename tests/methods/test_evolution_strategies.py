"""Evolution strategies: the estimate against a true gradient, directions as pure functions, exact resume, a score."""

from pathlib import Path
from typing import Any

import pytest
import torch

from nanogrove.config.catalog import read_preset_file
from nanogrove.config.overrides import resolve
from nanogrove.errors import PresetError
from nanogrove.methods.evolution_strategies import coefficients, combined, direction, full
from nanogrove.record.events import read_events
from nanogrove.runs.train import train

PLAIN = {"device": "cpu", "precision": "float32", "threads": 1, "accumulation": 1, "compile": False}
SHAPES = {"matrix": (12, 10), "vector": (30,)}


def flat(tensors: dict[str, Any]) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in SHAPES])


@pytest.mark.parametrize(
    ("shaping", "rank"), [("none", 1), ("none", 4), ("none", None), ("zscore", 1), ("rank", None), ("sign", 1)]
)
def test_the_estimate_points_along_the_true_gradient_of_a_quadratic(shaping: Any, rank: int | None) -> None:
    """150 dimensions, 1,500 pairs: for n pairs in d dimensions the cosine is about √(n / (n + d)), here .95.

    Signs and ranks throw the size of each difference away and keep less: √(2n / (2n + πd)) for signs, .93.
    """
    generator = torch.Generator().manual_seed(0)
    curvature = torch.rand(150, generator=generator) + 0.5
    theta = torch.randn(150, generator=generator)
    pairs, sigma = 1500, 0.01
    drawn = [direction(SHAPES, rank, 0, 3, pair) for pair in range(pairs)]
    noise = torch.stack([flat({name: full(noise) for name, noise in one.items()}) for one in drawn])
    scores = torch.stack([(0.5 * curvature * (theta + way * sigma * noise).square()).sum(1) for way in (1, -1)])
    estimate = flat(combined(iter(drawn), coefficients(scores, shaping, sigma)))
    true = curvature * theta
    assert float(torch.cosine_similarity(estimate, true, dim=0)) > 0.9
    if shaping == "none":
        assert float(estimate @ true / true.square().sum()) == pytest.approx(1.0, abs=0.1), "it is unbiased"


def estimates(
    score: Any, rank: int | None, theta: float, sigma: float, pairs: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Of a score Σ f(w) the mean estimate of a matrix entry with its standard error, and of an entry of a vector."""
    drawn = [direction(SHAPES, rank, 0, 0, pair) for pair in range(pairs)]
    noise = torch.stack([flat({name: full(n) for name, n in one.items()}) for one in drawn]).double()
    scores = torch.stack([score(theta + way * sigma * noise).sum(1) for way in (1, -1)])
    mean = flat(combined(iter(drawn), coefficients(scores, "none", sigma)))
    each = (scores[0] - scores[1])[:, None] * noise / (2 * sigma)
    torch.testing.assert_close(mean.double(), each.mean(0), atol=1e-4, rtol=1e-4)
    by_draw = [part.mean(1) for part in (each[:, :120], each[:, 120:])]  # entries of one draw depend on each other
    matrix, vector = ((float(draws.mean()), float(draws.std() / pairs**0.5)) for draws in by_draw)
    return matrix, vector


@pytest.mark.parametrize(("rank", "kurtosis"), [(1, 9.0), (4, 4.5), (None, 3.0)])
def test_the_estimate_of_a_quartic_is_as_far_from_the_smoothed_gradient_as_its_noise_from_normal(
    rank: int | None, kurtosis: float
) -> None:
    """(f₊ − f₋) ε / 2σ of w⁴ has the mean 4θ³ + 4θσ² E ε⁴, and other entries add nothing to it.

    With normal noise that is the gradient 4θ³ + 12θσ² of E (θ + σε)⁴ = θ⁴ + 6θ²σ² + 3σ⁴; a vector's noise is normal.
    """
    theta, sigma = 0.5, 0.5
    (mean, error), (vector, error_of_vector) = estimates(lambda w: w**4, rank, theta, sigma, 3000)
    assert mean == pytest.approx(4 * theta**3 + 4 * theta * sigma**2 * kurtosis, abs=4 * error)
    assert error < 0.5
    smoothed = 4 * theta**3 + 12 * theta * sigma**2
    assert (abs(mean - smoothed) < 4 * error) == (rank is None), "and no other rank passes for it"
    assert vector == pytest.approx(smoothed, abs=4 * error_of_vector)


@pytest.mark.parametrize("rank", [1, 4, None])
def test_the_estimate_of_a_quadratic_is_its_gradient_at_every_rank(rank: int | None) -> None:
    (mean, error), _ = estimates(lambda w: w**2, rank, 0.5, 0.5, 3000)
    assert mean == pytest.approx(1.0, abs=4 * error)


def test_full_rank_estimates_the_smoothed_gradient_of_what_is_no_polynomial() -> None:
    """E exp(θ + σε) = exp(θ + σ²/2), its own gradient; at rank 1 the estimate is another."""
    smoothed = float(torch.tensor(0.5 + 0.5**2 / 2).exp())
    (mean, error), _ = estimates(torch.exp, None, 0.5, 0.5, 3000)
    assert mean == pytest.approx(smoothed, abs=4 * error)


@pytest.mark.slow
def test_noise_of_low_rank_has_the_identity_for_its_covariance() -> None:
    drawn = torch.stack([full(direction({"w": (3, 4)}, 1, 0, 0, pair)["w"]).flatten() for pair in range(20_000)])
    torch.testing.assert_close(drawn.T @ drawn / 20_000, torch.eye(12), atol=0.06, rtol=0)
    assert drawn.mean(0).abs().max() < 0.03


def test_a_direction_is_a_function_of_seed_generation_and_pair() -> None:
    def drawn(seed: int, generation: int, pair: int) -> torch.Tensor:
        return flat({name: full(noise) for name, noise in direction(SHAPES, 2, seed, generation, pair).items()})

    assert torch.equal(drawn(1, 2, 3), drawn(1, 2, 3))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0)):
        assert not torch.equal(drawn(1, 2, 3), drawn(*other))


def test_coefficients_by_hand() -> None:
    scores = torch.tensor([[1.0, 5.0, 2.0], [3.0, 4.0, 2.0]])
    assert coefficients(scores, "none", 0.5).tolist() == pytest.approx([-2 / 3, 1 / 3, 0])
    assert coefficients(scores, "sign", 0.5).tolist() == pytest.approx([-1 / 3, 1 / 3, 0])
    ranks = torch.tensor([[-0.5, 0.5, -0.2], [0.1, 0.3, -0.2]])  # the two 2.0s share ranks 1 and 2
    assert coefficients(scores, "rank", 0.5).tolist() == pytest.approx(((ranks[0] - ranks[1]) / 3).tolist())
    assert coefficients(scores, "zscore", 0.5).tolist() == pytest.approx(
        (coefficients(scores, "none", 0.5) / scores.std()).tolist()
    )
    for shaping in ("none", "sign", "rank", "zscore"):
        assert coefficients(torch.full((2, 3), 4.7), shaping, 0.1).tolist() == [0, 0, 0]  # type: ignore[arg-type]


@pytest.fixture
def preset() -> dict[str, Any]:
    made = read_preset_file("evolve-es")
    made["method"] |= {"generations": 8, "population_size": 8, "at_once": 4}
    made["train"] = {"steps": 5, "batch_size": 16, **PLAIN}
    made["data"] |= {"held_out": 20}
    made["save"] = {"every": 2}
    made["evaluate"] = {"every": 4}
    made["sample"] = {"tokens": 0}
    return made


def test_a_kill_behind_any_step_and_a_resume_end_alike(preset: dict, tmp_path: Path, resumes_exactly: Any) -> None:
    record = resumes_exactly(preset, tmp_path, [("step", n) for n in range(1, 13)])
    phases = [(line["step"], line["name"], line["held_out"]) for line in record if line["kind"] == "phase"]
    assert phases == [(0, "base", "loss"), (5, "generations", "score")]
    scored = [line for line in record if line["kind"] == "eval"]
    assert [line["exact_match"] for line in scored] == pytest.approx([1 - line["score"] for line in scored])
    assert {"exact_match", "exact_match_error"} < record[-1].keys()


@pytest.mark.parametrize("at_once", [2, 6])
def test_how_many_members_exist_at_once_changes_nothing(preset: dict, tmp_path: Path, at_once: int) -> None:
    for name, count in (("all", 8), ("some", at_once)):
        preset["method"]["at_once"] = count
        for _ in train(resolve(preset), tmp_path / name):
            pass
    both = [read_events(tmp_path / name / "events.jsonl") for name in ("all", "some")]
    for mine, theirs in zip(*both, strict=True):
        if mine.kind == "step":
            assert mine.values["loss"] == pytest.approx(theirs.values["loss"], abs=1e-5)
            assert mine.values["grad_norm"] == pytest.approx(theirs.values["grad_norm"], rel=1e-3)


def test_a_base_is_a_saved_run_of_the_same_model(preset: dict, tmp_path: Path) -> None:
    base = {**preset, "method": "pretrain"}
    for _ in train(resolve(base), tmp_path / "base"):
        pass
    preset["method"] |= {"base": str(tmp_path / "base"), "generations": 2}
    for _ in train(resolve(preset), tmp_path / "run"):
        pass
    events = read_events(tmp_path / "run/events.jsonl")
    assert [event.step for event in events if event.kind == "step"] == [1, 2]
    preset["model"]["n_embd"] = 16
    with pytest.raises(Exception, match="is another model, its n_embd is 32 and here 16"):
        list(train(resolve(preset), tmp_path / "misfit"))


def test_what_makes_no_sense_is_refused(preset: dict) -> None:
    with pytest.raises(PresetError, match="population_size 7 is odd, and members come in pairs"):
        resolve(preset, ["method.population_size=7"])


@pytest.mark.slow
def test_right_or_wrong_alone_carries_copying_from_half_to_nearly_all(tmp_path: Path) -> None:
    for _ in train(resolve(read_preset_file("evolve-es"), ["train.threads=1", "sample.tokens=0"]), tmp_path):
        pass
    events = read_events(tmp_path / "events.jsonl")
    right = {event.step: 1 - event.values["score"] for event in events if event.kind == "eval"}
    base = read_preset_file("evolve-es")["train"]["steps"]
    assert 0.4 < right[base] < 0.65
    assert right[max(right)] >= 0.95
