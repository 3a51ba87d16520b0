"""One training in several processes, as `torchrun` or `accelerate launch` start them.

Every process holds the whole model and sees its share of each step's rows; gradients are added up,
so that a step is the step of one process. Only the first process writes.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that train together, seen from one of them."""

    rank: int = 0
    """Number of this process, from 0."""
    size: int = 1
    """How many there are; with 1 nothing is ever sent."""

    @property
    def is_first(self) -> bool:
        """Whether this process writes, registers and speaks."""
        return self.rank == 0

    def share_of(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's part of rows that all know; they may be fewer than the processes."""
        return rows[self.rank :: self.size]

    def tell_all(self, value: T) -> T:
        """The first process's value, in every process."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        told: T = box[0]
        return told

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """The values of all processes in one row; their numbers may differ."""
        if self.size == 1:
            return values
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, values.cpu())
        return torch.cat(parts)

    def add_up(self, tensors: Sequence[torch.Tensor]) -> None:
        """Put the sum over all processes into these tensors."""
        if self.size == 1:
            return
        # One message for all: hundreds of small ones would each wait for the slowest process.
        together = torch.cat([tensor.reshape(-1) for tensor in tensors])
        dist.all_reduce(together)
        parts = together.split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Go on when all have come this far."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def join_processes() -> Iterator[Processes]:
    """The processes that were started together; this one alone without a launcher.

    Launchers say who is who by the environment variables RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
    and MASTER_PORT. GPUs talk by NCCL, CPUs by Gloo.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or dist.is_initialized():
        yield Processes() if size == 1 else Processes(dist.get_rank(), dist.get_world_size())
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield Processes(dist.get_rank(), size)
    finally:
        dist.destroy_process_group()
