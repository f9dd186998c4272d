"""The page of a report: one self-contained HTML file, with its style and the script that draws its figures.

Plotly's whole bundle is in the page, packed, as data. `page.js` unpacks it and adds it as a script element, which the
policy admits by its hash, as it does `figures.js` with `page.js` and nothing else.
"""

import base64
import functools
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

from plotly.offline import get_plotlyjs

from nanogrove.reports.values import escaped

STYLE, FIGURES, PAGE = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "figures.js", "page.js")
)
SCRIPT = "".join(line for line in (FIGURES + PAGE).splitlines(True) if not line.lstrip().startswith("//"))
GZIP = 31  # of zlib: 15 bits of window, and the header of gzip, without a time


@dataclass(frozen=True)
class Addition:
    """What a page holds besides its sections.

    Args:
        style: Rules of CSS.
        blocks: Data blocks, as HTML.
        script: One script more that the policy admits; it may start workers that it makes of the page's own data.
    """

    style: str
    blocks: str
    script: str


def html_page(title: str, sections: list[str], addition: Addition | None = None) -> str:
    """A page of `sections`, HTML already escaped; no network, and no script but plotly's, ours and the addition's."""
    packed, digest = packed_plotly()
    style, blocks, scripts, workers = STYLE, "", [SCRIPT], ""
    if addition is not None:
        style, blocks, workers = style + addition.style, addition.blocks, "worker-src blob:; "
        scripts.append(addition.script)
    admitted = "".join(f" '{_digest(script)}'" for script in scripts)
    # Plotly sets styles inline; a style can draw nonsense but, with no network, tell nobody anything.
    # A heat map is an image that plotly makes on the spot, at a data: address.
    policy = (
        f"default-src 'none'; script-src '{digest}'{admitted}; {workers}style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    body = "".join(f"<section>{part}</section>" for part in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{style}</style></head>\n<body><main>{body}</main>"
        f'<script type="application/gzip" id="plotly">{packed}</script>{blocks}'
        f"{''.join(f'<script>{script}</script>' for script in scripts)}</body></html>\n"
    )


@functools.cache
def packed_plotly() -> tuple[str, str]:
    """Plotly's bundle, packed by gzip as base64, and the digest by which a policy admits it as it is unpacked."""
    code = get_plotlyjs()
    packer = zlib.compressobj(9, wbits=GZIP)
    packed = packer.compress(code.encode()) + packer.flush()
    return base64.b64encode(packed).decode(), _digest(code)


def _digest(code: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}"
