"""A study before its first run: its plan, which says for each arm what is trained, and for how many steps."""

from nanogrove.runs.circumstances import circumstances
from nanogrove.studies.arms import Candidate, candidates, common_measure, fingerprint
from nanogrove.studies.budget import Steps, equal_steps, flops_of_step, total
from nanogrove.studies.plan import Plan, PlannedArm
from nanogrove.studies.settings import StudySettings
from nanogrove.studies.timing import measure_times


def make_plan(study: StudySettings, before: Plan | None = None, allow_code: bool = False) -> Plan:
    """The plan of a study; where it began `before`, with the arms it has, and with steps for those that are new.

    Raises StudyError for arms that cannot be compared.
    """
    entries = candidates(study, allow_code)
    measure, split = common_measure(study, entries)
    known = {(each.arm, each.trial): each for each in before.arms} if before is not None else {}
    new = [each for each in entries if (each.arm, each.trial) not in known]
    timed = [entries[0], *new] if new and entries[0] not in new else new
    steps = equal_steps(study.equal, timed, measure_times) if new else []
    planned = {(each.arm, each.trial): _planned(each, count) for each, count in zip(timed, steps, strict=True)}
    arms = [known.get(key) or planned[key] for key in ((each.arm, each.trial) for each in entries)]
    return Plan(
        study=study.model_dump(mode="json"),
        measure=measure.name,
        split=split,
        machine=dict(circumstances(entries[0].setup)) if before is None else before.machine,
        arms=arms,
        chosen={} if before is None else before.chosen,
        looks=[] if before is None else before.looks,
    )


def _planned(candidate: Candidate, steps: Steps) -> PlannedArm:
    setup = candidate.setup
    return PlannedArm(
        arm=candidate.arm,
        trial=candidate.trial,
        overrides=list(candidate.overrides),
        requested=candidate.requested.model_dump(mode="json"),
        preset=setup.preset.model_dump(mode="json"),
        steps=steps.steps,
        short=steps.short,
        long=steps.long,
        all_steps=setup.method.num_steps(setup.preset.method, steps.steps),
        flops=total(candidate, flops_of_step(candidate), steps.steps),
        data=fingerprint(setup),
    )
