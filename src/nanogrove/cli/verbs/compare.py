"""`nanogrove compare`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanogrove.cli.completion import complete_presets, complete_settings
from nanogrove.cli.terminal import console
from nanogrove.errors import StudyError

if TYPE_CHECKING:
    from nanogrove.studies.settings import StudySettings


def compare(
    study: Annotated[
        str, typer.Argument(help="A preset's name or file, or the file of a study.", autocompletion=complete_presets)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Of all arms.", autocompletion=complete_settings),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(help="An arm: NAME, or NAME:KEY=VALUE,KEY=VALUE; preset=FILE gives it a preset of its own."),
    ] = None,
    leave_one_out: Annotated[
        list[str] | None, typer.Option(help="A switch, KEY=VALUE: arms are all switches, and all but each.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Paired seeds of all arms; 8 when left out.")] = None,
    equal: Annotated[
        str | None,
        typer.Option(help="What all arms have the same of: tokens, flops, time or data; tokens when left out."),
    ] = None,
    tune: Annotated[
        list[str] | None, typer.Option(help="What each arm tries first: KEY=VALUE,VALUE; several make a grid.")
    ] = None,
    measure: Annotated[
        str | None, typer.Option(help="What arms are judged by; the first that all have when left out.")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="A difference that does not matter.")] = None,
    until_decided: Annotated[bool, typer.Option("--until-decided", help="Add seeds until all is decided.")] = False,
    cap: Annotated[int | None, typer.Option(help="Most seeds of --until-decided; 24 when left out.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder; studies/NAME when left out.")] = None,
    engine: Annotated[str, typer.Option(help="auto, stacked, processes or ray.")] = "auto",
    workers: Annotated[int, typer.Option(help="Jobs at a time; 0 for one per core.", min=0)] = 0,
    address: Annotated[str, typer.Option(help="Of a Ray cluster.")] = "",
    prepare: Annotated[bool, typer.Option("--prepare", help="Plan and collect; train nothing.")] = False,
    index: Annotated[int | None, typer.Option(help="Train one run of a planned study by its number, from 0.")] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Run functions that presets name as module:function.")
    ] = False,
) -> None:
    """Say which of several ways is better, at equal compute, over paired seeds."""
    from nanogrove.cli.waits import shown_waits

    with shown_waits("starting"):
        from nanogrove.cli.studies import finish, show
        from nanogrove.studies.compare import Options, train_index
        from nanogrove.studies.compare import compare as run

        values, folder = _read(study)
        given = {
            "arms": _arms(arm, leave_one_out),
            "overrides": overrides,
            "seeds": seeds,
            "equal": equal,
            "tune": _tune(tune),
            "measure": measure,
            "margin": margin,
            "until_decided": until_decided or None,
            "cap": cap,
        }
        settings = _merged(values, given, study)
    out = out or folder or Path("studies") / settings.name
    try:
        if index is not None:
            show(train_index(out, index, allow_code), console())
            return
        findings = show(run(settings, out, Options(engine, workers, address, allow_code), train=not prepare), console())
    except (KeyboardInterrupt, SystemExit) as stop:
        print("stopped; what runs have saved stays, and the same command goes on", file=sys.stderr)
        raise typer.Exit(int(stop.code or 0) if isinstance(stop, SystemExit) else 130) from None
    finish(findings, out, console())


def _read(study: str) -> tuple[dict[str, Any], Path | None]:
    """The JSON of a study, or of one about a preset, and the folder of a study that began."""
    from nanogrove.config.catalog import packaged_text, read_preset_file
    from nanogrove.studies.folder import read_part

    path = Path(study)
    if path.is_dir() and any((path / part).exists() for part in ("study.json", "plan.json")):
        path = path / "study.json"
        if not path.is_file():
            raise StudyError(f"{path}: missing, or not a file; put back what the study wrote there")
    if packaged_text(study) is None and path.suffix == ".json" and path.is_file():
        values = read_part(path)
        if values is not None and "arms" in values:
            began = (path.parent / "plan.json").exists()
            return {"name": path.stem, **values}, path.parent if began else None
    name = read_preset_file(study)["name"]
    return {"name": name, "preset": study, "arms": []}, None


def _arms(arm: list[str] | None, switches: list[str] | None) -> list[dict[str, Any]] | None:
    from nanogrove.studies.settings import leave_one_out, parse_arm

    if switches and arm:
        raise StudyError("--arm and --leave-one-out both name arms; give one of them")
    if switches:
        return leave_one_out(switches)
    return [parse_arm(text) for text in arm] if arm else None


def _tune(texts: list[str] | None) -> dict[str, list[str]] | None:
    from nanogrove.studies.settings import parse_tune

    return parse_tune(texts) if texts else None


def _merged(values: dict[str, Any], given: dict[str, Any], where: str) -> "StudySettings":
    """The settings of a study file, or of a preset, with what the command line gives in their place."""
    from nanogrove.studies.settings import read_settings

    given = {key: value for key, value in given.items() if value is not None and value != []}
    if not isinstance(values["arms"], list):
        return read_settings(values, where)
    if values["arms"]:  # of a file: arms of the command line are added to those that it has
        given["arms"] = [*values["arms"], *given.get("arms", [])]
    merged = {**values, **given}
    if len(merged["arms"]) < 2:
        raise StudyError(
            f"{where}: a comparison needs two arms or more, as in --arm muon --arm adamw:optimizer.name=adamw"
        )
    settings = read_settings(merged, where)
    if "cap" in given and not settings.until_decided:
        raise StudyError("--cap is the most seeds of --until-decided; add that, or give --seeds")
    return settings
