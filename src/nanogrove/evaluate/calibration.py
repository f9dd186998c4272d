"""Calibration: one temperature T, so that of predictions made with a confidence of 70 % seven in ten are right.

Temperature scaling of Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599: logits z become
z / T, which leaves every argmax as it is. T minimises the mean NLL of one split, which is convex in b = 1/T, with slope
E[z] − z_y and curvature Var[z] under softmax(b·z); its root is found by Newton's method inside a bracket that closes,
in float64. What it brings is measured on another split, with the expected calibration error (ECE) over 15 bins. The
split it is fitted on is validation, by which the checkpoint was chosen too: of many checkpoints the one with the least
loss there is a little too good there, and so T may be a little too near 1. The measured split, test, chose nothing.

Beyond the paper: bins of equal mass stand beside those of equal width, which on text leave most of their tokens in few
bins; since chance raises both errors, one without that bias and with an interval stands beside them
(`calibration_error.py`); and confidence is also measured for whole sequences. For a task the event is that the
model's own greedy answer is the true one, and its confidence the product of that answer's token probabilities. The
greedy continuation of a text is never the text, so there a sequence's mean token confidence stands against the share of
its tokens that are predicted right: that is a summary and not a probability of one event.

The transformer runs over the fitted split once. Its last states of scored tokens are kept, n_embd floats per token, of
at most 2·MAX_TOKENS tokens: 307 MB where n_embd is 384, and twice that while they are joined. Logits are computed again
in each pass of the search, LOGITS_PER_CHUNK numbers at once. The measured split streams.

`calibration.json` lies in the folder of the checkpoint it belongs to, holds the checksum of those weights, and goes
with the folder when a better model takes its place.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogrove.atomic import refusal, write_file
from nanogrove.data.batch import Batch
from nanogrove.data.corpus import Corpus
from nanogrove.decoding.plain import generate
from nanogrove.errors import CheckpointError, PresetError
from nanogrove.evaluate.calibration_error import blocks, debiased_error
from nanogrove.model.gpt import GPT
from nanogrove.model.mode import evaluating
from nanogrove.record.events import Values
from nanogrove.train.checkpoint import Checkpoint, checksum_of, read_plain
from nanogrove.waits import waiting

BINS = 15
MAX_TOKENS = 100_000  # of each split, evenly spread; `eval_batches` may yield up to twice as many
LOGITS_PER_CHUNK = 1 << 22  # 32 MB in float64, and a few times that while they are worked on
TEMPERATURE_RANGE = (0.05, 20.0)
MAX_SEARCH_STEPS = 60
USUAL_PASSES = 8  # of the search over the logits, both ends included; for the time left
FILE_NAME = "calibration.json"
REMEDY = "run `nanogrove evaluate RUN --calibrate` again, or delete it"

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]  # the same (logits [N, V], targets [N]) whenever called


class Reliability(TypedDict):
    """A reliability table: figures of each bin, None for the means of an empty one."""

    count: list[int]
    confidence: list[float | None]
    accuracy: list[float | None]


def fit_temperature(chunks: Chunks) -> float:
    """The temperature in TEMPERATURE_RANGE of the least mean NLL of `targets`; its end where the NLL falls up to there.

    Each pass of the search calls `chunks` once. Raises CheckpointError for logits that are not finite.
    """
    low, high = 1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]
    if _derivatives(chunks, low)[0] >= 0:  # worse than a uniform guess at any temperature
        return TEMPERATURE_RANGE[1]
    if _derivatives(chunks, high)[0] <= 0:  # nearly all is predicted right, and ever more confidence pays
        return TEMPERATURE_RANGE[0]
    b, before = 1.0, math.inf
    for _ in range(MAX_SEARCH_STEPS):
        slope, curvature = _derivatives(chunks, b)
        low, high = (b, high) if slope < 0 else (low, b)
        step = slope / max(curvature, 1e-300)
        if abs(step) <= 1e-9 * b:
            break
        slow = abs(slope) > before / 2
        b, before = b - step, abs(slope)
        if slow or not low < b < high:
            b = math.sqrt(low * high)
    return 1 / b


def _derivatives(chunks: Chunks, b: float) -> tuple[float, float]:
    """Slope and curvature in b of the mean NLL of logits times b."""
    sums, count = torch.zeros(2, dtype=torch.float64), 0
    for logits, targets in chunks():
        z = logits.double()
        p = (b * z).softmax(-1)
        mean = (p * z).sum(-1, keepdim=True)
        slope = mean - z.gather(-1, targets[:, None])
        sums += torch.stack([slope.sum(), (p * (z - mean).square()).sum()]).cpu()
        count += len(targets)
    slope_sum, curvature_sum = sums.tolist()
    if not math.isfinite(slope_sum):
        raise CheckpointError("the model gives logits that are not finite, so no temperature fits; train it anew")
    return slope_sum / max(count, 1), curvature_sum / max(count, 1)


def outcomes(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The outcomes of N predictions, `[N, 4]` in float64, from `logits [N, V]` and `targets [N]`.

    NLL in nats; the likeliest token's probability; 1 where it is the target, else 0; the Brier score over all V tokens,
    Σ (p − 1[target])², from 0 to 2.
    """
    scores = F.log_softmax(logits.double() / temperature, -1)
    target_scores = scores.gather(-1, targets[:, None])[:, 0]
    best = scores.max(-1)
    brier = scores.exp().square().sum(-1) - 2 * target_scores.exp() + 1
    return torch.stack([-target_scores, best.values.exp(), (best.indices == targets).double(), brier], -1)


