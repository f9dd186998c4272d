"""Weights that training begins with: those of a run, of a checkpoint, of `transformers` in a folder or on the hub.

A model takes every weight whose name and shape are its own. Tables of tokens and positions may have more rows or fewer:
the rows that both have are taken, so that tokens can be added and a context cut. What a source lacks, such as the
output of a reward model, stays as it was drawn.
"""

import hashlib
import os.path
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from nanogrove.data.chat.template import configured_template, template_text
from nanogrove.data.rng import derived_seed
from nanogrove.data.sources.network import one_line, quiet
from nanogrove.data.text.cache import cache_folder
from nanogrove.data.tokenizer import Tokenizer
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.model.config import ModelConfig
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import import_model
from nanogrove.paths import expanded
from nanogrove.settings import shown
from nanogrove.train.adapter_files import CONFIG, is_adapter, merge, read_settings
from nanogrove.train.checkpoint import TEMPLATE, TOKENIZER_CONFIG, model_of, read_checkpoint, read_plain
from nanogrove.train.population.breeding import noise_of
from nanogrove.waits import waiting

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
DOWNLOADED = (
    *("config.json", "tokenizer.json", "*.safetensors", "*.safetensors.index.json"),
    *(TEMPLATE, TOKENIZER_CONFIG),
)
TABLES = ("embed.weight", "position.weight", "head.weight")  # a row for each token, or for each position
FREE = (
    *("block_size", "dropout", "scalar", "within_documents", "document_mark", "vocab_size", "init_scale", "zero_init"),
    *("coupled_tokens", "coupled_start_tokens", "coupled_end_tokens"),
)


@dataclass(frozen=True)
class Initial:
    """One model to begin from.

    Args:
        source: as it was named.
        config: its settings.
        tokenizer: its vocabulary.
        tokenizer_file: where that lies.
        weights: by the names of a `GPT`, in float32.
    """

    source: str
    config: ModelConfig
    tokenizer: Tokenizer
    tokenizer_file: Path
    weights: dict[str, Tensor]

    def __post_init__(self) -> None:
        """Raises CheckpointError for weights that no training recovers from."""
        broken = next((name for name, tensor in self.weights.items() if not tensor.isfinite().all()), None)
        if broken is not None:
            raise CheckpointError(f"{self.source}: weight {broken} is NaN or infinite; begin with other weights")

    @cached_property
    def digest(self) -> str:
        """The first 32 digits of the SHA-256 of all weights, with their names and shapes."""
        digest = hashlib.sha256()
        with waiting("computing the digest of weights", len(self.weights)) as wait:
            for name, tensor in sorted(self.weights.items()):
                digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
                wait.done += 1
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Fit:
    """What a model takes of weights.

    Args:
        taken: the names of what is taken, whole or in part.
        new: the names of what is new, whole or in part.
        others: in words, what is new or cut.
    """

    taken: tuple[str, ...]
    new: tuple[str, ...]
    others: tuple[str, ...]


def read_initial(source: str) -> Initial:
    """The best model of a run, a checkpoint, or a model of `transformers`, in a folder or by its name on the hub.

    To name one of the hub is to allow its download; no code runs. Raises CheckpointError where there is none, or one
    that nanogrove cannot express.
    """
    folder = expanded(source)
    if HUB_NAME.fullmatch(source) and not folder.exists() and not folder.parent.exists():
        folder = _downloaded(source)
    if is_for_transformers(folder):
        return read_transformers(folder)
    if folder.is_file():
        raise CheckpointError(f"{folder}: is a file; give the folder that it is in")
    if not any((folder / name).exists() for name in ("state.json", "checkpoints")):
        raise CheckpointError(
            f"{source}: neither a run, a checkpoint nor a model of transformers; give the folder of one, or a name on "
            "the hub such as HuggingFaceTB/SmolLM2-135M"
        )
    checkpoint = read_checkpoint(folder)
    weights = model_of(checkpoint).state_dict()
    file = checkpoint.folder / "tokenizer.json"
    return Initial(source, checkpoint.config, checkpoint.tokenizer, file, weights)


