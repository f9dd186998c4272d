"""Samples of text that a run draws while it trains."""

from collections.abc import Iterator

from nanogrove.data.chat.conversations import Message
from nanogrove.data.rng import derived_seed
from nanogrove.language_model import LanguageModel
from nanogrove.model.ensemble import part
from nanogrove.model.gpt import GPT
from nanogrove.model.members import unstack
from nanogrove.record.events import Event
from nanogrove.runs.setup import Setup
from nanogrove.train.state import TrainState


def samples_of_state(setup: Setup, state: TrainState, member: int, step: int) -> Iterator[Event]:
    """Samples of the model at this step; of a population, those of one member, or of an ensemble."""
    model = state.scored
    if state.ensemble:
        model = part(model, slice(state.ensemble))
    elif model.population is not None:
        model = GPT(model.config).to(setup.whole_device)
        model.load_state_dict(unstack(state.scored.state_dict(), member))
    yield from samples(setup, LanguageModel(model, setup.corpus.tokenizer), step)


def samples(setup: Setup, lm: LanguageModel, step: int) -> Iterator[Event]:
    """A `sample` event for each prompt of the preset; its randomness is a function of (seed, step).

    A model with a chat template answers each prompt as a message of the user; there, nothing answers an empty one.
    """
    settings = setup.preset.sample
    sampling = settings.model_dump(exclude={"every", "prompts", "tokens"})
    prompts = settings.prompts
    seed, precision = derived_seed(setup.preset.seed, "sample", step), setup.sample_precision
    if lm.tokenizer.chat_template is None:
        texts = lm.generate(prompts, settings.tokens, seed=seed, precision=precision, **sampling)
    else:
        prompts = [prompt for prompt in prompts if prompt.strip()]
        asked: list[Message] = [{"role": "user", "content": prompt} for prompt in prompts]
        texts = [
            f"{message['content']}\n\n{lm.chat([message], settings.tokens, seed=seed, precision=precision, **sampling)}"
            for message in asked
        ]
    for prompt, text in zip(prompts, texts, strict=True):
        yield Event("sample", step, {"prompt": prompt, "text": text})
