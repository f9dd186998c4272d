"""The page on which a run writes, alone or beside another one: a form, and the text of each side."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, get_args

from nanogrove.decoding.sampling import Sampling
from nanogrove.generation import BETA
from nanogrove.reports.values import escaped
from nanogrove.reports.writer import LEVELS
from nanogrove.ui.asked import MAX_TOKENS, Precision
from nanogrove.ui.frame import link

TEMPLATE = "chat_template.jinja"  # in the checkpoint of a run that chats
TOKENS = 100  # when left out, as for `nanogrove generate`


class Slider(NamedTuple):
    """A setting with its label, the ends and the step of its slider, and where that rests while the setting is off."""

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
BETA_SLIDER = Slider("beta", "Strength: what a reward of 1 adds to a logit", 0, 40, 0.5, BETA)
BETA_TITLE = "each of the top k likeliest tokens, or 20, gets beta times the reward of the text that ends with it"
REWARDS = (  # that come with nanogrove: kind, name, and what is to be filled in
    ("terms", "Words with weights", "Words, each 1 or with a weight, as in good, bad=-1"),
    ("pattern", "A pattern that is found", "Regular expression; 1 for a text in which it is found"),
    ("length", "A length", "Characters; minus the distance of the text, prompt included, from them"),
)
PRECISIONS: tuple[str, ...] = get_args(Precision)


def play_page(key: str, run: Path, others: Sequence[str], rewards: Sequence[str]) -> str:
    """The body of the page of a run, which `play.js` brings to life.

    Args:
        key: the name of the run in addresses.
        run: its folder.
        others: the names of runs that may stand beside it.
        rewards: the names of reward models.
    """
    options = "".join(f'<option value="{escaped(other)}">{escaped(other)}</option>' for other in others)
    precisions = "".join(f"<option>{name}</option>" for name in PRECISIONS)
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
        f'<div class="sliders">{"".join(map(_sampling, SLIDERS))}</div>{_steering(rewards)}<p class="numbers-of">'
        f'<label>Tokens <input id="tokens" type="number" min="1" max="{MAX_TOKENS}" value="{TOKENS}" required></label> '
        f'<label>Seed <input id="seed" type="number" min="0" max="{2**53 - 1}" value="0" required></label> '
        f'<label>Beside it <select id="beside"><option value="">no other run</option>{options}</select></label> '
        "<label>Lookahead <small>model calls per token; empty for none</small> "
        '<input id="lookahead" type="number" min="1"></label> '
        '<label class="box"><input type="checkbox" id="speculative"> Speculative</label> '
        '<label class="box"><input type="checkbox" id="calibrated"> Calibrated temperature</label> '
        f'<label>Precision <select id="precision">{precisions}</select></label> '
        "<label>End before <small>a text per line, in which \\n is a line end</small> "
        '<textarea id="stops" rows="1" spellcheck="false" autocomplete="off"></textarea></label> '
        f"{chat if chats else ''}</p>"
        '<p><button id="write">Write</button> <button id="stop" type="button" disabled>Stop</button></p></form>'
        '<p class="note">Colours are the probability that the model gave each token, at temperature 1:</p>'
        f'<ul class="levels">{legend}</ul><div class="sides">{_pane(0, key)}{_pane(1, "")}</div>'
    )


def _sampling(slider: Slider) -> str:
    """The slider of a setting of `Sampling`."""
    field = Sampling.model_fields[slider.name]
    return _slider(slider, field.default, escaped(field.description))


def _slider(slider: Slider, default: float | None, title: str) -> str:
    """A slider with its field; an empty field means that the setting is off."""
    value = "" if default is None else f"{default:g}"
    off = "; empty for off" if default is None else ""
    kind = "sampling" if slider.name in Sampling.model_fields else "strength"
    least = "" if kind == "strength" else f'min="{0 if slider.low < 1 else 1}" '
    return (
        f'<div title="{title}"><label for="{slider.name}">{slider.label}<small>{off}</small></label>'
        f'<input type="range" aria-label="{slider.label}, slider" min="{slider.low}" max="{slider.high}" '
        f'step="{slider.step}" value="{slider.rest}" data-rest="{slider.rest}">'
        f'<input type="number" id="{slider.name}" class="{kind}" {least}'
        f'step="{1 if slider.step == 1 else "any"}" value="{value}"{" required" if default is not None else ""}></div>'
    )


def _steering(rewards: Sequence[str]) -> str:
    """What a text is steered by."""
    kinds = "".join(f'<option value="{kind}" data-label="{label}">{name}</option>' for kind, name, label in REWARDS)
    runs = "".join(f'<option value="run:{escaped(name)}">Reward model {escaped(name)}</option>' for name in rewards)
    return (
        '<fieldset class="steering"><legend>Steer by a reward</legend><p><label>Reward '
        f'<select id="reward"><option value="">none</option>{kinds}{runs}</select></label></p>'
        '<p id="reward-field" hidden><label for="reward-of"></label><input id="reward-of" spellcheck="false" '
        'autocomplete="off"></p><div class="sliders" id="strength" hidden>'
        f"{_slider(BETA_SLIDER, BETA, BETA_TITLE)}</div></fieldset>"
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
        '<p class="note chosen" aria-live="polite"></p><p class="note left-out" hidden></p><div class="beside"></div>'
        '<section class="votes" hidden><h3>Votes</h3><p class="note counted" role="status"></p>'
        f'<div class="wide numbers" role="region" tabindex="0" aria-label="Votes of side {number + 1}"><table>'
        '<thead><tr><th scope="col">Votes</th><th scope="col">Text</th></tr></thead><tbody></tbody></table></div>'
        "</section>"
        '<details class="all"><summary>All tokens in a table</summary>'
        f'<div class="wide numbers" role="region" tabindex="0" aria-label="Tokens of text {number + 1}">'
        f"<table><thead><tr>{titles}</tr></thead><tbody></tbody></table></div></details></section>"
    )