def equal_width(confidence: Tensor) -> Tensor:
    """Which of BINS bins, `(k/15, (k+1)/15]`, each of `confidence [N]` falls in: `[N]` int64."""
    inner = torch.arange(1, BINS, dtype=torch.float64) / BINS
    return torch.bucketize(confidence, inner)


def equal_mass(confidence: Tensor) -> Tensor:
    """Bins whose counts differ by one at most, by rank of `confidence [N]`; ties in the order given: `[N]` int64."""
    bins = torch.empty(len(confidence), dtype=torch.int64)
    bins[confidence.argsort(stable=True)] = torch.arange(len(confidence)) * BINS // max(len(confidence), 1)
    return bins


def reliability(confidence: Tensor, correct: Tensor, bins: Tensor) -> Reliability:
    """Count, mean confidence and accuracy of each bin; None in an empty one. All are `[N]`; `correct` from 0 to 1."""
    count = torch.bincount(bins, minlength=BINS)
    means = [(torch.bincount(bins, values, minlength=BINS) / count).tolist() for values in (confidence, correct)]
    filled = [[mean if n else None for mean, n in zip(column, count.tolist(), strict=True)] for column in means]
    return {"count": count.tolist(), "confidence": filled[0], "accuracy": filled[1]}


def calibration_error(table: Reliability) -> float:
    """The ECE of a reliability table: |accuracy − confidence| of its bins, weighted by their counts (Guo, eq. 3)."""
    rows = zip(table["count"], table["confidence"], table["accuracy"], strict=True)
    gaps = [n * abs(accuracy - sure) for n, sure, accuracy in rows if sure is not None and accuracy is not None]
    return float(sum(gaps) / max(sum(table["count"]), 1))


def summary(outcome: Tensor, unit: Tensor) -> Values:
    """The figures of `outcomes`, `[N, 4]`: means, the ECEs, the debiased one with its interval, and reliability tables.

    `unit [N]` is the block that each belongs to.
    """
    nll, confidence, accuracy, brier = outcome.mean(0).tolist()
    sure, right = outcome[:, 1].contiguous(), outcome[:, 2].contiguous()
    tables = {
        name: reliability(sure, right, bins(sure)) for name, bins in (("width", equal_width), ("mass", equal_mass))
    }
    errors: dict[str, float | None] = {f"ece_{name}": calibration_error(table) for name, table in tables.items()}
    debiased = debiased_error(right - sure, equal_mass(sure), unit) or (None, None, None)
    errors |= dict(zip(("ece_debiased", "ece_debiased_low", "ece_debiased_high"), debiased, strict=True))
    return {"nll": nll, **errors, "brier": brier, "confidence": confidence, "accuracy": accuracy, "bins": tables}


