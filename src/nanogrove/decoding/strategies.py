"""The strategies that may be asked for by name, in place of plain decoding: a new one is a file and a line here."""

from collections.abc import Callable, Mapping

from nanogrove.decoding.ensemble import averaged
from nanogrove.decoding.lookahead import lookahead
from nanogrove.decoding.loop import Strategy
from nanogrove.decoding.plain import plain
from nanogrove.decoding.speculative import speculative
from nanogrove.errors import PresetError
from nanogrove.model.gpt import GPT
from nanogrove.model.heads import Heads

STRATEGIES: dict[str, Callable[[GPT, Heads | None, int], Strategy]] = {  # the number is what the option was set to
    "speculative": lambda model, heads, _: speculative(model, heads),
    "lookahead": lookahead,
}


def one_by_one(model: GPT) -> Strategy:
    """A token for each call of the model: plain decoding or, of several members, by the mean of their probabilities."""
    return plain(model) if model.population is None else averaged(model)


def strategy_for(model: GPT, heads: Heads | None, options: Mapping[str, int | None], steered: bool) -> Strategy:
    """The strategy of `STRATEGIES` whose option is not None; `one_by_one` where there is none.

    Raises PresetError for two at once, one beside a reward that steers, or any of a model with a memory or of an
    ensemble, and CheckpointError for a model without the heads it needs.
    """
    chosen = [name for name in STRATEGIES if options.get(name) is not None]
    if model.memory is not None and (chosen or steered):
        raise PresetError(f"{chosen[0] if chosen else 'a reward'}: a model with a memory is decoded plainly only")
    if model.population is not None and chosen:
        raise PresetError(f"{chosen[0]}: an ensemble has no heads for it and is decoded plainly only; leave it out")
    if not chosen:
        return one_by_one(model)
    if steered or len(chosen) > 1:
        raise PresetError(f"{' and '.join(chosen)}{' and a reward' if steered else ''} do not go together; take one")
    return STRATEGIES[chosen[0]](model, heads, options[chosen[0]] or 0)