def _read_adapter(folder: Path) -> Initial:
    """The model that adapters in a folder are of, merged with them. Raises CheckpointError as `merge` does."""
    settings = read_settings(folder)
    name = settings["base_model_name_or_path"]
    base = expanded(name)
    if not base.is_dir() and HUB_NAME.fullmatch(name):
        base = _cached(name)  # to name an adapter is not to allow the download of what it names
    if not base.is_dir() or is_adapter(base):
        raise CheckpointError(
            f"{folder / CONFIG}: base_model_name_or_path={shown(name)} is no model here; download it (hf download "
            "--local-dir), and write its folder there"
        )
    initial = read_initial(str(base))
    weights = dict(initial.weights)
    merge(folder, settings, initial.config, weights)
    config = initial.config.model_copy(update={"vocab_size": len(weights["embed.weight"])})
    file = folder / "tokenizer.json"
    if not file.exists():
        return replace(initial, source=str(folder), config=config, weights=weights)
    return Initial(str(folder), config, _read_tokenizer(folder, len(weights["embed.weight"])), file, weights)


def _cached(name: str) -> Path:
    """Where a model of the hub lies once it is downloaded; no links are there, as are in the hub's own cache."""
    return cache_folder() / "models" / name.replace("/", "--")


def _downloaded(name: str) -> Path:
    """The folder of a model of the hub, weights as safetensors alone. Raises CheckpointError where it cannot be had."""
    import huggingface_hub  # which takes time to import

    folder = _cached(name)
    try:
        with waiting(f"downloading {name}"), quiet(huggingface_hub):
            huggingface_hub.snapshot_download(name, allow_patterns=list(DOWNLOADED), local_dir=folder)
    except Exception as error:  # of the hub, of the network, or of the name
        raise CheckpointError(
            f"{name}: neither a folder here nor to be had from the hub ({one_line(error)[:120]}); give a folder"
        ) from None
    return folder


def is_for_transformers(folder: Path) -> bool:
    """Whether a folder has what `transformers` or `peft` writes; in a checkpoint lies a `state.json` beside it."""
    return is_adapter(folder) or ((folder / "config.json").is_file() and not (folder / "state.json").exists())


def read_transformers(folder: Path) -> Initial:
    """The model of a folder for `transformers`, with its tokenizer, or that of an adapter of `peft`, merged with it.

    Raises CheckpointError as `import_model` and `merge` do.
    """
    if is_adapter(folder):
        return _read_adapter(folder)
    config, weights = import_model(folder)
    tokenizer, file = _read_tokenizer(folder, len(weights["embed.weight"])), folder / "tokenizer.json"
    return Initial(str(folder), config, tokenizer, file, {name: tensor.float() for name, tensor in weights.items()})


