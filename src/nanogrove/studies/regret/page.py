"""The page of a regret study: one picture of two figures, tables of what they show, and how it was measured.

A reward's terms and patterns are what somebody typed, so they enter the page as escaped text.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from nanogrove.atomic import refusal, write_file
from nanogrove.errors import StudyError
from nanogrove.reports.figures import plot, rows
from nanogrove.reports.lines import Line
from nanogrove.reports.page import html_page
from nanogrove.reports.tables import fact_tables, key_figures, wide_table
from nanogrove.reports.values import UNKNOWN, capital, escaped
from nanogrove.studies.regret.findings import Findings, best, decoders, mean_regret, spread
from nanogrove.studies.regret.measured import Point

SHOWN_SHARES = (16, 4, 1)  # of the scored texts, after which the table gives the regret
NAME = "Regret against the exact optimum"


def write_page(path: Path, findings: Findings) -> None:
    """Writes the page, whole or not at all. Raises StudyError."""
    sections = [section(findings) for section in SECTIONS]
    page = html_page(NAME, [html for html in sections if html])
    try:
        write_file(path, page.encode("utf-8", errors="replace"))
    except OSError as error:
        raise StudyError(f"{path}: cannot be written {refusal(error)}") from None


def head(findings: Findings) -> str:
    """What is asked, and what is known exactly."""
    settings, seeds = findings.settings, findings.seeds
    whole = settings.v**settings.length
    asked = (
        f"Every method begins from the same base and aims at the policy of the greatest E[r] − β KL from it, with β = "
        f"{settings.beta:g}. The {whole:,} texts of {settings.length} tokens over {settings.v} symbols, and all "
        "shorter ones, are enumerated, so that policy, value and regret are exact sums. "
        "Regret is KL(policy, optimum) in nats; times β it is what the policy's value lacks. Means over "
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}, each with a base of its own."
    )
    figures = [
        ("regret of the base", f"{fmean(seed.base.regret for seed in seeds):.3f}", "nats"),
        ("its mean reward", f"{fmean(seed.base.reward for seed in seeds):.3f}", "E[r]"),
        ("reward of the optimum", f"{fmean(seed.optimum.reward for seed in seeds):.3f}", "E[r]"),
        ("KL of the optimum", f"{fmean(seed.optimum.kl for seed in seeds):.3f}", "nats from the base"),
        ("value of the optimum", f"{fmean(seed.value for seed in seeds):.3f}", "E[r] − β KL"),
    ]
    return f'<h1>{NAME}</h1><p class="note">{escaped(asked)}</p>{key_figures(figures)}'


def picture(findings: Findings) -> str:
    """Regret over scored texts, and over the KL from the base."""
    over_texts, over_kl, steps = list[Line](), list[Line](), findings.settings.steps.bit_length()
    counts = [findings.settings.texts << power for power in range(steps)]
    for method in findings.methods:
        reached = [(texts, points) for texts in counts if (points := method.at(texts))]
        if reached:
            over_texts.append(_banded(method.title, reached))
            over_kl.append(_path(method.title, [points for _, points in reached]))
    for title, by_seed in decoders(findings):
        level = mean_regret(best(by_seed))
        name = f"{title} {best(by_seed)[0].strength:.3g}"
        over_texts.append({"name": name, "style": "reference", "x": [counts[0], counts[-1]], "y": [level, level]})
        by_strength = list(zip(*by_seed, strict=True))
        over_kl.append(_path(title.removesuffix(", β"), by_strength))
    over_kl.append(_frontier(findings))
    note = (
        "Lines are medians over seeds, and bands on the left reach from the lower to the upper quartile; each point is "
        "after twice as many scored texts as the one before. On the left decoding is dotted, which trains nothing. "
        "Dotted on the right: the least regret of any policy of that KL. A legend's entry is a switch."
    )
    shown = rows(
        [
            [
                plot("Regret over scored texts", "scored texts", "regret, nats", over_texts, log_x=True, log_y=True),
                plot("Regret over KL from the base", "KL from the base, nats", "regret, nats", over_kl, log_y=True),
            ]
        ]
    )
    return f'<h2>Regret</h2><p class="note">{escaped(note)}</p>{shown}'


def _banded(name: str, reached: Sequence[tuple[int, Sequence[Point]]]) -> Line:
    """The median regret after each number of texts, with the quartiles of the seeds."""
    regrets = [spread([each.regret for each in points]) for _, points in reached]
    return {
        "name": name,
        "style": "plain",
        "x": [float(texts) for texts, _ in reached],
        "y": [each.median for each in regrets],
        "low": [each.lower for each in regrets],
        "high": [each.upper for each in regrets],
    }


def _path(name: str, groups: Sequence[Sequence[Point]]) -> Line:
    """The median regret of each group, a point for each seed, at the median KL."""
    medians = [[spread([getattr(each, key) for each in group]).median for key in ("kl", "regret")] for group in groups]
    return {"name": name, "style": "plain", "x": [kl for kl, _ in medians], "y": [regret for _, regret in medians]}


def _frontier(findings: Findings) -> Line:
    """The mean over seeds of the policies of the least regret for their KL; at the optimum itself there is none."""
    points = [
        (fmean(kl for kl, _ in at), fmean(regret for _, regret in at))
        for at in zip(*(seed.frontier for seed in findings.seeds), strict=True)
    ]
    drawn = [(kl, regret) for kl, regret in points if regret > 1e-4]  # what a logarithmic axis has room for
    return {"name": "least possible", "style": "reference", "x": [kl for kl, _ in drawn], "y": [y for _, y in drawn]}


def methods(findings: Findings) -> str:
    """A row for each method: its regret on the way and at the end, by the least at the end."""
    scored = findings.settings.scored
    counts = [scored // share for share in SHOWN_SHARES if scored // share >= findings.settings.texts]
    titles = (
        "method",
        "learning rate",
        *(f"regret after {count:,} texts" for count in counts),
        "95 % interval",
        "KL from the base",
        "mean reward",
        "regret of its aim",
        "diverged",
    )
    table = []
    for method in sorted(findings.methods, key=lambda each: mean_regret(each.at(scored))):
        ends = method.at(scored)
        end = spread([each.regret for each in ends]) if ends else None
        table.append(
            (
                method.title,
                f"{method.rate:g}",
                *(_mean(method.at(count), "regret") for count in counts),
                UNKNOWN if end is None or end.low is None or end.high is None else f"{end.low:.3f} to {end.high:.3f}",
                _mean(ends, "kl"),
                _mean(ends, "reward"),
                UNKNOWN if method.ideal is None else f"{method.ideal:.3f}",
                str(len(method.points) - len(ends)),
            )
        )
    note = (
        "The regret of its aim is that of the policy which a method would come to with all texts and a model that can "
        "express any policy, where that is known exactly: what more samples cannot take away."
    )
    return f'<h2>Methods</h2><p class="note">{escaped(note)}</p>{wide_table("methods", titles, table)}'


def _mean(points: Sequence[Point], name: str) -> str:
    return f"{fmean(getattr(each, name) for each in points):.3f}" if points else UNKNOWN


def decoding(findings: Findings) -> str:
    """Best-of-n and steering at each strength."""
    tables = []
    for title, by_seed in decoders(findings):
        table = [
            (
                f"{title} {group[0].strength:.3g}",
                *(_mean(group, name) for name in ("regret", "kl", "reward")),
                f"{group[0].texts:,}",
            )
            for group in zip(*by_seed, strict=True)
        ]
        titles = ("decoding", "regret", "KL from the base", "mean reward", "scored texts per text")
        tables.append(wide_table(title, titles, table))
    note = "The base, decoded in another way: exact by formula from its own probabilities. Nothing is trained."
    return f'<h2>Decoding</h2><p class="note">{escaped(note)}</p>{rows([tables])}'


def tuning(findings: Findings) -> str:
    """All trials of learning rates."""
    rates = findings.settings.rates
    table = [
        (
            method.title,
            *(
                "diverged"
                if (regret := method.trials.get(rate)) is None
                else f"{regret:.3f}{', taken' if rate == method.rate else ''}"
                for rate in rates
            ),
        )
        for method in findings.methods
    ]
    count = findings.settings.tune_seeds
    note = f"Mean regret at the end, of {count} seed{'s' if count > 1 else ''} that no other figure uses."
    titles = ("method", *(f"{rate:g}" for rate in rates))
    return f'<h2>Learning rates</h2><p class="note">{escaped(note)}</p>{wide_table("trials", titles, table)}'


def circumstances(findings: Findings) -> str:
    """The settings, what bases came to, versions and machine."""
    seeds = findings.seeds
    settings = findings.settings.model_dump(mode="json", exclude={"reward"})
    bases = {
        "KL of the grammar from a base, nats per text": fmean(seed.excess for seed in seeds),
        "probability of a text that ends early": fmean(seed.short for seed in seeds),
    }
    reward = findings.settings.reward.model_dump(mode="json", exclude_none=True)
    tables = {"Settings": settings, "Reward": reward, "Bases": bases}
    tables |= {capital(name): facts for name, facts in findings.machine.items()}
    return f"<h2>Settings and machine</h2>{fact_tables(tables)}"


SECTIONS: tuple[Callable[[Findings], str], ...] = (head, picture, methods, decoding, tuning, circumstances)
