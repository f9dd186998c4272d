"""The page on which a run writes, alone or beside another one: a form, and each side's text with its probabilities."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from nanogrove.decoding.sampling import Sampling
from nanogrove.reports.values import escaped
from nanogrove.reports.writer import LEVELS
from nanogrove.ui.frame import link
from nanogrove.ui.writing import MAX_TOKENS

TEMPLATE = "chat_template.jinja"  # in the checkpoint of a run that chats
TOKENS = 100  # when left out, as for `nanogrove generate`


class Slider(NamedTuple):
    """A setting of `Sampling`: its label, the ends and the step of its slider, and where that rests while it is off."""

    name: str
    label: str
    low: float
    high: float
    step: float
    rest: float


SLIDERS = (
    Slider("temperature", "Temperature", 0, 2, 0.05, 0.8),
    Slider("top_k", "Top k", 1, 100, 1, 100),
    Slider("top_p", "Top p", 0.01, 1, 0.01, 1),
    Slider("min_p", "Min p", 0, 1, 0.01, 0),
    Slider("repetition_penalty", "Repetition penalty", 0.5, 2, 0.05, 1),
    Slider("no_repeat_ngram", "No repeated n-gram of", 1, 10, 1, 10),
)


def play_page(key: str, run: Path, others: Sequence[str]) -> str:
    """The body of the page of a run, which `play.js` brings to life.

    Args:
        key: the name of the run in addresses.
        run: its folder.
        others: the names of runs that may stand beside it.
    """
    options = "".join(f'<option value="{escaped(other)}">{escaped(other)}</option>' for other in others)
    legend = "".join(f'<li class="level-{number}">{label}</li>' for number, label in enumerate(LEVELS))
    chats = any((run / "checkpoints" / name / TEMPLATE).is_file() for name in ("best", "current"))
    chat = (
        '<label class="box"><input type="checkbox" id="chat" checked> Chat: the prompt is a message</label> '
        '<button type="button" id="anew">New conversation</button>'
    )
    return (
        f'<h1>Try <bdi><a href="{link("/run", name=key)}">{escaped(key)}</a></bdi></h1>'
        "<noscript><p>This page needs JavaScript.</p></noscript>"
        f'<form id="play" class="play" data-run="{escaped(key)}"><label for="prompt">Prompt</label>'
        '<textarea id="prompt" rows="4" spellcheck="false" autocomplete="off" aria-describedby="prompt-about">'
        "</textarea>"
        '<p class="note" id="prompt-about">Left empty, a new text begins. Ctrl+Enter writes.</p>'
        f'<div class="sliders">{"".join(map(_slider, SLIDERS))}</div><p class="numbers-of">'
        f'<label>Tokens <input id="tokens" type="number" min="1" max="{MAX_TOKENS}" value="{TOKENS}" required></label> '
        f'<label>Seed <input id="seed" type="number" min="0" max="{2**53 - 1}" value="0" required></label> '
        f'<label>Beside it <select id="beside"><option value="">no other run</option>{options}</select></label> '
        "<label>Lookahead <small>model calls per token; empty for none</small> "
        '<input id="lookahead" type="number" min="1"></label> '
        '<label class="box"><input type="checkbox" id="calibrated"> Calibrated temperature</label> '
        f"{chat if chats else ''}</p>"
        '<p><button id="write">Write</button> <button id="stop" type="button" disabled>Stop</button></p></form>'
        '<p class="note">Colours are the probability that the model gave each token, at temperature 1:</p>'
        f'<ul class="levels">{legend}</ul><div class="sides">{_pane(0, key)}{_pane(1, "")}</div>'
    )


def _slider(slider: Slider) -> str:
    """A slider with its field; an empty field means that the setting is off."""
    default = Sampling.model_fields[slider.name].default
    value, title = "" if default is None else f"{default:g}", escaped(Sampling.model_fields[slider.name].description)
    off = "; empty for off" if default is None else ""
    return (
        f'<div title="{title}"><label for="{slider.name}">{slider.label}<small>{off}</small></label>'
        f'<input type="range" aria-label="{slider.label}, slider" min="{slider.low}" max="{slider.high}" '
        f'step="{slider.step}" value="{slider.rest}" data-rest="{slider.rest}">'
        f'<input type="number" id="{slider.name}" class="sampling" min="{0 if slider.low < 1 else 1}" '
        f'step="{1 if slider.step == 1 else "any"}" value="{value}"{" required" if default is not None else ""}></div>'
    )


def _pane(number: int, name: str) -> str:
    """What one side writes."""
    titles = "".join(
        f'<th scope="col">{title}</th>' for title in ("Number", "Token", "Probability", "The likeliest here")
    )
    hidden = " hidden" if number else ""
    return (
        f'<section class="side"{hidden} aria-label="Side {number + 1}"><h2><bdi class="name">{escaped(name)}</bdi></h2>'
        '<p class="note said" role="status"></p><progress hidden aria-label="Progress"></progress>'
        '<div class="written" dir="auto" tabindex="0" role="region" '
        f'aria-label="Text {number + 1}; the arrow keys go from token to token"></div>'
        '<p class="note chosen" aria-live="polite"></p><details><summary>All tokens in a table</summary>'
        f'<div class="wide numbers" role="region" tabindex="0" aria-label="Tokens of text {number + 1}">'
        f"<table><thead><tr>{titles}</tr></thead><tbody></tbody></table></div></details></section>"
    )
