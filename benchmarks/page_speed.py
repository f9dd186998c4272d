"""How many tokens per second the model in a page writes in headless Chromium.

    nanogrove report RUN --with-model
    python benchmarks/page_speed.py RUN/report-with-model.html [PAGE ...] [--tokens 400] [--cpu]

Needs Chromium and node: `make browser`. With `--cpu` it needs node alone and gives tokens per second of CPU time, which
other programs disturb less. Each page writes three texts, the first of which warms the compiler of JavaScript up; the
best counts. A context that is full is read again by halves, so that is in the figure.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

DRIVER = Path(__file__).parent.parent / "tests/exports/page.mjs"
NODE = Path(__file__).with_name("page_cpu.mjs")
MODULES = Path(sys.prefix) / "npm" / "node_modules"
TEXTS = 3


def tokens_per_second(page: Path, tokens: int) -> list[int]:
    """The speed of each of the texts."""
    settings = {"tokens": tokens, "temperature": 0.8, "seed": 0, "top-k": 0, "top-p": 1}
    asked = {"page": str(page), "prompt": "", "settings": settings, "texts": TEXTS}
    command = ["node", str(DRIVER), str(MODULES), str(shutil.which("chromium"))]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {page}: {done.stderr.strip().splitlines()[-1]}")
    speeds: list[int] = json.loads(done.stdout)["perSecond"]
    return speeds


def tokens_per_cpu_second(page: Path, tokens: int) -> list[int]:
    """The speed of each of the texts under node, by CPU time."""
    done = subprocess.run(["node", str(NODE), str(page), str(tokens), str(TEXTS)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"error: {page}: {done.stderr.strip().splitlines()[-1]}")
    return [int(line) for line in done.stdout.split()]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=400, help="of each text")
    parser.add_argument("--cpu", action="store_true", help="measure CPU time under node")
    options = parser.parse_args()
    if shutil.which("node") is None:
        sys.exit("error: this needs node")
    if not options.cpu and (shutil.which("chromium") is None or not MODULES.is_dir()):
        sys.exit("error: this needs Chromium, which `make browser` installs; --cpu needs node alone")
    for page in options.pages:
        speeds = (tokens_per_cpu_second if options.cpu else tokens_per_second)(page, options.tokens)
        print(f"{page}: {max(speeds)} tokens per second ({page.stat().st_size / 1e6:.1f} MB; each text: {speeds})")


if __name__ == "__main__":
    main()
