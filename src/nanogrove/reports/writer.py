"""The part of a page in which a model writes: a form, the text with its probabilities, the model's data, its scripts.

The model computes in a worker that is made from a data block of the page, so nothing is fetched. What a run says enters
as escaped text, or as JSON in a data block, which no browser executes.
"""

from pathlib import Path

from nanogrove.reports.page import Addition
from nanogrove.reports.values import escaped

FOLDER = Path(__file__).with_name("browser")
PARTS = ("products", "network", "tokenizer", "sampling", "grammar", "writing", "voting", "worker")
WORKER_FILES = tuple(f"{name}.js" for name in PARTS)
WORKER = "".join(['"use strict";\n', *((FOLDER / name).read_text(encoding="utf-8") for name in WORKER_FILES)])
TOKEN_SCRIPT, FORM_SCRIPT, FORM_STYLE, TOKEN_STYLE = (
    (FOLDER / name).read_text(encoding="utf-8") for name in ("tokens.js", "writer.js", "writer.css", "tokens.css")
)
SCRIPT = TOKEN_SCRIPT + FORM_SCRIPT
STYLE = FORM_STYLE + TOKEN_STYLE
MOST_TOKENS = 10_000  # of a text; each has an element of its own
INPUTS = (  # name, label, attributes
    ("tokens", "New tokens", f'type="number" min="1" max="{MOST_TOKENS}" value="200" required'),
    ("top-k", "Top k, 0 for all", 'type="number" min="0" value="0" required'),
    ("top-p", "Top p, 1 for all", 'type="number" min="0.01" max="1" step="0.01" value="1" required'),
    ("seed", "Seed", 'type="number" min="0" max="4294967295" value="0" required'),
)
LEVELS = ("below 5%", "5% to 20%", "20% to 50%", "50% to 80%", "80% and more")  # as in tokens.js


def writer(about: str, prompt: str, model: str, exact: bool = False, voters: int = 0) -> tuple[str, Addition]:
    """The HTML of the section, and what a page with it needs besides.

    Args:
        about: What the model is, in a sentence or two.
        prompt: What the field for it begins with.
        model: The model as JSON, without a `<`.
        exact: Whether that holds a grammar.
        voters: How many models of a committee it holds.
    """
    settings = "".join(
        f'<label>{label}<input id="writer-{name}" {attributes}></label>' for name, label, attributes in INPUTS
    )
    legend = "".join(f'<li class="level-{number}">{label}</li>' for number, label in enumerate(LEVELS))
    titles = ("Number", "Token", "Probability", "The likeliest", *(("By the grammar exactly",) if exact else ()))
    heads = "".join(f'<th scope="col">{title}</th>' for title in titles)
    html = (
        f'<h2>The model writes</h2><p class="note">{escaped(about)}</p><form id="writer-form">'
        '<label>Prompt<textarea id="writer-prompt" spellcheck="false" autocomplete="off">\n'
        f'{escaped(prompt)}</textarea></label><div class="settings"><label><span>Temperature '
        '<output id="writer-temperature-shown">0.8</output></span>'
        '<input id="writer-temperature" type="range" min="0" max="2" step="0.05" value="0.8"></label>'
        f'{settings}</div><div><button id="writer-write" disabled>Write</button> '
        '<button id="writer-stop" type="button" disabled>Stop</button></div></form>'
        '<p class="note" id="writer-status" role="status">Reading the model.</p>'
        '<pre id="writer-text" dir="auto" tabindex="0" role="region" '
        'aria-label="The text; the arrow keys go from token to token"></pre>'
        '<p class="note" id="writer-chosen" aria-live="polite"></p>'
        '<p class="note">Colours are the probability that the model gave each token:</p>'
        f'<ul class="levels">{legend}</ul>'
        "<details><summary>All tokens in a table</summary>"
        '<div class="wide" role="region" tabindex="0" aria-label="The tokens, with their probabilities">'
        f'<table><thead><tr>{heads}</tr></thead><tbody id="writer-rows"></tbody></table></div></details>'
    )
    html += _votes(voters) if voters else ""
    blocks = (
        f'<script type="application/json" id="writer-model">{model}</script>'
        f'<script type="text/plain" id="writer-code">{WORKER}</script>'
    )
    return html, Addition(STYLE, blocks, SCRIPT)


def _votes(voters: int) -> str:
    """The place of the votes of a committee."""
    heads = "".join(f'<th scope="col">{title}</th>' for title in ("Votes", "Text"))
    return (
        f'<h3>Votes of the committee</h3><p class="note">Each of its {voters:,} voters continues the prompt by its '
        'likeliest tokens, whatever the settings above.</p><div class="wide" role="region" tabindex="0" '
        f'aria-label="The votes"><table><thead><tr>{heads}</tr></thead><tbody id="writer-votes"></tbody></table></div>'
    )
