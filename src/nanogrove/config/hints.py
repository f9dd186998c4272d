"""Which setting was meant: by a key that no preset has, or by an option, as in `--lr 0.1`, that is a setting."""

from collections.abc import Collection
from difflib import get_close_matches

from nanogrove.config.problems import nearest_key
from nanogrove.config.settings import Setting, all_settings
from nanogrove.errors import nearest

# Names of settings in other projects, and in papers.
SYNONYMS = {
    "batch": "train.batch_size",
    "context": "model.block_size",
    "context_length": "model.block_size",
    "data": "data.sources",
    "dataset": "data.sources",
    "ema": "train.average.half_life",
    "eval_every": "evaluate.every",
    "eval_interval": "evaluate.every",
    "file": "data.sources",
    "grad_clip": "train.clip",
    "gradient_accumulation_steps": "train.accumulation",
    "heads": "model.n_head",
    "hidden_size": "model.n_embd",
    "input": "data.sources",
    "iterations": "train.steps",
    "iters": "train.steps",
    "layers": "model.n_layer",
    "learning_rate": "optimizer.lr",
    "max_iters": "train.steps",
    "max_lr": "optimizer.lr",
    "max_steps": "train.steps",
    "model": "model.family",
    "num_epochs": "train.epochs",
    "optim": "optimizer.name",
    "optimizer": "optimizer.name",
    "save_every": "save.every",
    "schedule": "schedule.name",
    "scheduler": "schedule.name",
    "seq_len": "model.block_size",
    "swa": "train.average.tail",
    "vocab": "data.vocab_size",
    "wandb": "track.trackers",
    "warmup_steps": "schedule.warmup",
}


def meant_key(key: str, known: Collection[str]) -> str:
    """`; did you mean …?` for a key that is not among those `known` of a preset, or nothing where none is near.

    A setting of another method or type of data is offered with the override that chooses it.
    """
    owners: dict[str, list[str]] = {}
    for setting in all_settings():
        section = setting.key.partition(".")[0]
        if setting.of is not None and "[]" not in setting.key and setting.key not in known:
            owners.setdefault(setting.key, []).append(f"{'data.type' if section == 'data' else section}={setting.of}")

    def shown(name: str) -> str:
        return f"{name}, with {' or '.join(owners[name])}," if name in owners else name

    if key in owners:
        return f"; it goes with {' or '.join(owners[key])}"
    section, _, last = key.rpartition(".")
    elsewhere = nearest_key(key, (name for name in known if name.rpartition(".")[2] == last))
    if elsewhere:
        return elsewhere
    within = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == section]
    if SYNONYMS.get(last) in known and SYNONYMS[last].startswith(f"{section}."):
        return f"; did you mean {SYNONYMS[last]}?"
    if "." in section and within and not nearest(last, within):
        return f"; {section} has {', '.join(within)}"
    same_name = [name for name in owners if name.rpartition(".")[2] == last]
    near = nearest(key, same_name, cutoff=0, show=shown) or nearest(key, [*known, *owners], cutoff=0.7, show=shown)
    return f"; {near.replace(',?', '?')}" if near else ""


def meant_by_option(option: str) -> list[Setting]:
    """The settings that an option such as `--batch-size` names; the likeliest where it is spelt otherwise."""
    settings = {setting.key: setting for setting in all_settings() if "[]" not in setting.key}
    name = option.lstrip("-").removeprefix("no-").replace("-", "_").casefold()
    same = [key for key in settings if key.rpartition(".")[2] == name]
    trained = [key for key in same if key.startswith(("train.", "optimizer."))]
    if name in SYNONYMS:
        same = [SYNONYMS[name]]
    elif name in settings:
        same = [name]
    elif not same:
        by_name = {key.rpartition(".")[2]: key for key in reversed(settings)} | SYNONYMS
        same = [by_name[near] for near in get_close_matches(name, by_name, 1, 0.7)]
    return [settings[key] for key in trained or same]
