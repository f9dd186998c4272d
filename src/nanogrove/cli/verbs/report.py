"""`nanogrove report`."""

from nanogrove.cli.terminal import RunFolder


def report(run: RunFolder) -> None:
    """Write a run's report.html anew."""
    from nanogrove.cli.waits import shown_waits

    with shown_waits("drawing the report"):
        from nanogrove.reports.report import write_report

        path = write_report(run)
    print(path)
