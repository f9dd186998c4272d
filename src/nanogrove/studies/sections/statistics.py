"""All figures of the verdicts, in a table."""

from nanogrove.reports.tables import wide_table
from nanogrove.reports.values import decimal
from nanogrove.studies.sections.shown import Shown
from nanogrove.studies.verdict import Verdict

TITLES = (
    *("arm", "against", "verdict", "pairs", "mean difference", "interval", "p", "p, Holm"),
    *("interquartile means", "probability of improvement"),
)


def statistics(shown: Shown) -> str:
    """A row for each verdict; empty where there is none."""
    digits = shown.findings.measure.digits
    table = wide_table("statistics", TITLES, [_row(verdict, digits) for verdict in shown.findings.verdicts])
    return f"<h2>Statistics</h2>{table}" if table else ""


def _row(verdict: Verdict, digits: int) -> tuple[str, ...]:
    low, high = (decimal(end, digits) for end in verdict.interval)
    one, other = (decimal(mean, digits) for mean in verdict.interquartile_means)
    return (
        *(verdict.arm, verdict.against, verdict.outcome, str(verdict.pairs), decimal(verdict.difference, digits)),
        *(f"{low} to {high}", f"{verdict.p:.4g}", f"{verdict.holm_p:.4g}", f"{one} and {other}"),
        f"{verdict.probability_of_improvement:.2f}",
    )
