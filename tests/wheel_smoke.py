"""What `make wheel` asks of the wheel, in a fresh environment that knows nothing of this folder.

    python -I wheel_smoke.py DIST     DIST holds one wheel and one source archive

The archives hold what they should and nothing more; the installed program trains a model and generates with it.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path, PurePosixPath

TEXT = "Once upon a time there was a very short story. " * 400
TINY = ["model.n_layer=1", "model.n_embd=16", "model.block_size=16", "data.vocab_size=300", "train.steps=3"]


def check_archives(dist: Path) -> None:
    """The wheel holds the package with its data and its licence; the source archive can build it again."""
    (wheel,) = dist.glob("*.whl")
    (source,) = dist.glob("*.tar.gz")
    names = [PurePosixPath(name) for name in zipfile.ZipFile(wheel).namelist()]
    with tarfile.open(source) as archive:
        sources = {PurePosixPath(*PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    assert {name.parts[0] for name in names} == {"nanogrove", f"nanogrove-{version('nanogrove')}.dist-info"}, names
    package = {name for name in names if name.parts[0] == "nanogrove"}
    assert PurePosixPath("nanogrove/py.typed") in package
    assert PurePosixPath("nanogrove/presets/quickstart.json") in package
    assert any(name.name == "LICENSE" for name in names)
    assert not any("tests" in name.parts for name in [*names, *sources])
    ours = {name for name in sources if name.is_relative_to("src/nanogrove") and name.suffix}
    written = {name for name in package if name.suffix != ".so"}  # the C kernels, where there is a compiler
    assert {name for name in ours if name.suffix not in (".c", ".h")} == {
        PurePosixPath("src", name) for name in written
    }
    assert {name.name for name in ours} >= {"decoding.c", "lanes.h"}
    assert {PurePosixPath(name) for name in ("pyproject.toml", "README.md", "LICENSE")} <= sources


def nanogrove(*arguments: str, folder: Path) -> str:
    """Runs the installed command in a folder to its end; what it printed."""
    program = Path(sys.executable).with_name("nanogrove")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [program, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    """Raises AssertionError or CalledProcessError where the wheel is not as it should be."""
    check_archives(Path(sys.argv[1]))
    import nanogrove as package

    assert Path(sys.prefix) in Path(package.__file__).parents, package.__file__
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "my.txt").write_text(TEXT)
        assert "train" in nanogrove("--help", folder=folder)
        assert "quickstart" in nanogrove("presets", folder=folder)
        nanogrove("train", "quickstart", "data.sources=my.txt", *TINY, "--out", "run", folder=folder)
        text = nanogrove("generate", "run", "Once upon", "--tokens", "20", folder=folder)
        assert text.startswith("Once upon"), text
    print(f"the wheel of nanogrove {version('nanogrove')} works")


if __name__ == "__main__":
    main()
