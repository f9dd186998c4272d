"""`nanogrove report`."""

from nanogrove.cli.terminal import RunFolder


def report(run: RunFolder) -> None:
    """Write a run's report.html anew."""
    from nanogrove.reports.report import write_report

    print(write_report(run))
