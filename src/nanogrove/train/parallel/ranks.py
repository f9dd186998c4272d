"""Several processes that train together, as torchrun starts them: one model, or the members of a population.

Ranks together compute what one process computes. Where they train one model, every rank takes its rows of the global
batch, the sums of gradients and losses over all ranks are divided by the number of scored tokens on all ranks, and each
rank then makes the same update. Gradients are summed in flat buckets after the last micro-batch; see
docs/decisions/011-many-devices.md for why no wrapper does it. Where they train a population, each rank trains one or
several members (`train/parallel/members.py`).

There are two channels. Gradients go by NCCL between GPUs and by gloo between CPUs. All else, a few bytes of text,
always goes by gloo, whose timeout allows for a long evaluation on rank 0. Text messages begin with `=`, or with `!`
where a rank has failed, so that an error of one rank ends all of them, whatever message they expected.
"""

import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from nanogrove.errors import NanogroveError, PresetError, RunError
from nanogrove.json_difference import differences, shown
from nanogrove.train.autotune import cores
from nanogrove.train.precision import pick_device

T = TypeVar("T")
START_TIMEOUT = timedelta(minutes=10)  # from the first rank's start to the last one's
CONTROL_TIMEOUT = timedelta(days=1)  # while rank 0 scores, samples or saves; a dead peer shows at once
MAX_ELEMENTS_PER_BUCKET = 1 << 24  # summed at once, unless one tensor has more


class PeerError(RunError):
    """Another rank failed and has reported why, or is gone."""


@dataclass(frozen=True)
class Ranks:
    """This process among `world` that train together; `local` of `local_world` on this machine."""

    rank: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    control_group: Callable[[], dist.ProcessGroup | None] = lambda: None  # the group of text messages, while it lasts

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The rank that torchrun's variables describe, or one process alone. Raises RunError where some are missing."""
        world = environment.get("WORLD_SIZE", "1")
        if world == "1" or "RANK" not in environment:
            return cls()
        try:
            rank, local = int(environment["RANK"]), int(environment["LOCAL_RANK"])
            ranks = cls(rank, int(world), local, int(environment["LOCAL_WORLD_SIZE"]))
            if not (0 <= rank < ranks.world and 0 <= local < ranks.local_world and environment["MASTER_PORT"]):
                raise ValueError("out of range")
        except (KeyError, ValueError) as error:
            raise RunError(
                f"RANK and WORLD_SIZE are set, and the rest of what torchrun sets is not ({error}); start with "
                "`torchrun -m nanogrove train`, or unset them"
            ) from None
        return ranks

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, scores and shows."""
        return self.rank == 0

    @property
    def threads(self) -> int:
        """This rank's share of the machine's cores."""
        return max(cores() // self.local_world, 1)

    def share(self, count: int) -> slice:
        """The slice of `count` members that this rank trains, as evenly as they divide."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def sum(self, tensors: list[Tensor]) -> None:
        """All-reduces each tensor, in place, to its sum over all ranks: equal bit for bit on all of them.

        The order of additions depends only on the sizes and the number of ranks. Raises PeerError.
        """
        if self.world == 1:
            return
        with _contact(self.rank):
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.flatten() for tensor in bucket])
                dist.all_reduce(flat)
                sums = flat.split_with_sizes([tensor.numel() for tensor in bucket])
                for tensor, total in zip(bucket, sums, strict=True):
                    tensor.copy_(total.view_as(tensor))

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Replaces each tensor by that of rank 0. Raises PeerError."""
        if self.world > 1:
            with _contact(self.rank):
                for tensor in tensors:  # NCCL moves nothing that lies on the CPU
                    dist.broadcast(tensor, 0, group=self.control_group() if tensor.device.type == "cpu" else None)

    def all_reduce_max(self, number: int) -> int:
        """The greatest of the numbers of all ranks."""
        return number if self.world == 1 else max(map(int, self.all_gather_text(str(number))))

    def all_gather_text(self, text: str) -> list[str]:
        """The text of every rank, in order of rank. Acts as a barrier. Raises PeerError where a rank has failed."""
        if self.world == 1:
            return [text]
        messages = self._gather("=" + text)
        for rank, message in enumerate(messages):
            if message.startswith("!"):
                raise PeerError(f"rank {rank}: {message[1:]}")
        return [message[1:] for message in messages]

    def barrier(self) -> None:
        """Returns once all ranks have come here. Raises PeerError where one has failed."""
        self.all_gather_text("")

    def broadcast_from_main(self, work: Callable[[], T]) -> T:
        """Returns on every rank what `work`, called on rank 0 alone, returns there: a value of JSON."""
        if self.world == 1:
            return work()
        result: T = json.loads(self.all_gather_text(json.dumps(work()) if self.first else "null")[0])
        return result

    def local_rank0_first(self, work: Callable[[], T]) -> T:
        """Calls `work` on one rank of each machine and then on the others, for which it has prepared files."""
        early = work() if self.local == 0 else None
        self.barrier()
        return work() if early is None else early

    def same_everywhere(self, name: str, value: object) -> None:
        """Raises RunError, on all ranks, where a rank's `value`, which is JSON, is not that of rank 0."""
        texts = self.all_gather_text(json.dumps(value, sort_keys=True))
        for rank, text in enumerate(texts):
            if text != texts[0]:
                key, other, first = next(differences(json.loads(text), json.loads(texts[0]), name))
                raise RunError(
                    f"{key} is {shown(other)} on rank {rank} and {shown(first)} on rank 0; "
                    "start every rank with the same command, on the same data"
                )

    @contextmanager
    def fail_together(self) -> Iterator[None]:
        """A context that all ranks leave together; where one fails in it, all others raise PeerError."""
        try:
            yield
            self.barrier()
        except PeerError:
            raise
        except (NanogroveError, OSError) as error:
            if self.world > 1:
                with suppress(PeerError):
                    self._gather(f"!{error}")
            raise

    def _gather(self, text: str) -> list[str]:
        """The text of each rank, sent as bytes padded to one length."""
        data = text.encode(errors="surrogatepass")  # an error may name a file whose name is not UTF-8
        with _contact(self.rank):
            sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
            dist.all_gather(sizes, torch.tensor([len(data)]), group=self.control_group())
            longest = max(int(size) for size in sizes)
            texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world)]
            padded = torch.tensor(list(data.ljust(longest, b"\0")), dtype=torch.uint8)
            dist.all_gather(texts, padded, group=self.control_group())
        return [
            bytes(t.tolist()[: int(size)]).decode(errors="surrogatepass") for t, size in zip(texts, sizes, strict=True)
        ]


