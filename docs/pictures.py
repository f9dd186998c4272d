"""Pictures of reports, taken in headless Chromium.

    python docs/pictures.py [NAME ...]        the pictures that the docs show, docs/pictures/NAME.webp
    python docs/pictures.py --all [NAME ...]  every report below, in light, in dark and on a telephone, as PNG files

Both need Chromium, Node and `npm install --prefix build/pictures playwright-core`. Runs are made once, at a small size,
in build/pictures/runs. Printed is what is wrong with a page: an error, a request, scrolling from side to side; then the
exit code is 1. Presets that read a service are given files of the same shape.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "pictures"
SHOWN = ROOT / "docs" / "pictures"
VIEWS = {"light": (1100, "light"), "dark": (1100, "dark"), "narrow": (375, "light")}  # width, colour scheme
EVERYWHERE = "train.device=cpu train.precision=float32 train.compile=false train.accumulation=1 train.threads=1"
SMALL = "model.n_layer=2 model.n_head=2 model.n_embd=32 train.batch_size=8 evaluate.tokens=2000"
TASK = "data.held_out=40 model.n_layer=2 model.n_head=2 train.batch_size=64 method.examples=200 evaluate.every=50"
FILES = 'data.sources=["letters.txt","tales.txt"] data.vocab_size=300 model.block_size=64'


class Report(NamedTuple):
    """A run to draw: its preset, and what of it is made smaller."""

    preset: str
    overrides: str


REPORTS = {
    "quickstart": Report(
        "quickstart", "model.n_layer=2 model.n_embd=96 train.steps=300 evaluate.every=30 sample.every=100"
    ),
    "muzero-quick": Report("muzero-quick", f"{SMALL} train.steps=60 evaluate.every=15 sample.every=30"),
    "own-text": Report("own-text", f"{SMALL} {FILES} train.tokens=20000 evaluate.every=10"),
    "general": Report(
        "general",
        f"{SMALL} {FILES} data.mix_strategy=weighted data.source_weights=[3,1] data.min_text_length=0 "
        "train.tokens=40000 method.adaptive.interval=5000 evaluate.every=20 sample.every=40",
    ),
    "qa": Report("qa", f"{SMALL} {FILES} data.min_text_length=0 train.tokens=20000 evaluate.every=10 sample.every=30"),
    "muzero-general": Report(
        "muzero-general",
        f"{SMALL} {FILES} data.min_text_length=0 train.tokens=40000 method.adaptive.interval=5000 evaluate.every=20 "
        "sample.every=40",
    ),
    "rlm": Report("rlm", "train.steps=2000 evaluate.every=250 evaluate.tokens=2000"),
    "rlm-deep": Report("rlm-deep", f"{SMALL} train.steps=200 evaluate.every=50"),
    "rhm": Report("rhm", f"{SMALL} train.steps=200 evaluate.every=50"),
    "evolve": Report("evolve", f"{SMALL} method.generations=5 method.steps_per_generation=8 evaluate.every=8"),
    "ensemble": Report(
        "ensemble",
        f"{SMALL} method.members=4 method.distill_steps=60 train.steps=60 evaluate.every=20 sample.every=120",
    ),
    "evolve-pbt": Report(
        "evolve-pbt", f"{SMALL} method.generations=10 method.steps_per_generation=10 evaluate.every=10"
    ),
    "evolve-es": Report("evolve-es", "method.generations=40 evaluate.every=10"),
    "offline-rl": Report(
        "offline-rl", f"{SMALL} method.base_steps=40 train.steps=40 evaluate.every=10 sample.every=80"
    ),
    "policy-gradient-quick": Report(
        "policy-gradient-quick", "data.held_out=100 train.batch_size=64 train.steps=80 evaluate.every=20"
    ),
    "dpo": Report("dpo", f"{SMALL} method.base_steps=80 train.steps=80 evaluate.every=20 sample.every=80"),
    "reward-model": Report("reward-model", f"{SMALL} train.steps=80 evaluate.every=20"),
    "align-terms": Report(
        "align-terms",
        f"{SMALL} method.rounds=3 method.steps_per_round=10 method.texts=32 train.steps=60 evaluate.every=20 "
        "sample.every=60",
    ),
    "self-improve-quick": Report(
        "self-improve-quick",
        "data.held_out=40 model.n_embd=64 train.batch_size=64 train.steps=500 evaluate.every=100 method.to=10 "
        "method.si_rounds=5 method.si_iter=60 method.examples=300",
    ),
    "self-improve-one-round": Report(
        "self-improve-quick",
        f"{TASK} model.n_embd=64 data.base=[1,2] method.to=4 method.si_rounds=1 method.si_iter=10 train.steps=150",
    ),
    "self-improve-maze": Report(
        "self-improve-maze",
        f"{TASK} model.n_embd=32 model.n_inner=64 method.si_rounds=1 method.si_iter=10 train.steps=20",
    ),
}

# Studies to draw: the preset that their arms begin from, what of it is made smaller, and then the arms.
STUDIES = {
    "compare": Report(
        "rlm",
        "train.steps=100 evaluate.every=10 evaluate.tokens=2000 --seeds 7 --engine processes "
        "--arm muon --arm slower:optimizer.lr=.002 --arm adamw:optimizer.name=adamw --arm narrow:model.n_embd=32",
    ),
}

# Presets without a report here, and why.
LEFT_OUT = {
    "chat-quick": "has the sections of quickstart's page",
    "games-csv": "reads a table of a service; its page has the sections of own-text's",
    "self-improve-addition-quick": "has the sections of self-improve-quick's page",
    "self-improve-addition": "is made for a GPU; its page has the sections of self-improve-quick's",
    "self-improve-copy": "is made for a GPU; its page has the sections of self-improve-quick's",
    "self-improve-reverse": "is made for a GPU; its page has the sections of self-improve-quick's",
    "self-improve-multiplication": "is made for a GPU; its page has the sections of self-improve-quick's",
}


class Picture(NamedTuple):
    """What the docs show of a report: the first `height` pixels of its page."""

    report: str
    height: int


PICTURES = {
    "report": Picture("quickstart", 1240),
    "evolve": Picture("evolve-pbt", 1240),
    "self-improve": Picture("self-improve-quick", 1240),
    "compare": Picture("compare", 730),
}


def main() -> None:
    """Makes the runs that are missing, and takes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="the reports, in all views, instead of the docs' pictures")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(PICTURES)}; of --all {', '.join([*REPORTS, *STUDIES])}"
    )
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None or not shutil.which("node") or not (FOLDER / "node_modules" / "playwright-core").exists():
        sys.exit("error: Chromium, Node or playwright-core is missing; see python docs/pictures.py --help")
    known = [*REPORTS, *STUDIES] if options.all else [*PICTURES]
    if unknown := [name for name in options.names if name not in known]:
        sys.exit(f"error: there is no {unknown[0]}; take one of {', '.join(known)}")
    sys.exit(take((views if options.all else shown)(options.names or known), chromium))