def _read_tokenizer(folder: Path, rows: int) -> Tokenizer:
    """The tokenizer in the folder of a model of so many tokens. Raises CheckpointError where none is that fits."""
    file = folder / "tokenizer.json"
    if not file.exists():
        raise CheckpointError(
            f"{file}: missing; save it there with AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        )
    chat_template = _chat_template(folder)
    tokenizer = Tokenizer.from_json(read_plain(file).decode("utf-8", "replace"), str(file), chat_template)
    if tokenizer.vocab_size > rows:
        raise CheckpointError(
            f"{folder}: its tokenizer has {tokenizer.vocab_size} tokens and its model {rows}; they do not belong "
            "together"
        )
    return tokenizer


def _chat_template(folder: Path) -> str | None:
    """The chat template beside a model, in a file of its own or in `tokenizer_config.json`, which counts less."""
    for name, read in ((TEMPLATE, template_text), (TOKENIZER_CONFIG, configured_template)):
        if os.path.lexists(folder / name):
            return read(read_plain(folder / name), folder / name)
    return None


def adopted(model: ModelConfig, initial: Initial) -> ModelConfig:
    """The settings of a model that begins with `initial`: its own, but for those that change no weight.

    The context is that of `model` where it is not the default.
    """
    kept = {name: getattr(model, name) for name in FREE}
    if model.block_size == ModelConfig.model_fields["block_size"].default:
        kept["block_size"] = initial.config.block_size
    kept["within_documents"] |= initial.config.within_documents
    config = initial.config.model_copy(update=kept)
    if config.position == "learned" and config.block_size > initial.config.block_size:
        raise PresetError(
            f"model.block_size={config.block_size}: {initial.source} has {initial.config.block_size} positions; set "
            f"model.block_size={initial.config.block_size} or less"
        )
    return config


def check_vocabulary(initial: Initial, tokenizer: Tokenizer) -> None:
    """Raises PresetError where a token of the data is not the same token of the weights; tokens may be added."""
    ids = tokenizer.backend.get_vocab(with_added_tokens=True)
    for token, number in initial.tokenizer.backend.get_vocab(with_added_tokens=True).items():
        if ids.get(token) != number:
            raise PresetError(
                f"{initial.source} has another vocabulary than the data, in which the number of {token!r} is "
                f"{ids.get(token)}, not {number}; leave data.tokenizer out, if it is set, or begin with other weights"
            )


def fit_of(initial: Initial, config: ModelConfig) -> Fit:
    """What a model of `config` takes. Raises CheckpointError for a weight that it has no room for."""
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in GPT(config).named_parameters()}
    taken, new, others = [], [], []
    for name, shape in shapes.items():
        weight = initial.weights.get(name)
        if weight is None or (config.scalar and name.startswith("head.")):
            new.append(name)
            others.append(f"{name} is new")
        elif weight.shape == shape or (name in TABLES and weight.shape[1:] == shape[1:]):
            taken.append(name)
            if len(weight) < shape[0]:
                new.append(name)
                others.append(f"rows {len(weight)} to {shape[0] - 1} of {name} are new")
            elif len(weight) > shape[0]:
                others.append(f"the first {shape[0]} of {len(weight)} rows of {name} are taken")
        else:
            raise CheckpointError(f"{initial.source}: {name} is {tuple(weight.shape)}, and the model asks for {shape}")
    unused = [name for name in initial.weights if name not in shapes and not name.startswith("head.")]
    if unused:
        raise CheckpointError(f"{initial.source}: the model has no {unused[0]}")
    return Fit(tuple(taken), tuple(new), tuple(others))


@torch.no_grad()
def take(model: GPT, initials: Sequence[Initial], noise: float, seeds: Sequence[int]) -> None:
    """Sets the weights of a model, or of each member of a population, to those of `initials`: one for all, or one each.

    Each is disturbed by normal noise of `noise` times the root mean square of each weight, drawn from its seed.
    """
    fits = [(initial, fit_of(initial, model.config)) for initial in initials]
    parameters = dict(model.named_parameters())
    for member, seed in enumerate(seeds):
        initial, fit = fits[member % len(fits)]
        weights = parameters if model.population is None else {name: p[member] for name, p in parameters.items()}
        for name in fit.taken:
            rows = min(len(weights[name]), len(initial.weights[name]))
            weights[name][:rows] = initial.weights[name][:rows]
        if noise:
            generator = torch.Generator(model.embed.weight.device).manual_seed(derived_seed(seed, "noise"))
            for weight in weights.values():
                weight.add_(noise_of(weight, noise, generator))


def described(initials: Sequence[Initial], config: ModelConfig, template: str | None) -> Iterator[str]:
    """Lines for a person: what is taken of each source, what is new, and where it has another chat `template`."""
    for initial in initials:
        fit = fit_of(initial, config)
        count = sum(initial.weights[name].numel() for name in fit.taken)
        others = f"; {', '.join(fit.others)}" if fit.others else ""
        tokens = initial.tokenizer.vocab_size
        shape = f"{config.n_layer} layers x {config.n_embd}"
        yield f"begins with {count:,} weights of {initial.source}: {shape}, its {tokens:,} tokens{others}"
        if template is not None and initial.tokenizer.chat_template not in (None, template):
            file = initial.tokenizer_file.parent / TEMPLATE
            instead = "write it to a file, and give that as data.template"
            instead = f"data.template={file}" if file.exists() else instead
            yield f"{initial.source} has another chat template than the data; to take it: {instead}"
