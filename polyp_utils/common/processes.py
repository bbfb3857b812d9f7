"""Data-parallel training of one run under ``torchrun``; a single process passes straight through.

Each process has a replica of the model, a device (its own GPU, or a share of the host's cores) and
all of the data. It takes its share of the micro-batches of each batch; validation and prediction
are distributed batch by batch. Only the first process (rank 0) prints and touches the run folder,
which therefore need not be shared between hosts.

**Micro-batches.** Batch norm's statistics and the Dice loss are computed per micro-batch, on every
device, and all frames of a batch have equal weight. So N processes compute what one process does
when it accumulates the gradients of the same micro-batches, and a run can be resumed with another
number of processes. SyncBatchNorm and Dice sums over all processes would compute what one process
does *without* micro-batches, but SyncBatchNorm exists only on CUDA: the same settings would then
compute something else on other hardware, with nothing to check it against. For statistics over
more frames, give each process more of them (``batch_size``).
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

_LAST_WORDS = 10.0  # seconds for the first process to report why all stop


def rank() -> int:
    """Rank of this process; the first is 0."""
    return dist.get_rank() if _grouped() else 0


def size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _grouped() else 1


def local_rank() -> int:
    """Rank of this process among those of its host."""
    return int(os.environ["LOCAL_RANK"]) if _grouped() else 0


def _grouped() -> bool:
    """Whether there is a process group, even of a single process."""
    return dist.is_available() and dist.is_initialized()


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the processes if ``torchrun`` started several; only the first prints.

    Each process gets an equal share of its host's cores unless ``OMP_NUM_THREADS`` is set (1 counts
    as unset, because torchrun sets it by default).
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
    dist.destroy_process_group()  # not after an error: it could wait for a process that exited


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS or Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def agreed() -> Iterator[None]:
    """Context of a joint set-up: an error in any process stops all, and the first one raises it.

    On each host the first process runs ahead: it fetches and decodes data that the others reuse.

    Raises:
        ProcessError: in the first process, if another one failed.
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
    """What to raise when every process meets the same error, so that only the first reports it.

    The others wait, because torchrun stops all processes as soon as one exits.
    """
    if rank() == 0:
        return error
    time.sleep(_LAST_WORDS)
    return SystemExit(2)


def gather(value: T) -> list[T]:
    """The values of all processes (picklable, on the CPU), by rank."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def from_first(make: Callable[[], T]) -> T:
    """The result of ``make()``, which is called only in the first process."""
    values = [make() if rank() == 0 else None]
    if size() > 1:
        dist.broadcast_object_list(values)
    return values[0]  # type: ignore[return-value]


def spread(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """``map(function, items)``, the work distributed; every process gets all results, in order.

    It works in rounds, with at most one result per process in memory. All processes must consume
    all results.
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
    """This process's rows of a batch (B,); each process gets the same number of micro-batches.

    If B is not a multiple of ``micro_batches``, the first are one row larger; some may be empty.
    """
    each = micro_batches // size()
    return torch.cat(rows.tensor_split(micro_batches)[rank() * each : (rank() + 1) * each])


def replica(model: nn.Module) -> nn.Module:
    """The model for training: a backward pass averages the gradients over the processes."""
    if not _grouped():
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.6 lacks the new name
        # buffers are merged, not broadcast: see `running_statistics`
        return DistributedDataParallel(model, broadcast_buffers=False)


def accumulating(network: nn.Module) -> contextlib.AbstractContextManager:
    """Context of passes that accumulate gradients locally, to be averaged in a later pass."""
    if isinstance(network, DistributedDataParallel):
        return network.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def running_statistics(model: nn.Module, updates: int) -> Iterator[None]:
    """After the training passes within, batch norm's running statistics equal a single process's.

    An update is r ← (1 − m)·r + m·s, so the ``updates`` of a process compose to r ← k·r + c with
    k = (1 − m)^updates. The maps of the processes are applied by rank. The counter
    ``num_batches_tracked``, which nothing reads, stays local to each process.
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
    """Broadcasts the first process's weights and running statistics to all."""
    if _grouped():
        for tensor in model.state_dict().values():
            dist.broadcast(tensor, 0)
