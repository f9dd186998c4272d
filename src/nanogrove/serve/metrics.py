"""What the server counts, in the text format of Prometheus."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # upper bounds of a histogram
HELP = {
    "nanogrove_requests": "Requests that have ended, by how.",
    "nanogrove_prompt_tokens": "Tokens of prompts that were taken.",
    "nanogrove_new_tokens": "Tokens that were written.",
    "nanogrove_first_token_seconds": "From a request to its first token.",
    "nanogrove_request_seconds": "From a request to its end.",
    "nanogrove_step_seconds": "A step, which gives each row a token.",
    "nanogrove_rows_active": "Requests that are being written.",
    "nanogrove_requests_waiting": "Requests that wait for a row.",
    "nanogrove_rows": "Rows that there are.",
}
Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms by name and labels; one thread changes and reads them."""

    def __init__(self) -> None:
        self._counts: dict[tuple[str, Labels], float] = {}
        self._histograms: dict[tuple[str, Labels], tuple[list[int], list[float]]] = {}

    def add(self, name: str, count: float = 1, **labels: str) -> None:
        """Adds to a counter."""
        key = name, tuple(labels.items())
        self._counts[key] = self._counts.get(key, 0) + count

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Adds a duration to a histogram."""
        buckets, total = self._histograms.setdefault((name, tuple(labels.items())), ([0] * (len(SECONDS) + 1), [0.0]))
        buckets[bisect_left(SECONDS, seconds)] += 1
        total[0] += seconds

    def text(self, gauges: Iterable[tuple[str, float, Mapping[str, str]]]) -> str:
        """All figures, with those of the moment, `gauges`, each of a name, a value and labels."""
        samples: dict[tuple[str, str], list[str]] = {}
        for (name, labels), count in self._counts.items():
            samples.setdefault((name, "counter"), []).append(_sample(f"{name}_total", labels, count))
        for (name, labels), (buckets, (total,)) in self._histograms.items():
            samples.setdefault((name, "histogram"), []).extend(_histogram(name, labels, buckets, total))
        for name, value, by in gauges:
            samples.setdefault((name, "gauge"), []).append(_sample(name, tuple(by.items()), value))
        lines = []
        for (name, kind), each in samples.items():
            full = f"{name}_total" if kind == "counter" else name
            lines += [f"# HELP {full} {HELP[name]}", f"# TYPE {full} {kind}", *each]
        return "\n".join(lines) + "\n"


def _histogram(name: str, labels: Labels, buckets: list[int], total: float) -> Iterator[str]:
    reached = 0
    for bound, count in zip((*map(str, SECONDS), "+Inf"), buckets, strict=True):
        reached += count
        yield _sample(f"{name}_bucket", (*labels, ("le", bound)), reached)
    yield _sample(f"{name}_sum", labels, total)
    yield _sample(f"{name}_count", labels, reached)


def _sample(name: str, labels: Labels, value: float) -> str:
    written = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
    return f"{name}{{{written}}} {value:.10g}" if written else f"{name} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