def calibrate(model: GPT, corpus: Corpus, limit: int = MAX_TOKENS) -> Values:
    """A temperature fitted on about `limit` validation tokens, and what it brings on as many of the test split.

    Raises PresetError where one of the two has no token that is scored, CheckpointError for logits that are not finite.
    """
    temperature, tokens = fit_split(model, corpus, "validation", limit)
    return {
        "temperature": temperature,
        "bounded": temperature in TEMPERATURE_RANGE,
        "fitted": {"split": "validation", "tokens": tokens, "chose_checkpoint": True},
        "measured": measure(model, corpus, "test", temperature, limit),
    }


@torch.inference_mode()
def fit_split(model: GPT, corpus: Corpus, split: str, limit: int = MAX_TOKENS) -> tuple[float, int]:
    """The temperature of a split, of a single model, and the number of scored tokens it was fitted on."""
    with evaluating(model):
        parts = [(states, targets) for _, states, targets in _scored(model, corpus.eval_batches(split, limit))]
    states, targets = (torch.cat(column) for column in zip(*parts, strict=True)) if parts else (torch.empty(0),) * 2
    if not len(targets):
        raise PresetError(f"the {split} split has no token that is scored, so nothing can be calibrated on it")
    with waiting("fitting a temperature", USUAL_PASSES * len(targets)) as wait:

        def chunks() -> Iterator[tuple[Tensor, Tensor]]:
            wait.total = max(USUAL_PASSES * len(targets), wait.done + len(targets))
            for logits, chunk in _logits(model, states, targets):
                yield logits, chunk
                wait.done += len(chunk)

        return fit_temperature(chunks), len(targets)


@torch.inference_mode()
def measure(model: GPT, corpus: Corpus, split: str, temperature: float, limit: int = MAX_TOKENS) -> Values:
    """The figures of `summary` on a split before (T = 1) and after, of its tokens and of its sequences.

    `event` says what makes a sequence right: `answer` or `share`, see above. Its NLL is that of all its true tokens,
    its Brier score (confidence − correct)². `blocks` is how many the intervals resample. Raises PresetError where no
    token is scored.
    """
    has_answers = corpus.has_answers and corpus.answers_end_rows
    temperatures = (1.0, temperature)
    tokens: list[list[Tensor]] = [[], []]
    sequences: list[list[Tensor]] = [[], []]
    lengths: list[Tensor] = []
    with evaluating(model):
        for batch, states, targets in _scored(model, corpus.eval_batches(split, limit)):
            length = batch.mask.sum(-1)
            row = torch.arange(len(length)).repeat_interleave(length)
            token_outcomes = _outcomes(model, states, targets, temperatures)
            answers_right = _answers(model, batch, corpus.tokenizer.end, temperatures) if has_answers else None
            for n in range(2):
                tokens[n].append(token_outcomes[n])
                sums = torch.zeros(len(length), 4, dtype=torch.float64).index_add(0, row, token_outcomes[n])
                confidence, right = (
                    sums[:, 1:3] / length[:, None] if answers_right is None else answers_right[n]
                ).unbind(-1)
                whole = torch.stack([sums[:, 0], confidence, right, (confidence - right).square()], -1)
                sequences[n].append(whole[length > 0])
            lengths.append(length[length > 0])
    if not tokens[0]:
        raise PresetError(f"the {split} split has no token that is scored, so nothing can be measured on it")
    length = torch.cat(lengths)
    block = blocks(len(length))
    figures = {
        name: {when: summary(torch.cat(parts), unit) for when, parts in zip(("before", "after"), rows, strict=True)}
        for name, rows, unit in (("tokens", tokens, block.repeat_interleave(length)), ("sequences", sequences, block))
    }
    return {
        "split": split,
        "tokens": sum(map(len, tokens[0])),
        "sequences": sum(map(len, sequences[0])),
        "blocks": int(block.max()) + 1,
        "event": "answer" if has_answers else "share",
        "figures": figures,
    }


