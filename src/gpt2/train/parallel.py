"""Several processes as one trainer: their ranks, their shares of a batch, and the reduction of their gradients.

`torchrun` (or Slurm, Ray, ...) starts the same command in every process and identifies each by RANK, WORLD_SIZE and
LOCAL_RANK. A batch is split between them by sequences. Losses and gradients are sums over the whole batch divided by
its tokens, so the number of processes changes only the order of sums.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from gpt2 import machine
from gpt2.errors import ConfigError, TrainingError
from gpt2.train.config import TrainConfig
from gpt2.train.precision import take_gpu

T = TypeVar("T")
_BYTES_PER_PARAMETER = 16  # weight, gradient and AdamW's two moments, in float32
_SHARE_OF_MEMORY = 0.5  # for these; the rest is for activations
_PATIENCE = timedelta(minutes=30)  # how long processes wait for each other, at the start and later


@dataclass(frozen=True, kw_only=True, slots=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: its number, from 0; process 0 writes files and reports.
        world: how many there are.
        local_rank: its number on its machine, and of its GPU.
        local_world: how many there are on its machine.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def rows(self, n_rows: int) -> slice:
        """This process's part of the sequences of a batch.

        Raises:
            ConfigError: there are fewer sequences than processes.
        """
        if n_rows < self.world:
            raise ConfigError(
                f"A batch of {n_rows} sequences cannot be shared by {self.world} processes. Raise "
                f"schedule.batch_tokens, shorten the sequences, or start fewer processes."
            )
        return slice(self.rank * n_rows // self.world, (self.rank + 1) * n_rows // self.world)

    def most_rows(self, n_rows: int) -> int:
        """The largest number of sequences that any process has of a batch."""
        return -(-n_rows // self.world)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in place. All must call it."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in any process. All must call it."""
        return bool(self.sum(torch.tensor(float(flag), device=device))) if self.world > 1 else flag

    def first_does(self, what: str, do: Callable[[], T]) -> T | None:
        """Run something in the first process only; the others wait for it and get None. All must call it.

        Args:
            what: a verb for the others' error, such as "begin".
            do: what to run; its exceptions are raised in the first process.

        Raises:
            TrainingError: in the others, if the first process failed.
        """
        if self.world == 1:
            return do()
        done: T | None = None
        failure: BaseException | None = None
        if self.is_first:
            try:
                done = do()
            except BaseException as error:  # Ctrl-C too: the others must not wait in vain
                failure = error
        nccl = "nccl" in str(dist.get_backend())
        if self.any(failure is not None, torch.device("cuda" if nccl else "cpu")):
            raise failure or TrainingError(f"The first process could not {what}, and says why; this one ends with it.")
        return done


@contextlib.contextmanager
def joined(device: str) -> Generator[Processes]:
    """Join the processes that this one was started with; they can communicate inside the block.

    Args:
        device: as the run asks for it; GPUs communicate by NCCL, CPUs by gloo.

    Raises:
        ConfigError: the launcher's environment variables are missing or invalid.
        BackendError: the device is not here, or there are fewer GPUs than processes.
        TrainingError: another process does not come, is gone, or cannot be reached.
    """
    if "WORLD_SIZE" not in os.environ and not dist.is_initialized():
        take_gpu(device)
        yield Processes()
        return
    try:
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else _from_launcher()
        processes = Processes(
            rank=rank,
            world=world,
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
            local_world=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        )
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"This process cannot join others: RANK and WORLD_SIZE must both be set to numbers, the first from 0 to "
            f"below the second ({error}). Start it with torchrun, or unset WORLD_SIZE to train alone."
        ) from error
    on_gpu = take_gpu(device, processes.local_rank)
    ours = processes.world > 1 and not dist.is_initialized()
    if ours:
        with _of_others(
            processes,
            f"cannot begin: it has not met the others, for whom it waits {_PATIENCE.seconds} seconds at most",
            "What they, or their launcher, said last is the cause; else see that MASTER_ADDR and MASTER_PORT can be "
            "reached from every machine.",
        ):
            try:
                _meet("nccl" if on_gpu else "gloo", processes)
            except ValueError as error:
                raise ConfigError(
                    f"This process cannot look for the others: MASTER_ADDR and MASTER_PORT must name their place "
                    f"({error}). Start it with torchrun."
                ) from error
    try:
        with _of_others(
            processes,
            "cannot go on: it has lost another, which was killed or ended, or the network between them",
            "What the other said last is the cause; the same command goes on from the last checkpoint.",
        ):
            yield processes
    finally:
        if ours:
            dist.destroy_process_group()


