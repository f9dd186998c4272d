"""What a study was planned with: versions and machine."""

from nanogrove.reports.tables import fact_tables
from nanogrove.reports.values import capital
from nanogrove.studies.sections.shown import Shown


def machine(shown: Shown) -> str:
    """The circumstances that the plan of the study names."""
    tables = fact_tables({capital(name): facts for name, facts in shown.findings.plan.machine.items()})
    return f"<h2>Versions and machine</h2>{tables}" if tables else ""
