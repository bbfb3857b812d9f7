"""Several processes, started by ``torchrun``, train one run; with one process nothing here acts.

Each process has a replica of the model, a device (a GPU of its own, or a share of the host's
cores) and all of the data. Of each batch it takes its share of the micro-batches; validation and
prediction are dealt out batch by batch. The first process (rank 0) alone prints and touches the
run folder, which therefore need not be shared between hosts.

**Micro-batches.** Batch norm's statistics and the Dice loss are those of a micro-batch, on every
device, and each frame of a batch counts the same. So N processes give what one process gives that
accumulates the gradients of the same micro-batches, and a run can go on with another number of
processes. SyncBatchNorm and Dice sums over all processes would give what one process gives
*without* micro-batches, but SyncBatchNorm exists on CUDA alone: the same settings would then mean
another arithmetic on other hardware, with nothing to compare it with. Who needs statistics over
more frames gives each process more of them (``batch_size``).
"""

import contextlib
import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from polyp_utils.common.exceptions import ProcessError

T = TypeVar("T")
R = TypeVar("R")

_LAST_WORDS = 10.0  # seconds for the first process to say why all end


def rank() -> int:
    """Number of this process among all; the first is 0."""
    return dist.get_rank() if _grouped() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _grouped() else 1


def local_rank() -> int:
    """Number of this process among those of its host."""
    return int(os.environ["LOCAL_RANK"]) if _grouped() else 0


def _grouped() -> bool:
    """Whether there is a group of processes, be it of one."""
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the processes that ``torchrun`` started, if it did; only the first prints.

    The cores of a host are shared between its processes unless ``OMP_NUM_THREADS`` says otherwise
    (1 says nothing: torchrun sets it where it is not set).
    """
    launched = "TORCHELASTIC_RUN_ID" in os.environ and os.environ["WORLD_SIZE"] != "1"
    if _grouped() or not launched:
        yield
        return
    here, cores = int(os.environ["LOCAL_WORLD_SIZE"]), _cores()
    if os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, cores // here))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    with contextlib.ExitStack() as stack:
        if rank():
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        if here > cores:
            print(
                f"note: {here} processes share the {cores} cores of this host: on the CPU "
                f"--nproc-per-node={cores} is faster"
            )
        yield
    dist.destroy_process_group()  # not after an error: it could wait for a process that has gone


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Setting up, as one: an error of any process ends all, and the first process raises it.

    On each host the first process goes first: it fetches and decodes what the others then find.

    Raises:
        ProcessError: in the first process, if it is another one that failed.
    """
    if size() == 1:
        yield
        return
    error = None
    if local_rank():
        _agree(None)
    try:
        yield
    except Exception as caught:
        error = caught
    if not local_rank():
        _agree(error)
    _agree(error)


def _agree(error: Exception | None) -> None:
    errors = gather(None if error is None else f"{type(error).__name__}: {error}")
    for number, text in enumerate(errors):
        if text is not None:
            raise once(error or ProcessError(f"process {number}: {text}"))


def once(error: Exception) -> BaseException:
    """What to raise where every process meets the same error: it is told by the first alone.

    The others wait, as torchrun ends all processes as soon as one has ended.
    """
    if rank() == 0:
        return error
    time.sleep(_LAST_WORDS)
    return SystemExit(2)


def gather(value: T) -> list[T]:
    """The value (what can be pickled, on the CPU) of each process, in their order."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], T]) -> T:
    """What ``make()`` gives in the first process, where alone it is called."""
    values = [make() if rank() == 0 else None]
    if size() > 1:
        dist.broadcast_object_list(values)
    return values[0]  # type: ignore[return-value]


def spread(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """``map(function, items)`` with the work dealt out; every process gets all results, in order.

    One round after the other: of each process there is never more than one result in memory. All
    processes must take all results.
    """
    for start in range(0, len(items), size()):
        own = items[start : start + size()][rank() :][:1]
        yield from itertools.chain(*gather([function(item) for item in own]))


def total(values: Tensor) -> Tensor:
    """Sum over the processes, in place."""
    if _grouped():
        dist.all_reduce(values)
    return values


def own_share(rows: Tensor, micro_batches: int) -> Tensor:
    """This process's rows of a batch (B,): an equal number of micro-batches for each process.

    If B is no multiple of their number, the first are one row larger; some may be empty.
    """
    each = micro_batches // size()
    return torch.cat(rows.tensor_split(micro_batches)[rank() * each : (rank() + 1) * each])


def replica(model: nn.Module) -> nn.Module:
    """The model for training: gradients of a backward pass become the mean over the processes."""
    if not _grouped():
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the only name that torch 2.6 knows
        # buffers are not the first's: see `running_statistics`
        return DistributedDataParallel(model, broadcast_buffers=False)


def accumulating(network: nn.Module) -> contextlib.AbstractContextManager:
    """Context of passes whose gradients wait for a later one's to be shared."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def running_statistics(model: nn.Module, updates: int) -> Iterator[None]:
    """After the training passes within, batch norm's running statistics are those of one process.

    An update is r ← (1 − m)·r + m·s, so the ``updates`` of a process are together r ← k·r + c with
    k = (1 − m)^updates. The maps of the processes are applied one after the other. The counter
    ``num_batches_tracked``, which nothing reads, stays that of the process.
    """
    if not _grouped():
        yield
        return
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    running = [r for norm in norms for r in (norm.running_mean, norm.running_var) if r is not None]
    result = torch.cat(running)
    yield
    k = (1 - (norms[0].momentum or 0)) ** updates
    own = torch.cat([torch.cat(running) - k * result, result.new_full((1,), k)])
    maps = [torch.empty_like(own) for _ in range(size())]
    dist.all_gather(maps, own)
    for c_and_k in maps:
        result = c_and_k[-1] * result + c_and_k[:-1]
    for r, value in zip(running, result.split([len(r) for r in running]), strict=True):
        r.copy_(value)


def copy_from_first(model: nn.Module) -> None:
    """Gives all processes the weights and statistics of the first."""
    if _grouped():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