@contextlib.contextmanager
def _of_others(processes: Processes, what: str, advice: str) -> Generator[None]:
    """Turn communication errors inside the block into a TrainingError. gloo's have no class of their own."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        cause, *_ = (str(error) or type(error).__name__).splitlines()
        raise TrainingError(f"Process {processes.rank} of {processes.world} {what} ({cause}). {advice}") from error


def _meet(backend: str, processes: Processes) -> None:
    """Find the other processes at the address that the launcher named.

    torchrun keeps one store over all restarts, with the addresses of dead processes under the same keys; a process that
    reads those waits for the dead. So every start has a key prefix of its own. Each machine's torchrun counts its own
    restarts, so on several machines this cannot work: TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 gives every start a new
    store instead.
    """
    restarts = os.environ.get("TORCHELASTIC_RESTART_COUNT")
    if restarts is None or processes.local_world < processes.world:
        dist.init_process_group(backend, timeout=_PATIENCE)
        return
    store, rank, world = next(rendezvous("env://", timeout=_PATIENCE))
    store = PrefixStore(f"start {restarts}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_PATIENCE)


def _from_launcher() -> tuple[int, int]:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if not 0 <= rank < world:
        raise ValueError(f"they are {rank} and {world}")
    return rank, world


def choose(config: TrainConfig, processes: Processes, device: torch.device) -> str:
    """Whether each process holds the whole model ("ddp") or a part of each array ("fsdp"); "none" for one process."""
    if processes.world == 1:
        return "none"
    if config.run.parallel != "auto":
        return config.run.parallel
    if device.type == "cuda":
        memory_bytes = torch.cuda.get_device_properties(device).total_memory
    else:
        memory_bytes = machine.memory_bytes() // processes.local_world
    needed_bytes = _BYTES_PER_PARAMETER * config.model.parameters
    return "ddp" if not memory_bytes or needed_bytes <= _SHARE_OF_MEMORY * memory_bytes else "fsdp"


def share(objective: nn.Module, blocks: Sequence[nn.Module], how: str, device: torch.device) -> nn.Module:
    """Wrap the objective for data-parallel training.

    Args:
        objective: the whole forward pass with the loss, so that hooks see every use of a parameter.
        blocks: parts of it that are gathered one at a time ("fsdp").
        how: the result of `choose`.
        device: of the parameters.
    """
    if how == "ddp":
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(objective, device_ids=[device.index or 0] if device.type == "cuda" else None)
    if how == "fsdp":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(objective, mesh=mesh)
    return objective


def accumulating(shared: nn.Module, how: str, *, last: bool) -> AbstractContextManager[Any]:
    """A context for one micro-batch: processes exchange gradients only in the last one of a step."""
    if how == "ddp" and not last:
        return cast("Any", shared).no_sync()
    if how == "fsdp":
        cast("Any", shared).set_requires_gradient_sync(last)
    return nullcontext()


def let_go(shared: nn.Module, how: str) -> None:
    """Free the parameters gathered by a forward pass without a backward pass, so that they are sharded again."""
    if how == "fsdp":
        cast("Any", shared).reshard()


def put(parameter: Tensor, value: Tensor) -> None:
    """Copy a whole array into a parameter, or this process's part of it into its shard."""
    parameter.copy_(like(parameter, value))


def like(parameter: Tensor, value: Tensor) -> Tensor:
    """A whole array on the parameter's device, sharded like the parameter."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return value.to(parameter.device, copy=True)
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