ALONE = Ranks()


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """The ranks that torchrun started, connected until the end of the context. Does nothing for a process alone.

    Raises RunError where they cannot connect, PresetError for a device that not every rank can have.
    """
    ranks = Ranks.from_environment()
    if ranks.world == 1:
        yield ranks
        return
    chosen = pick_device(device)
    if chosen.index is not None:
        raise PresetError(f"train.device={device} names one device for all ranks; use train.device={chosen.type}")
    if chosen.type == "cuda":
        if ranks.local_world > torch.cuda.device_count():
            raise RunError(
                f"{ranks.local_world} ranks and {torch.cuda.device_count()} GPUs here; set --nproc_per_node to that"
            )
        torch.cuda.set_device(ranks.local)
    if ranks.local_world == ranks.world:  # all on this machine, whose own name need not lead anywhere
        os.environ["MASTER_ADDR"] = "127.0.0.1"
        if "lo" in [name for _, name in socket.if_nameindex()]:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=_rendezvous(ranks), rank=ranks.rank, world_size=ranks.world)
        control: dist.ProcessGroup | None = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise RunError(f"rank {ranks.rank}: the {ranks.world} ranks cannot meet ({reason})") from None
    try:
        yield Ranks(ranks.rank, ranks.world, ranks.local, ranks.local_world, lambda: control)
    finally:
        dist.destroy_process_group()
        # The threads of the control group end once nothing refers to it. One may still hold the last message, which it
        # can release only while Python runs; at Python's end that would abort the process.
        control = None


def _rendezvous(ranks: Ranks) -> Store:
    """A store for the ranks that run now, within the store that torchrun keeps over restarts.

    Entries of a dead rank would lead the others to its closed port. So rank 0 draws a new name and answers each rank
    that asks for it; a rank that confirms the name is alive. Raises RuntimeError where not all of them come in time.
    """
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, ranks.world, hosted and ranks.first, timeout=START_TIMEOUT)
    name = uuid.uuid4().hex
    if ranks.rank:
        store.set(f"nanogrove/asks/{ranks.rank}", name)
        store.wait([f"nanogrove/answer/{name}"])
        name = store.get(f"nanogrove/answer/{name}").decode()
        store.set(f"nanogrove/{name}/{ranks.rank}", "here")
        return PrefixStore(name, store)
    missing, until = set(range(1, ranks.world)), time.monotonic() + START_TIMEOUT.total_seconds()
    while missing:
        for rank in sorted(missing):
            if store.check([f"nanogrove/{name}/{rank}"]):
                missing.remove(rank)
            elif store.check([f"nanogrove/asks/{rank}"]):
                store.set(f"nanogrove/answer/{store.get(f'nanogrove/asks/{rank}').decode()}", name)
        if time.monotonic() > until:
            raise RuntimeError(f"ranks {', '.join(map(str, sorted(missing)))} did not come")
        time.sleep(0.01)
    return PrefixStore(name, store)


def restarted() -> bool:
    """Whether torchrun has started this process again, because a rank had died."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")


@contextmanager
def _contact(rank: int) -> Iterator[None]:
    """Turns the error that torch raises when a peer is gone into a PeerError of one line."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).split("\n")[0]
        raise PeerError(f"rank {rank}: another rank is gone ({reason}); what it said, or torchrun, tells why") from None


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, as lists of one dtype and at most `MAX_ELEMENTS_PER_BUCKET` elements."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.numel() for t in bucket) + tensor.numel() > MAX_ELEMENTS_PER_BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
