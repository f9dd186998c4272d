"""What a new run can begin from: a file that is dropped, a run, a preset."""

from nanogrove.config.catalog import GROUPS, list_presets
from nanogrove.data.sources.formats import readable_formats
from nanogrove.reports.values import escaped
from nanogrove.ui.dry_run import LONGEST_SECONDS as DRY_RUN_SECONDS
from nanogrove.ui.files import LONGEST_SECONDS, MAX_FILE_BYTES, Files
from nanogrove.ui.frame import alert, link
from nanogrove.ui.index import Lab

SHOWN_FILES = 20  # that were dropped before


def choices_page(lab: Lab, files: Files, problem: str = "", text: str = "") -> str:
    """The body of the page that asks for a preset, a run or a file to begin from.

    Args:
        lab: what is here.
        files: those that were dropped before.
        problem: why no run begins from the file that was asked for.
        text: what is known of that.
    """
    descriptions = list_presets()
    groups = "".join(
        f"<h2>{escaped(group.title)}</h2><ul>"
        + "".join(
            f'<li><a href="{link("/new", preset=name)}">{name}</a>: {escaped(descriptions[name])}</li>'
            for name in group.names
        )
        + "</ul>"
        for group in reversed(GROUPS)
    )
    options = "".join(f'<option value="{escaped(key)}">{escaped(key)}</option>' for key in lab.runs)
    runs = (
        '<form class="search"><label for="run">Begin from the settings of a run</label>'
        f'<select id="run" name="run">{options}</select><button>Show its form</button></form>'
    )
    known = f'<pre tabindex="0" aria-label="What the file holds">{escaped(text)}</pre>' if text else ""
    begin = runs if lab.runs else ""
    return f"<h1>New run</h1>{alert(problem)}{known}{_drop(files)}{begin}<p>Or choose a preset:</p>{groups}"


def _drop(files: Files) -> str:
    """The place for a file, and those that were dropped before."""
    dropped = files.names()[:SHOWN_FILES]
    links = ", ".join(f'<a href="{link("/new", file=name)}">{escaped(name)}</a>' for name in dropped)
    longest = DRY_RUN_SECONDS + LONGEST_SECONDS
    what = (
        f"The page takes {readable_formats()}, packed or not, of {MAX_FILE_BYTES >> 30} GiB at most, copies it to "
        f"<bdi>{escaped(str(files.folder))}</bdi>, and looks at it as <code>nanogrove explore</code> does, which "
        "proposes settings. Larger files, and folders, are explored on the command line."
    )
    label = "Train on a file of your own: drop it here, or choose it"
    return (
        f'<section id="drop" class="drop" data-most="{MAX_FILE_BYTES}"><p><label for="file">{label}</label> '
        f'<input id="file" type="file"></p><p class="note">{what}</p>'
        f'<p id="taking" role="status" data-longest="{longest:.0f}"></p>'
        f"{f'<p>Dropped before: {links}</p>' if links else ''}</section>"
    )
