"""Exchange with `transformers`: a folder that `AutoModelForCausalLM.from_pretrained` loads, and back.

What its families express and how they store it stands in `families/`, a file each. Nothing here imports
`transformers`; the tests compare with it.

Traps, each met by a line below:

- GPT-2 has a bias in every map and norm. A model without gets zeros, and `nanogrove_bias: false` in config.json,
  so that it comes back without them, unless they were trained meanwhile.
- NanoChat's default `pad_token_id`, 1, would stop the gradient of that token's embedding: all three special ids
  are always written, null where there is none.
- A key left out of config.json means `transformers`' own default, which is not always ours.

Settings that matter in training only: GPT-2's three dropouts are our one `dropout`; the other families have it in
attention alone, where it is written and read. `zero_init` is not exchanged.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from nanogrove.atomic import make_folder, write_file
from nanogrove.errors import CheckpointError, DataError, PresetError
from nanogrove.json_reading import BadJsonError, read_json
from nanogrove.model.config import ModelConfig
from nanogrove.model.families.family import Exchange
from nanogrove.model.families.table import EXCHANGES, FAMILIES
from nanogrove.model.gpt import GPT
from nanogrove.model.layers import Linear
from nanogrove.model.weight_files import plain_file, read_weights
from nanogrove.settings import reason

# Bookkeeping, outputs and initial values, in any family: no logits depend on these.
_IGNORED = """architectures model_type transformers_version _name_or_path name_or_path dtype torch_dtype use_cache
    initializer_range bos_token_id eos_token_id pad_token_id return_dict output_attentions output_hidden_states
    tie_last_hidden_states chunk_size_feed_forward id2label label2id num_labels problem_type task_specific_params
    tokenizer_class is_llama_config"""
_FORMATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_DERIVED_TENSORS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")  # buffers in older files


def _shown(value: object) -> str:
    return (value if isinstance(value, str) else json.dumps(value))[:80]


def family_of(config: ModelConfig, kinds: Collection[str] = tuple(EXCHANGES), program: str = "transformers") -> str:
    """The family among `kinds`, which are those that `program` has, that expresses `config`.

    Raises PresetError when there is none, naming the fewest settings that together rule out all of them.
    """
    if config.scalar:
        raise PresetError(f"this is a reward model (scalar=true): it gives numbers, and {program}'s families logits")
    if config.memory_tokens:
        raise PresetError(
            f"no {program} family has memory_tokens={config.memory_tokens}; theirs carry nothing on; train a "
            "model for it without model.memory_tokens"
        )
    if config.within_documents:
        raise PresetError(
            f"no {program} family has within_documents=true; theirs attend to all that came before; train a "
            "model for it with model.within_documents=false"
        )
    asked_for = ("norm", "mlp", "position", "qk_norm", "embed_norm", "logit_softcap", "token_shift", "bias")
    wanted = {name: getattr(config, name) for name in asked_for}
    if config.kv_heads != config.n_head:
        wanted["n_kv_head"] = config.kv_heads
    if config.attention_width != config.n_embd:
        wanted["head_size"] = config.head_size
    if config.n_embd % config.n_head:
        wanted["n_embd"] = config.n_embd
    lacks = {
        kind: {name for name, value in wanted.items() if value not in family.has.get(name, (value,))}
        for kind, family in EXCHANGES.items()
        if kind in kinds
    }
    nearest = min(lacks, key=lambda kind: len(lacks[kind]))
    if not lacks[nearest]:
        return nearest
    subsets = (set(subset) for size in range(1, 5) for subset in combinations(wanted, size))
    culprits = next(subset for subset in subsets if all(subset & lacking for lacking in lacks.values()))
    asked = " with ".join(f"{name}={_shown(wanted[name])}" for name in wanted if name in culprits)
    multiple = -(-config.n_embd // config.n_head) * config.n_head
    has = EXCHANGES[nearest].has | {"n_kv_head": (config.n_head,), "n_embd": (multiple,)}
    needed = ", ".join(f"{name}={_shown(has[name][0])}" for name in wanted if name in lacks[nearest])
    raise PresetError(f"no {program} family has {asked}; the nearest, {nearest}, needs {needed}")


def _blank(config: ModelConfig) -> GPT:
    """The model without its memory: names and shapes."""
    with torch.device("meta"):
        return GPT(config)


def _links(config: ModelConfig, family: Exchange) -> Iterator[tuple[str, torch.Size, list[str], list[int]]]:
    """Each parameter's name and shape, its names in that family, and how many of our rows each of those takes."""
    model = _blank(config)
    for name, parameter in model.named_parameters():
        path, kind = name.rsplit(".", 1)
        layer = "".join(re.findall(r"\d+", path))
        their_paths = family.modules[re.sub(r"\d+", "*", path)]
        theirs = [f"{their_path.replace('*', layer)}.{kind}" for their_path in their_paths]
        module = model.get_submodule(path)
        rows = module.parts if isinstance(module, Linear) and len(theirs) > 1 else parameter.shape[:1]
        yield name, parameter.shape, theirs, list(rows)


