"""llama.cpp as a peer: a `GPT` exported as a GGUF file, and a process that generates from it.

Needs `pip install 'nanogrove[bench]'`: the `gguf` package of llama.cpp and `xllamacpp`, a wheel of llama.cpp itself.
"""

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from nanogrove.data.tokenizer import character_tokenizer
from nanogrove.exports import gguf
from nanogrove.exports.contract import Dtype
from nanogrove.exports.source import Source
from nanogrove.model.gpt import GPT

DTYPES: tuple[Dtype, ...] = ("f32", "q8_0")


def require() -> None:
    """Ends the program in one line where llama.cpp is not installed."""
    missing = [name for name in ("xllamacpp", "gguf") if find_spec(name) is None]
    if missing:
        print(
            f"error: no {' and '.join(missing)} here; pip install 'nanogrove[bench]', or leave out --llama-cpp",
            file=sys.stderr,
        )
        sys.exit(2)


def write_gguf(model: GPT, folder: Path, weights: Dtype) -> Path:
    """Exports a model, whose tokens are characters that do not matter, since prompts are numbers; returns the file."""
    characters = map(chr, range(0x4E00, 0x4E00 + (model.config.vocab_size or 0) - 1))  # and the end of a text
    source = Source("model", model.config, model.state_dict(), character_tokenizer(characters), None, None, {})
    gguf.write(source, weights, folder)
    return folder / gguf.file_name(source, weights)


class LlamaCpp:
    """llama.cpp with a GGUF file, in a process of its own while the `with` block lasts.

    It generates with as many threads as torch has, without flash attention, with keys and values in float32. A process
    of its own since in one with torch both share a pool of more threads than there are cores, which then sleep where
    they would spin, and ours take 1.8 times as long. Between its turns the process waits and takes no CPU time.
    In its turn threads spin while they wait for each other: where another program takes a core, it becomes many times
    slower.
    """

    def __init__(self, path: Path, rows: int, context: int) -> None:
        self._settings = {"path": str(path), "rows": rows, "context": context, "threads": torch.get_num_threads()}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(self._settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def log_probs(self, prompt: Tensor) -> Tensor:
        """Log-probabilities `[V]` of the token that follows a prompt `[T]`."""
        choice = self._complete(prompt[None], 1, logprobs=1 << 20)["choices"][0]  # it gives as many as there are
        top = choice["logprobs"]["content"][0]["top_logprobs"]
        return torch.tensor([entry["logprob"] for entry in sorted(top, key=lambda entry: entry["id"])])

    def generate(self, prompts: Tensor, new_tokens: int) -> float:
        """Samples `new_tokens` tokens after each prompt `[B, T]`; seconds, the lesser of wall time and its own clock.

        Its own clock begins when a row's prompt has been read, so it leaves out a little that the others count.
        """
        answer = self._complete(prompts, new_tokens, ignore_eos=True)
        assert answer["usage"]["completion_tokens"] == new_tokens, "a row stopped early"
        return min(answer["wall"], answer["timings"]["predicted_ms"] / 1000)

    def _complete(self, prompts: Tensor, new_tokens: int, **options: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        rows = prompts.tolist()
        sampling = {"temperature": 1.0, "samplers": ["temperature"], "cache_prompt": False}
        request = {"prompt": rows if len(rows) > 1 else rows[0], "max_tokens": new_tokens, **sampling, **options}
        print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"llama.cpp ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "choices" not in answer:
            raise RuntimeError(f"llama.cpp answers {answer}")
        return answer


def parameters(path: str, rows: int, context: int, threads: int) -> Any:
    """What llama.cpp is to do with a GGUF file: `rows` of `context` tokens, without flash attention, in float32."""
    import xllamacpp

    chosen = xllamacpp.CommonParams()
    chosen.model.path = path
    chosen.n_ctx, chosen.n_parallel = rows * context, rows
    chosen.n_gpu_layers = 0
    chosen.fit_params = False  # it would choose other sizes
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = threads
    chosen.cache_type_k = chosen.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    chosen.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    chosen.warmup = True
    chosen.verbosity = -1  # standard output is for answers
    return chosen


def serve(path: str, rows: int, context: int, threads: int) -> None:
    """Answers requests, one a line of standard input as JSON, until the input ends."""
    import xllamacpp

    server = xllamacpp.Server(parameters(path, rows, context, threads))
    for line in sys.stdin:
        began = time.perf_counter()
        answer = server.handle_completions(json.loads(line))
        print(json.dumps({**answer, "wall": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        serve(**json.loads(sys.argv[1]))
    else:
        print(f"{__doc__}\nusage: none by hand; generation.py --llama-cpp starts it with settings as JSON")
