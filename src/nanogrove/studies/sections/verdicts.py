"""The head of the report: the question, its answers, and what they cost."""

from nanogrove.reports.tables import key_figures
from nanogrove.reports.values import capital, duration, escaped, short
from nanogrove.studies.judge import Findings, lines
from nanogrove.studies.sections.shown import Shown, cost
from nanogrove.studies.verdict import Verdict

TESTS = {False: "an exact sign-flip test of paired differences", True: "a test that holds however long one looks"}


def verdicts(shown: Shown) -> str:
    """The name of the study, a verdict for each arm, what else there is to know, and the cost."""
    findings = shown.findings
    finished, expected = len(findings.results), _expected(findings)
    badge = "" if finished >= expected else ' <span class="badge">unfinished</span>'
    answers = "".join(f"<li>{answer(verdict)}</li>" for verdict in findings.verdicts)
    sentences = {verdict.sentence for verdict in findings.verdicts}
    notes = [capital(line) for line in lines(findings) if line not in sentences and not _of_trial(line, findings)]
    flops, seconds = cost(findings.results.values(), findings.plan)
    figures = [("runs finished", f"{finished:,} of {expected:,}", "")]
    if finished:
        figures.append(("training time", duration(seconds), "of all runs together"))
        figures.append(("training FLOPs", short(flops), "of all runs together"))
    return (
        f"<h1><bdi>{escaped(findings.study.name)}</bdi>{badge}</h1>"
        + (f'<ul class="verdicts">{answers}</ul>' if answers else "")
        + "".join(f'<p class="note">{escaped(text)}.</p>' for text in (*notes, _asked(shown)))
        + key_figures(figures)
    )


def _asked(shown: Shown) -> str:
    """The question, and how it is decided."""
    findings, study = shown.findings, shown.findings.study
    comparisons = len(study.arms) - 1
    adjusted = f", adjusted for {comparisons} comparisons (Holm)" if comparisons > 1 else ""
    return (
        f"{len(study.arms)} arms, {findings.seeds} paired seeds, equal {study.equal}. Arms are judged by {shown.label} "
        f"on {findings.plan.split}, {findings.measure.better} is better, with {TESTS[study.until_decided]} at level "
        f"{study.level:g}{adjusted}"
    )


def answer(verdict: Verdict) -> str:
    """A verdict as HTML: the arm that won in bold, the figures of it in small type."""
    claim, bracket, facts = verdict.sentence.partition(" (")
    html = escaped(claim)
    arm, against = escaped(verdict.arm), escaped(verdict.against)
    begins = f"{arm} is {verdict.outcome} than {against} "
    if html.startswith(begins):
        one, other = (f"<b>{arm}</b>", against) if verdict.outcome == "better" else (arm, f"<b>{against}</b>")
        html = f"{one} is {verdict.outcome} than {other} {html.removeprefix(begins)}"
    elif verdict.outcome == "not shown":
        html = capital(html)
    return f'{html} <span class="note">{escaped(bracket.strip() + facts)}</span>'


def _of_trial(line: str, findings: Findings) -> bool:
    """Whether a line says which trial an arm takes, which the section on trials shows."""
    return any(line.startswith(f"{arm} takes ") for arm in findings.plan.chosen)


def _expected(findings: Findings) -> int:
    """The runs that the verdicts of the study need, its trials included."""
    study, plan = findings.study, findings.plan
    trials = sum(each.trial is not None for each in plan.arms) * study.tune_seeds
    open_ends = sum(each.short != each.long and each.trial == plan.chosen.get(each.arm) for each in plan.arms)
    return trials + (len(study.arms) + open_ends) * findings.seeds