def to_transformers(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The state dict of one model, or gradients by the same names, named and laid out as `transformers` does.

    Copies. Raises PresetError as `family_of` does.
    """
    kind, theirs = family_of(config), {}
    exchange = EXCHANGES[kind]
    stored = config.model_copy(update={"bias": config.bias or exchange.biased})
    for ours, shape, names, rows in _links(stored, exchange):
        added = ours.endswith(".bias") and not config.bias
        tensor = state["embed.weight"].new_zeros(shape) if added else state[ours]
        for name, part in zip(names, torch.split(tensor, rows), strict=True):
            theirs[name] = exchange.layout(name, part, config.head_width).clone(memory_format=torch.contiguous_format)
    return theirs


def from_transformers(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """What `to_transformers` returned, as a state dict of `GPT(config)`. Copies, and raises, as that does."""
    exchange = EXCHANGES[family_of(config)]
    return {
        ours: torch.cat([exchange.layout(name, tensors[name], config.head_width) for name in names])
        for ours, _, names, _ in _links(config, exchange)
    }


def export_model(
    model_state: dict[str, Tensor],
    config: ModelConfig,
    out: Path,
    tokenizer_json: str | None = None,
    end_of_text: tuple[str, int] | None = None,
    chat: tuple[str, int] | None = None,
) -> str:
    """Writes one model as a folder for `transformers`, and returns the family it became.

    `tokenizer_json` is the text of a `tokenizer.json`; `end_of_text` is the token between documents and its id:
    generation without a prompt starts from it, and all generation stops at it. `chat` is the text of a chat template
    and the token that ends an answer, at which generation stops too. `out` is made if need be.
    Raises PresetError when no family expresses `config`, DataError when the tokenizer does not fit, CheckpointError
    when `model_state` does not fit `config`, and OSError when the disk refuses.
    """
    files = described_model(config, model_state["embed.weight"].dtype, tokenizer_json, end_of_text, chat)
    _check_tensors(model_state, _blank(config).state_dict(), "the model to export")
    tensors = {name: tensor.cpu() for name, tensor in to_transformers(model_state, config).items()}
    make_folder(out)
    for name, content in files.items():
        write_file(out / name, content)
    write_file(out / "model.safetensors", save(tensors, metadata={"format": "pt"}))
    return family_of(config)


def described_model(
    config: ModelConfig,
    dtype: torch.dtype,
    tokenizer_json: str | None = None,
    end_of_text: tuple[str, int] | None = None,
    chat: tuple[str, int] | None = None,
) -> dict[str, bytes]:
    """The files of a folder for `transformers` but for the weights, which are stored as `dtype`, by their names.

    The other arguments are those of `export_model`, and it raises PresetError and DataError as that does.
    """
    kind = family_of(config)
    if config.vocab_size is None:
        raise PresetError("vocab_size is not set; it usually comes from the tokenizer")
    token, end = end_of_text or (None, None)
    contents: dict[str, Mapping[str, object]] = {"config.json": _to_json(config, kind, end, dtype)}
    if end is not None:  # padding is not named in config.json: it would freeze that token's embedding there
        stops = end if chat is None else [end, chat[1]]
        contents["generation_config.json"] = {"bos_token_id": end, "eos_token_id": stops, "pad_token_id": end}
    if tokenizer_json is not None:
        _check_tokenizer(tokenizer_json, token, end, config.vocab_size)
        contents["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": config.block_size,
            "clean_up_tokenization_spaces": False,
            "padding_side": "left",  # as texts are continued on the right
            "eos_token": token,
            "pad_token": token,
        }
    files = {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in contents.items()}
    if tokenizer_json is not None:
        files["tokenizer.json"] = tokenizer_json.encode()
    if chat is not None:
        files["chat_template.jinja"] = chat[0].encode()
    return files


def _to_json(config: ModelConfig, kind: str, end: int | None, dtype: torch.dtype) -> dict[str, object]:
    """The content of config.json."""
    family = EXCHANGES[kind]
    content: dict[str, object] = {"architectures": [family.architecture], "model_type": kind}
    settings = {name: getattr(config, name) for name in ModelConfig.model_fields}
    settings |= {"n_inner": config.inner_size, "n_kv_head": config.kv_heads, "head_size": config.head_width}
    content |= {key: settings[row[0]] for key, row in family.keys.items()}
    content |= {key: values[0] for key, values in family.fixed.items()}
    content |= {key: settings[ours] for key, ours in family.repeated}
    if family.rotary:  # version 5 reads the first, older readers the second
        content["rope_parameters"] = {"rope_type": "default", "rope_theta": config.rope_theta}
        content["rope_theta"] = config.rope_theta
    if family.biased and not config.bias:
        content["nanogrove_bias"] = False
    content |= {"bos_token_id": end, "eos_token_id": end, "pad_token_id": None}
    return content | {"dtype": str(dtype).removeprefix("torch.")}


def _check_tokenizer(text: str, token: str | None, end: int | None, vocab_size: int) -> None:
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"not a tokenizer.json of the tokenizers library ({error})") from None
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest >= vocab_size:
        raise DataError(f"the tokenizer has an id {largest}, and the model a vocab_size of {vocab_size}")
    if token is not None and tokenizer.token_to_id(token) != end:
        raise DataError(f"the tokenizer's id of {token!r} is {tokenizer.token_to_id(token)}, not {end}")


def import_model(folder: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Reads a folder that `export_model` or `transformers` wrote: settings, and a state dict of `GPT(settings)`.

    Weights keep their precision; no code runs. Raises CheckpointError, with the file and the reason, when the
    folder cannot be read or its model is not one that `GPT` computes.
    """
    where = folder / "config.json"
    try:
        raw = read_json(plain_file(where))
    except (OSError, BadJsonError) as error:
        raise CheckpointError(f"{where}: cannot be read ({error})") from None
    raw = raw if isinstance(raw, dict) else {}
    kind = raw.get("model_type")
    if not isinstance(kind, str) or kind not in EXCHANGES:
        known = ", ".join(EXCHANGES)
        raise CheckpointError(f"{where}: model_type={_shown(kind)} is not supported; {known} are")
    config = _from_json(raw, kind, where)
    embed = EXCHANGES[kind].modules["embed"][0] + ".weight"
    tensors = _read_weights(folder, prefix=embed.split(".")[0] + ".")
    if config.tie_embeddings and "lm_head.weight" in tensors:
        head = tensors.pop("lm_head.weight")
        if embed not in tensors or not torch.equal(head, tensors[embed]):
            raise CheckpointError(f"{where}: tie_word_embeddings is true, but lm_head.weight is not {embed}")
    if config.n_layer > len(tensors):  # checked before as many layers are laid out as a file may claim
        raise CheckpointError(f"{folder}: {len(tensors)} tensors are too few for {config.n_layer} layers")
    _check_tensors(tensors, to_transformers(_blank(config).state_dict(), config), str(folder))
    biases = [tensor for name, tensor in tensors.items() if name.endswith(".bias")]
    if raw.get("nanogrove_bias") is False and not any(bias.any() for bias in biases):
        config = config.model_copy(update={"bias": False})
    return config, from_transformers(tensors, config)


def _read_weights(folder: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a folder, by the names of the model with a head, without derived buffers."""
    tensors = read_weights(folder)
    if not any(name.startswith(prefix) for name in tensors):  # saved without a head, as GPT-2 was published
        tensors = {name if name == "lm_head.weight" else prefix + name: t for name, t in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if not _DERIVED_TENSORS.search(name)}


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    for problem, names in (("lacks", expected.keys() - tensors.keys()), ("has", tensors.keys() - expected.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise CheckpointError(f"{where} {problem} {min(names)}{more}, unlike its settings")
    for name, tensor in tensors.items():
        shape, wanted = list(tensor.shape), list(expected[name].shape)
        if shape != wanted:
            raise CheckpointError(f"{where}: {name} has the shape {shape}, and the settings make it {wanted}")
        if tensor.dtype not in _FORMATS:
            raise CheckpointError(f"{where}: {name} holds {tensor.dtype}; quantised weights are not supported")


def _from_json(raw: Mapping[str, object], kind: str, where: Path) -> ModelConfig:
    """Our settings from the content of config.json, each of whose keys is read, checked, or known to be idle."""
    family, fixed, sources = EXCHANGES[kind], dict(EXCHANGES[kind].fixed), dict[str, str]()
    settings: dict[str, object] = {name: values[0] for name, values in family.has.items() if values}
    settings["family"] = FAMILIES[kind].imported_as or kind
    for key, (ours, *default) in family.keys.items():
        if raw.get(key) is None and not default:
            raise CheckpointError(f"{where}: {key} is missing")
        value = raw[key] if key in raw else default[0]
        if ours in sources and settings[ours] != value:
            both = f"{sources[ours]}={_shown(settings[ours])} and {key}={_shown(value)}"
            raise CheckpointError(f"{where}: {both} must agree: nanogrove has one setting for them, {ours}")
        settings[ours], sources[ours] = value, key
    known = {*_IGNORED.split(), *family.ignored.split(), *family.keys}
    layer_types = raw.get("layer_types")
    if family.full_attention and isinstance(layer_types, list):
        fixed["layer_types"] = (["full_attention"] * len(layer_types),)
    if family.rotary:
        settings["rope_theta"], fixed["rope_interleaved"] = _rope_theta(raw, where), (False,)
        known |= {"rope_scaling", "rope_parameters", "rope_theta"}
    for key, value in raw.items():
        if value not in fixed.get(key, (value,)):
            only = " or ".join(map(_shown, fixed[key]))
            raise CheckpointError(f"{where}: {key}={_shown(value)} is not supported; only {only} is")
        if key not in known and key not in fixed and value is not None:
            advice = "take it out if the model is the same without it"
            raise CheckpointError(f"{where}: {key}={_shown(value)} is not supported; {advice}")
    try:
        config = ModelConfig.model_validate(settings)
    except ValidationError as error:
        name = ".".join(map(str, error.errors()[0]["loc"]))
        raise CheckpointError(f"{where}: {sources.get(name, name or 'sizes')}: {reason(error.errors())}") from None
    if "n_embd" in family.has and config.n_embd % config.n_head:
        sizes = f"hidden_size={config.n_embd} is not a multiple of num_attention_heads={config.n_head}"
        raise CheckpointError(f"{where}: {sizes}, which transformers refuses in {kind} too")
    if config.attention_width == config.n_embd:
        return config.model_copy(update={"head_size": None})  # what it has here where it follows from the other sizes
    return config


def _rope_theta(raw: Mapping[str, object], where: Path) -> object:
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    known = {"rope_type", "type", "rope_theta"}
    if (
        not isinstance(rope, dict)
        or not rope.keys() <= known
        or any(rope.get(key, "default") != "default" for key in ("rope_type", "type"))
    ):
        raise CheckpointError(f"{where}: rotary positions {_shown(rope)} are not supported; only plain ones are")
    return rope.get("rope_theta", raw.get("rope_theta", 10000.0))
