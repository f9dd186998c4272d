"""The pictures of an ensemble: its loss beside those of its members and student, and what each member more brings."""

from nanogrove.record.reading import Run
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import line
from nanogrove.reports.values import finite


def ensemble(run: Run) -> str:
    """Held-out losses over tokens, and the loss by number of members at the end or when last scored."""
    scored = [event.values for event in run.evaluations() if isinstance(event.values.get("losses_by_count"), list)]
    if not scored:
        return ""
    seen, learned = [values.get("seen") for values in scored], [event.values for event in run.of("student")]
    losses = line("members, median and range", seen, [values.get("member_losses") for values in scored])
    losses += line("ensemble", seen, [values.get("loss") for values in scored])
    losses += line("student", [values.get("seen") for values in learned], [values.get("loss") for values in learned])
    last = run.result()
    by_count = last.get("losses_by_count")
    curve = by_count if isinstance(by_count, list) else scored[-1]["losses_by_count"]
    counted = line("ensembles", list(range(1, len(curve) + 1)), curve)
    student = finite(last.get("student_loss"))
    if student is not None:
        counted += line("student", [1, len(curve)], [student, student], "reference")
    unit = "nats per token"
    figures = [
        plot("Held-out loss", "tokens of each member", unit, losses),
        plot("Loss by number of members", "members", unit, counted),
    ]
    return f"<h2>Ensemble</h2>{rows([figures])}"
