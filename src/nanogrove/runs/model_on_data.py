"""What a model's settings take from the data: its vocabulary, and the tokens that attention and positions know."""

from nanogrove.data.corpus import Corpus
from nanogrove.errors import PresetError
from nanogrove.model.config import ModelConfig


def resolve_model(model: ModelConfig, corpus: Corpus, rows: int = 0) -> tuple[ModelConfig, ModelConfig]:
    """The model with as many tokens as the data needs, and `rows` at least; and the same with what it knows of tokens.

    Raises PresetError where a setting contradicts the data.
    """
    sized = _vocabulary(model, corpus, rows)
    return sized, _coupled(_document_mark(sized, corpus), corpus)


def _vocabulary(model: ModelConfig, corpus: Corpus, rows: int = 0) -> ModelConfig:
    """The model with as many tokens as the data needs, and `rows` at least.

    Raises PresetError where it is given fewer than the data needs.
    """
    needed = corpus.tokenizer.vocab_size
    vocabulary = model.vocab_size or max(needed, rows)
    if vocabulary < needed:
        raise PresetError(f"model.vocab_size={vocabulary} is smaller than the tokenizer's {needed}; leave it out")
    return model.model_copy(update={"vocab_size": vocabulary})


def _document_mark(model: ModelConfig, corpus: Corpus) -> ModelConfig:
    """The model with the token that stands between documents, where its attention stays within documents.

    Raises PresetError where it is given another token, and for a reward model, which would see that token alone.
    """
    end = corpus.tokenizer.end
    if model.document_mark not in (None, end):
        raise PresetError(f"model.document_mark is not the end of text of the tokenizer, which is {end}; leave it out")
    if model.within_documents and model.scalar:
        raise PresetError("model.within_documents: a reward model judges by the end mark, which would see itself alone")
    return model.model_copy(update={"document_mark": end if model.within_documents else None})


def _coupled(model: ModelConfig, corpus: Corpus) -> ModelConfig:
    """The model with the tokens that its coupled positions count, where it has such positions.

    A token forms, starts or ends runs where its whole text consists of such characters. Raises PresetError where it is
    given other tokens, where a character is of two kinds, or none of the vocabulary forms runs.
    """
    symbols = {
        "coupled_tokens": model.coupled,
        "coupled_start_tokens": model.coupled_starts,
        "coupled_end_tokens": model.coupled_ends,
    }
    resolved: dict[str, tuple[int, ...] | None] = dict.fromkeys(symbols)
    if model.position == "coupled":
        tokenizer = corpus.tokenizer
        texts = {token: tokenizer.decode([token]) for token in range(tokenizer.vocab_size)}
        for name, kind in symbols.items():
            resolved[name] = tuple(token for token, text in texts.items() if text and set(text) <= set(kind))
        if not resolved["coupled_tokens"]:
            raise PresetError(
                f"model.position=coupled: no token consists of characters of model.coupled={model.coupled!r} alone; "
                "set it to characters of the data that form numbers, or choose other positions"
            )
        kinds = "".join("".join(sorted(set(kind))) for kind in symbols.values())
        if twice := next((symbol for symbol in kinds if kinds.count(symbol) > 1), None):
            raise PresetError(
                f"model.coupled, coupled_starts and coupled_ends share {twice!r}; leave it out of all but one"
            )
    for name, tokens in resolved.items():
        if getattr(model, name) not in (None, tokens):
            raise PresetError(f"model.{name} is not what the tokenizer says; leave it out")
    return model.model_copy(update=resolved)
