"""ONNX with a cache of keys and values, as onnxruntime, optimum and transformers.js run it.

The graph reads `input_ids [B, T]`, an `attention_mask [B, S + T]` that is 0 where a row is padded, their `position_ids`
and, for each layer, the keys and values of S tokens that were read before, `[B, G, S, D]`. It gives `logits [B, T, V]`,
and the keys and values with those of the new tokens. Its names and axes are those of optimum's exports.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from nanogrove.atomic import make_folder, write_file
from nanogrove.errors import PresetError
from nanogrove.exports.contract import Dtype, Format
from nanogrove.exports.source import Source
from nanogrove.memory import shown_bytes
from nanogrove.model.cache import Cache, Placement
from nanogrove.model.gpt import GPT
from nanogrove.model.huggingface import described_model, family_of
from nanogrove.waits import waiting

OPSET = 18
MAX_BYTES = (1 << 31) - (1 << 24)  # of weights: a message of protobuf holds 2 GiB
FILES: dict[Dtype, str] = {"f32": "model.onnx", "f16": "model_fp16.onnx"}  # by which transformers.js finds them
FORMATS: dict[Dtype, torch.dtype] = {"f32": torch.float32, "f16": torch.float16}
Pairs = list[tuple[Tensor, Tensor]]


class GivenCache(Cache):
    """Keys and values that the caller of a graph keeps: given ones are read, and joined with new ones, given back.

    Args:
        past: keys and values of each layer, `[B, G, S, D]`.
        attention_mask: `[B, S + T]`, 0 where a row is padded.
        positions: of the new tokens, `[B, T]`.
    """

    def __init__(self, past: Pairs, attention_mask: Tensor, positions: Tensor) -> None:
        self.past, self.positions, self.present = past, positions, list[tuple[Tensor, Tensor]]()
        self.longest = 1  # something was read, as far as attention asks
        keys = attention_mask.cumsum(1) - 1  # the positions of all tokens, pads not counted
        seen = (keys[:, None] <= positions[..., None]) & (attention_mask[:, None] > 0)
        like = past[0][0]
        # A pad sees nothing. The least number keeps its softmax finite, where minus infinity would give NaN.
        unseen = torch.full((), torch.finfo(like.dtype).min, dtype=like.dtype)
        self.mask = torch.where(seen, torch.zeros((), dtype=like.dtype), unseen)[:, None]

    def place(self, tokens: Tensor, candidates: bool = False) -> Placement:
        """Where the new tokens stand, and what they see."""
        return Placement(self.positions, self.mask, None)

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer: those that were given, then the new ones."""
        self.present.append((torch.cat((self.past[layer][0], keys), 2), torch.cat((self.past[layer][1], values), 2)))
        return self.present[-1]

    def advance(self, tokens: Tensor, lengths: Tensor | None = None) -> None:
        """Nothing: the caller keeps what comes out."""


class Graph(nn.Module):
    """A model as a function of tokens and of what it read before."""

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: Pairs
    ) -> tuple[Tensor, Pairs]:
        """Logits `[B, T, V]`, and keys and values of each layer."""
        cache = GivenCache(past, attention_mask, position_ids)
        hidden = self.model.through(self.model.embed(input_ids), cache)
        return self.model.logits(hidden), cache.present


def write(source: Source, dtype: Dtype, folder: Path) -> None:
    """Writes the graph into `onnx/`, and what else a folder for `transformers` has.

    Raises PresetError for a shape that no family of `transformers` has, as transformers.js knows models by these.
    """
    family_of(source.config)
    tokenizer, end = source.tokenizer, source.answer_end
    files = described_model(
        source.config,
        FORMATS[dtype],
        tokenizer.to_json(),
        (tokenizer.end_token, tokenizer.end),
        None if end is None or tokenizer.chat_template is None else (tokenizer.chat_template, end),
    )
    if "chat_template.jinja" in files:  # which transformers.js looks for among the settings
        settings = json.loads(files["tokenizer_config.json"]) | {"chat_template": tokenizer.chat_template}
        files["tokenizer_config.json"] = (json.dumps(settings, indent=2) + "\n").encode()
    _check_size(source, dtype)
    for name, content in files.items():
        write_file(folder / name, content)
    make_folder(folder / "onnx")
    if dtype == "f16":
        source.halved()  # which refuses numbers beyond it
    with waiting("tracing the model"), _quietly():
        _traced(source, dtype).save(str(folder / "onnx" / FILES[dtype]))


def _check_size(source: Source, dtype: Dtype) -> None:
    """Raises PresetError for weights that one file does not hold."""
    count = sum(weight.numel() for weight in source.weights.values())
    size = count * FORMATS[dtype].itemsize
    if size > MAX_BYTES:
        halved = "--dtype f16, or " if dtype == "f32" and size // 2 <= MAX_BYTES else ""
        raise PresetError(
            f"its weights take {shown_bytes(size)}, and a file of ONNX holds {shown_bytes(MAX_BYTES)}; export it "
            f"{halved}--to transformers"
        )


def _traced(source: Source, dtype: Dtype) -> torch.onnx.ONNXProgram:
    """The graph of a model, traced on an example of two rows of four tokens after three."""
    import onnx_ir as ir  # which onnxscript brings

    config, kind = source.config, FORMATS[dtype]
    model = GPT(config).eval()
    model.load_state_dict(source.weights)
    layers = range(config.n_layer)
    keys = torch.zeros(2, config.kv_heads, 3, config.head_width, dtype=kind)
    tokens, positions = torch.zeros(2, 4, dtype=torch.int64), torch.arange(3, 7).expand(2, 4).contiguous()
    batch, sequence, read = (torch.export.Dim(n) for n in ("batch_size", "sequence_length", "past_sequence_length"))
    names = {
        side: [f"{side}.{n}.{part}" for n in layers for part in ("key", "value")]
        for side in ("past_key_values", "present")
    }
    program = torch.onnx.export(
        Graph(model.to(kind)),
        (tokens, torch.ones(2, 7, dtype=torch.int64), positions, [(keys.clone(), keys.clone()) for _ in layers]),
        dynamo=True,
        dynamic_shapes=(
            {0: batch, 1: sequence},
            {0: batch, 1: torch.export.Dim.DYNAMIC},
            {0: batch, 1: sequence},
            [({0: batch, 2: read}, {0: batch, 2: read}) for _ in layers],
        ),
        input_names=["input_ids", "attention_mask", "position_ids", *names["past_key_values"]],
        output_names=["logits", *names["present"]],
        opset_version=OPSET,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    program.model.graph.inputs[1].shape = ir.Shape(["batch_size", "past_sequence_length + sequence_length"])
    return program


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporter says to its own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def usage(source: Source, dtype: Dtype) -> str:
    """How the folder is used."""
    kind = {"f32": "fp32", "f16": "fp16"}[dtype]
    return f"""```js
import {{ pipeline }} from "@huggingface/transformers";

const write = await pipeline("text-generation", "path/to/{source.name}", {{ dtype: "{kind}" }});
console.log((await write("Once upon", {{ max_new_tokens: 50 }}))[0].generated_text);
```"""


FORMAT = Format(
    title="ONNX",
    library="transformers.js",
    dtypes=("f32", "f16"),
    packages=("onnx", "onnxscript"),
    write=write,
    usage=usage,
)