def views(names: Iterable[str]) -> list[dict[str, Any]]:
    """A picture of each report in each view."""
    return [
        {"page": str(report(name)), "out": str(FOLDER / f"{name}-{view}.png"), "width": width, "scheme": scheme}
        | {"height": None}
        for name in names
        for view, (width, scheme) in VIEWS.items()
    ]


def shown(names: Iterable[str]) -> list[dict[str, Any]]:
    """Pictures that the docs show."""
    return [
        {"page": str(report(PICTURES[name].report)), "out": str(SHOWN / f"{name}.webp"), "width": 1000}
        | {"scheme": "light", "height": PICTURES[name].height}
        for name in names
    ]


def report(name: str) -> Path:
    """The report of a run or a study, drawn anew; what it is of is made where it is missing."""
    folder = FOLDER / "runs" / name
    if not (folder / "report.html").exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        for number, word in enumerate(("letters", "tales")):
            (FOLDER / f"{word}.txt").write_text(
                "\n\n".join(f"{word} {n * 7 % 97 + number}, and so on" for n in range(4000))
            )
        preset, overrides = (REPORTS | STUDIES)[name]
        nanogrove(
            "compare" if name in STUDIES else "train",
            preset,
            *EVERYWHERE.split(),
            *overrides.split(),
            "--out",
            str(folder),
        )
    else:
        nanogrove("compare" if name in STUDIES else "report", str(folder))
    return folder / "report.html"


def nanogrove(*arguments: str) -> None:
    """Runs the command in the folder of the pictures. Raises CalledProcessError where it fails."""
    print("nanogrove", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "nanogrove", *arguments], check=True, cwd=FOLDER, stdout=subprocess.DEVNULL)


def take(pictures: list[dict[str, Any]], chromium: str) -> int:
    """Takes the pictures and returns the exit code: 1 where something is wrong with a page."""
    command = ["node", str(Path(__file__).with_suffix(".mjs")), str(FOLDER), chromium]
    return subprocess.run(command, input=json.dumps(pictures), text=True).returncode


if __name__ == "__main__":
    main()
