"""GGUF, the one file that llama.cpp and the programs around it read: weights, settings, vocabulary, chat template.

Matrices are stored as asked, all else, and a table of positions, in 32 bits. Rows that are no multiple of 32 long
cannot share scales and are stored in 16 bits, as llama.cpp's own converter does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from nanogrove.errors import PresetError
from nanogrove.exports.contract import Dtype, Format
from nanogrove.exports.formats import FORMATS
from nanogrove.exports.source import Source
from nanogrove.exports.vocabulary import vocabulary_of
from nanogrove.model.config import ModelConfig
from nanogrove.model.huggingface import family_of, to_transformers
from nanogrove.waits import waiting

if TYPE_CHECKING:
    from gguf import GGUFWriter

KINDS = ("gpt2", "llama", "qwen3")  # shapes that llama.cpp has too, which calls them the same
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0"}


def write(source: Source, dtype: Dtype, folder: Path) -> None:
    """Writes `NAME-DTYPE.gguf`.

    Raises PresetError for a shape or a vocabulary that llama.cpp has not, and for a weight that f16 does not hold.
    """
    import gguf

    kind = shape_of(source)
    vocabulary = vocabulary_of(source.tokenizer, source.config.vocab_size or 0)
    if dtype == "f16":
        source.halved()
    writer = gguf.GGUFWriter(folder / file_name(source, dtype), kind)
    try:
        _add_settings(writer, source.config, kind)
        writer.add_name(source.name)
        writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(vocabulary.rule)
        writer.add_token_list(vocabulary.tokens)
        writer.add_token_types(vocabulary.kinds)
        writer.add_token_merges(vocabulary.merges)
        writer.add_bos_token_id(source.tokenizer.end)
        writer.add_eos_token_id(source.tokenizer.end)
        writer.add_pad_token_id(source.tokenizer.end)
        writer.add_add_bos_token(False)
        if source.answer_end is not None and source.tokenizer.chat_template is not None:
            writer.add_eot_token_id(source.answer_end)
            writer.add_chat_template(source.tokenizer.chat_template)
        named = tensors(source.weights, source.config, kind)
        with waiting("rounding weights", sum(tensor.numel() for tensor in named.values())) as progress:
            for name, tensor in named.items():
                _add_tensor(writer, name, tensor, dtype)
                progress.done += tensor.numel()
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def file_name(source: Source, dtype: Dtype) -> str:
    """The name of the file."""
    return f"{source.name}-{dtype}.gguf"


def shape_of(source: Source) -> str:
    """The shape of a model by llama.cpp's name. Raises PresetError, with what would fit, where it has none."""
    try:
        return family_of(source.config, KINDS, "llama.cpp")
    except PresetError as error:
        kind = family_of(source.config)  # which raises where no program has it
        others = " or ".join(name for name in FORMATS if name != "gguf")
        raise PresetError(f"this is a {kind}: {error}; or export it --to {others}") from None


def _add_settings(writer: "GGUFWriter", config: ModelConfig, kind: str) -> None:
    writer.add_vocab_size(config.vocab_size or 0)
    writer.add_context_length(config.block_size)
    writer.add_block_count(config.n_layer)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.inner_size)
    writer.add_head_count(config.n_head)
    if kind == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_rope_dimension_count(config.head_width)
    writer.add_rope_freq_base(config.rope_theta)


def tensors(weights: Mapping[str, Tensor], config: ModelConfig, kind: str) -> dict[str, Tensor]:
    """The weights by llama.cpp's names and in its layout: matrices `[out, in]`."""
    import gguf

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], config.n_layer)
    renamed = {}
    for name, tensor in to_transformers(weights, config).items():
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        renamed[theirs] = _laid_out(name, tensor, config, kind)
    return renamed


def _laid_out(name: str, tensor: Tensor, config: ModelConfig, kind: str) -> Tensor:
    """A tensor of `transformers` as llama.cpp stores it.

    GPT-2's maps are transposed there. Rows of Llama's q and k that are turned together, i and i + D/2 of a head, lie
    side by side.
    """
    if kind == "gpt2":
        return tensor.mT if ".c_" in name and tensor.dim() == 2 else tensor
    if kind == "llama" and (".q_proj." in name or ".k_proj." in name):
        halves = tensor.reshape(-1, 2, config.head_width // 2, *tensor.shape[1:])
        return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def _add_tensor(writer: "GGUFWriter", name: str, tensor: Tensor, dtype: Dtype) -> None:
    import gguf

    values = np.ascontiguousarray(tensor.numpy())
    stored = stored_as(name, values.shape, dtype)
    kind = gguf.GGMLQuantizationType[stored.upper()]
    writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)


def stored_as(name: str, shape: tuple[int, ...], dtype: Dtype) -> Dtype:
    """What a tensor is stored as in a file of a dtype."""
    if len(shape) < 2 or name == "position_embd.weight":
        return "f32"
    return "f16" if dtype == "q8_0" and shape[-1] % 32 else dtype


def usage(source: Source, dtype: Dtype) -> str:
    """How the file is used."""
    name = file_name(source, dtype)
    if source.answer_end is not None:
        return f"```sh\nllama-cli -m {name}\n```\n\nIts chat template is in the file."
    return f'```sh\nllama-completion -m {name} -no-cnv -p "Once upon" -n 50\n```'


FORMAT = Format(
    title="llama.cpp (GGUF)",
    library="gguf",
    dtypes=("f32", "f16", "q8_0"),
    packages=("gguf",),
    write=write,
    usage=usage,
)
