"""Folders for `transformers`, which nanogrove reads back exactly."""

from pathlib import Path

from nanogrove.exports.contract import Dtype, Format
from nanogrove.exports.source import Source
from nanogrove.model.huggingface import export_model


def write(source: Source, dtype: Dtype, folder: Path) -> None:
    """Writes weights, settings, vocabulary and chat template. Raises PresetError for a shape that no family has."""
    tokenizer, end = source.tokenizer, source.answer_end
    export_model(
        dict(source.weights) if dtype == "f32" else source.halved(),
        source.config,
        folder,
        tokenizer.to_json(),
        end_of_text=(tokenizer.end_token, tokenizer.end),
        chat=None if end is None or tokenizer.chat_template is None else (tokenizer.chat_template, end),
    )


def usage(source: Source, dtype: Dtype) -> str:
    """How the folder is used."""
    return f"""```python
from transformers import pipeline

write = pipeline("text-generation", "path/to/{source.name}")
print(write("Once upon", max_new_tokens=50)[0]["generated_text"])
```

nanogrove reads it back: `nanogrove.from_transformers("path/to/{source.name}")`."""


FORMAT = Format(title="transformers", library="transformers", dtypes=("f32", "f16"), write=write, usage=usage)