def _scored(model: GPT, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    """Each batch with the last states `[N, C]` and the targets `[N]` of its scored tokens, where it has any."""
    for batch in batches:
        shown = batch.to(model.embed.weight.device)
        scored = shown.mask
        if scored.any():
            yield batch, model.hidden(shown.tokens)[scored], shown.targets[scored]


def _logits(model: GPT, states: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits of states, and their targets, a chunk at a time."""
    rows = max(LOGITS_PER_CHUNK // (model.config.vocab_size or 1), 1)
    for chunk, chunk_targets in zip(torch.split(states, rows), torch.split(targets, rows), strict=True):
        yield model.logits(chunk), chunk_targets


def _outcomes(model: GPT, states: Tensor, targets: Tensor, temperatures: tuple[float, ...]) -> list[Tensor]:
    """`outcomes` `[N, 4]` at each temperature."""
    chunks = [[outcomes(*chunk, t).cpu() for t in temperatures] for chunk in _logits(model, states, targets)]
    return [torch.cat(column) for column in zip(*chunks, strict=True)]


def _answers(model: GPT, batch: Batch, end: int, temperatures: tuple[float, ...]) -> list[Tensor]:
    """The probability of the greedy answer to each prompt of `batch`, and whether it is true, at each temperature.

    These are `[B, 2]` each. An answer ends after the mark `end`, or where the row does.
    """
    device = model.embed.weight.device
    whole = torch.cat([batch.tokens[:, :1], batch.targets], -1).to(device)
    scored = batch.mask.to(device)
    start = scored.int().argmax(-1) + 1  # tokens of the prompt
    new = whole.shape[-1] - int(start.min())
    written = generate(model, whole[:, : int(start.max())], start, new_tokens=new, greedy=True, stop=[end])
    position = torch.arange(whole.shape[-1] + new, device=device)
    answer = F.pad(whole, (0, new), value=-1).masked_fill(position >= start[:, None], -1)
    answer = answer.scatter(-1, start[:, None] + position[:new], written)[:, : whole.shape[-1]]
    right = ((answer[:, 1:] == whole[:, 1:]) | ~scored).all(-1).cpu()
    answered = (answer[:, 1:] >= 0) & (position[1 : whole.shape[-1]] >= start[:, None])
    states = model.hidden(answer[:, :-1].clamp(min=0))[answered]
    row = answered.nonzero()[:, 0].cpu()
    per_token = _outcomes(model, states, answer[:, 1:][answered], temperatures)
    totals = [torch.zeros(len(right), dtype=torch.float64).index_add(0, row, each[:, 0]) for each in per_token]
    return [torch.stack([(-total).exp(), right.double()], -1) for total in totals]


def save_calibration(checkpoint: Checkpoint, calibration: Values) -> Path:
    """Writes the result of `calibrate` beside the weights that it belongs to, whole or not at all; returns the path.

    Raises CheckpointError when other weights have taken their place meanwhile, or the disk refuses.
    """
    folder = checkpoint.folder
    record = {**calibration, "model": checkpoint.state["files"]["model.safetensors"], "step": checkpoint.state["step"]}
    record["checksum"] = checksum_of(record)
    if hashlib.sha256(read_plain(folder / "model.safetensors")).hexdigest() != record["model"]:
        raise CheckpointError(f"{folder}: holds another model than a moment ago; calibrate once the run has ended")
    try:
        write_file(folder / FILE_NAME, (json.dumps(record, indent=1) + "\n").encode())
    except OSError as error:
        raise CheckpointError(f"{folder / FILE_NAME}: cannot be written {refusal(error)}") from None
    return folder / FILE_NAME


def load_calibration(checkpoint: Checkpoint) -> Values | None:
    """What `save_calibration` wrote beside a checkpoint's weights, None where nothing did.

    Raises CheckpointError, in one line, for a link, a damaged file, and one that belongs to other weights.
    """
    path = checkpoint.folder / FILE_NAME
    if not path.exists() and not path.is_symlink():
        return None
    data = read_plain(path)
    try:
        record = dict(json.loads(data))
        temperature = record["temperature"]
        if record["checksum"] != checksum_of(record) or not TEMPERATURE_RANGE[0] <= temperature <= TEMPERATURE_RANGE[1]:
            raise ValueError
        owner = record["model"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: damaged, not a calibration; {REMEDY}") from None
    if owner != checkpoint.state["files"]["model.safetensors"]:
        raise CheckpointError(f"{path}: belongs to other weights than those beside it; {REMEDY}")
    return record
