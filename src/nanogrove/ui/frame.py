"""What all pages share: the frame of a page, and the files that it names."""

import importlib.metadata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

from plotly.offline import get_plotlyjs
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nanogrove.reports.page import FIGURES, STYLE
from nanogrove.reports.values import escaped
from nanogrove.reports.writer import TOKEN_SCRIPT, TOKEN_STYLE

HERE = Path(__file__).parent


def html_page(title: str, body: str, scripts: tuple[str, ...] = (), status: int = 200) -> Response:
    """A page of `body`, HTML already escaped, with scripts of ASSETS."""
    version = importlib.metadata.version("nanogrove")
    tags = "".join(f'<script src="/assets/{name}?{version}" defer></script>' for name in scripts)
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escaped(title)}</title><link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="/assets/ui.css?{version}">{tags}</head>\n'
        f'<body><a class="skip" href="#main">To the content</a><header><a href="/">nanogrove</a> '
        f'<a class="new" href="/new">New run</a></header><main id="main">{body}</main></body></html>\n'
    )
    # A name of a file can carry half of a character, and UTF-8 cannot.
    return HTMLResponse(text.encode("utf-8", "replace"), status, {"Cache-Control": "no-store"})


def link(path: str, **words: str) -> str:
    """An address of this server, escaped for an attribute."""
    return escaped(f"{path}?{urlencode(words, errors='replace')}" if words else path)


def to_page(path: str, key: str, part: str = "") -> Response:
    """Leads a browser to the page of a run or a study, or to a part of it."""
    return RedirectResponse(f"{path}?{urlencode({'name': key}, errors='replace')}{part}", 303)


def alert(message: str) -> str:
    """A line that says what is wrong."""
    return f'<p class="alert" role="alert">{escaped(message)}</p>' if message else ""


def _file(name: str) -> Callable[[], str]:
    return lambda: (HERE / name).read_text(encoding="utf-8")


ASSETS: Mapping[str, tuple[str, Callable[[], str]]] = {  # each with its type, and what gives its text
    "ui.css": ("text/css", lambda: STYLE + TOKEN_STYLE + _file("ui.css")() + _file("play.css")()),
    "plotly.js": ("text/javascript", get_plotlyjs),
    "figures.js": ("text/javascript", lambda: FIGURES),
    "list.js": ("text/javascript", _file("list.js")),
    "new.js": ("text/javascript", _file("new.js")),
    "play.js": ("text/javascript", _file("play.js")),
    "run.js": ("text/javascript", _file("run.js")),
    "tokens.js": ("text/javascript", lambda: TOKEN_SCRIPT),
}


@cache
def asset(name: str) -> bytes:
    """The content of a file of ASSETS."""
    return ASSETS[name][1]().encode()
