"""How runs become jobs: which of them are one program, how many programs there are, and how large they may be."""

from typing import Any

import pytest
from tests.conftest import Tiny

from nanogrove.config.overrides import resolve
from nanogrove.studies import packing
from nanogrove.studies.engines.contract import Job
from nanogrove.studies.packing import alone, fastest, stacked
from nanogrove.studies.plan import PlannedArm, Run, Way, run_of


def runs(tiny: Tiny, seeds: int, arm: str = "a", **sections: Any) -> list[Run]:
    preset = resolve(tiny(sample={"tokens": 0}, **sections))
    preset = preset.model_copy(update={"model": preset.model.model_copy(update={"vocab_size": 50})})
    planned = PlannedArm(arm=arm, requested={}, preset={}, steps=30, short=30, long=30, all_steps=30, flops=1.0)
    return [run_of(Way(arm, preset, planned), seed) for seed in range(seeds)]


def sizes(jobs: list[Job]) -> list[int]:
    return [len(job.runs) for job in jobs]


def test_a_program_for_each_worker(tiny: Tiny) -> None:
    both = runs(tiny, 8) + runs(tiny, 8, "b", optimizer={"lr": 0.5})
    assert sizes(stacked(both, 1)) == [16]
    assert sizes(stacked(both, 2)) == [8, 8]
    assert sizes(stacked(both, 3)) == [6, 6, 4]
    assert sizes(alone(both, 2)) == [1] * 16
    assert [run for job in stacked(both, 3) for run in job.runs] == both


def test_what_computes_otherwise_is_another_program(tiny: Tiny) -> None:
    both = runs(tiny, 8) + runs(tiny, 8, "muon", optimizer={"name": "muon"})
    assert sizes(stacked(both, 2)) == [8, 8]
    mixed = runs(tiny, 4) + runs(tiny, 2, "heads", auxiliary={"enable_value": True})
    assert sorted(sizes(stacked(mixed, 1))) == [1, 1, 4]


def test_large_steps_are_not_stacked_by_rule(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = runs(tiny, 4), runs(tiny, 4, "large", model={"n_embd": 64})
    assert sizes(fastest(small + large, 1)) == [4, 4]
    monkeypatch.setattr(packing, "SMALL_STEP_FLOPS", packing._work(large[0].preset).flops)
    assert sorted(sizes(fastest(small + large, 1))) == [1, 1, 1, 1, 4]
    assert sizes(stacked(small + large, 1)) == [4, 4]


def test_a_program_fits_in_its_share_of_the_memory(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    eight = runs(tiny, 8)
    each = packing._work(eight[0].preset).bytes(4)
    monkeypatch.setattr(packing, "memory_bytes", lambda device: 3 * each)
    assert sizes(stacked(eight, 1)) == [3, 3, 2]
    monkeypatch.setattr(packing, "memory_bytes", lambda device: each // 2)
    assert sizes(stacked(eight, 1)) == [1] * 8
    monkeypatch.setattr(packing, "MOST_MEMBERS", 2)
    monkeypatch.setattr(packing, "memory_bytes", lambda device: 100 * each)
    assert sizes(stacked(eight, 1)) == [2, 2, 2, 2]
