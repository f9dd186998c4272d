"""Whether a run fits in memory, from its settings alone, before any of it is built.

What is counted is the least that a run needs, so that one which fits is never refused: weights, gradients and moments;
activations of the smallest micro-batch, in the shorter of the number formats; the batch itself.
"""

import torch

from nanogrove.config.preset import Preset
from nanogrove.errors import PresetError
from nanogrove.memory import free_bytes, shown_bytes
from nanogrove.methods import AnyMethod
from nanogrove.model.config import ModelConfig
from nanogrove.model.heads import Heads
from nanogrove.model.size import parameter_count
from nanogrove.train.autotune import activation_bytes
from nanogrove.train.optim.rules import moments_per_weight
from nanogrove.train.parallel.ranks import Ranks

BATCH_BYTES = 29  # of each token of a batch: itself, its target and its position as int64, its weight and its mask


def check_memory(
    preset: Preset, method: AnyMethod, model: ModelConfig, length: int, device: torch.device, ranks: Ranks
) -> None:
    """Raises PresetError where the run needs more memory than is free.

    Args:
        preset: its settings, of which `auto` may be left.
        method: the preset's.
        model: the model, whose vocabulary counts as one token where it is still open.
        length: tokens of a sequence of the data.
        device: computes a step.
        ranks: the processes that train together; what they share counts once for all of them.
    """
    model = model.model_copy(update={"vocab_size": model.vocab_size or 1})
    weights, others = model_bytes(preset, method, model, ranks)
    train = preset.train
    micro = 1 if train.accumulation == "auto" else -(-train.batch_size // (train.accumulation * ranks.world))
    seen = model if model.memory_tokens else model.model_copy(update={"block_size": min(length, model.block_size)})
    activations = activation_bytes(seen, micro) * (method.num_members(preset.method) or 1) // (2 * ranks.world)
    widths = "model.n_embd, model.n_layer, model.n_inner, model.head_size or model.vocab_size"
    parts = {
        f"the models; lower {widths}": weights + others,
        "activations; lower model.block_size, or train.batch_size over train.accumulation": activations,
        "the batch; lower train.batch_size": BATCH_BYTES * train.batch_size * length // ranks.world,
    }
    rooms = {"memory": (sum(parts.values()), free_bytes())}
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        rooms = {"memory": (weights, free_bytes()), f"memory of {device}": (sum(parts.values()), free)}
    for room, (needed, free) in rooms.items():
        if needed > free:
            largest = max(parts, key=parts.__getitem__)
            fewer = ", or train fewer models at once" if method.num_members(preset.method) else ""
            raise PresetError(
                f"this run needs {shown_bytes(needed)} of {room} at least, and {shown_bytes(free)} are free; most of "
                f"it is for {largest}{fewer}"
            )


def model_bytes(preset: Preset, method: AnyMethod, model: ModelConfig, ranks: Ranks) -> tuple[int, int]:
    """Bytes of the weights of all models, and of their gradients and moments."""
    with torch.device("meta"):
        heads = Heads(preset.auxiliary, model).parameter_count()
    one = 4 * (parameter_count(model) + heads)
    members = method.num_members(preset.method) or 1
    copies = method.copies(preset.method) + (members if preset.train.average.enabled else 0)
    each = 0 if preset.train.lora.rank else 1 + moments_per_weight(preset.optimizer.name)
    others = members * each // ranks.world
    return one * (members + copies), one * others
