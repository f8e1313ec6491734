"""Runs of the certificate over the processes that there are: started here, or by `torchrun`."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed

from instructgpt.doctor.certificate import Outcome, Setting, certify, keep_out_of_collection

Job = tuple[Setting, int]
_PATIENCE = timedelta(days=1)  # ranks finish at their own pace; `torchrun` ends all when one dies


def ranks() -> tuple[int, int]:
    """(rank, number of processes) that `torchrun` started; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def run_jobs(
    jobs: Sequence[Job], device: torch.device, processes: int, on_outcome: Callable[[Outcome], None]
) -> list[Outcome]:
    """The outcomes in the order of the jobs; which process does which changes none.

    Under `torchrun` the jobs are dealt out to the ranks and every rank gets all outcomes; `on_outcome` is
    called for a rank's own. Otherwise `processes` are started, none for 1.

    Raises:
        CheckError: a self-check of PPO failed in one of them.
    """
    rank, world_size = ranks()
    if world_size > 1:
        return _over_ranks(jobs, device, rank, world_size, on_outcome)
    if processes == 1:
        return [_report(_work(job, device), on_outcome) for job in jobs]
    context = multiprocessing.get_context("spawn")  # a fork would inherit locks of torch's threads
    with ProcessPoolExecutor(min(processes, len(jobs)), context, keep_out_of_collection) as pool:
        futures = {pool.submit(_work, job, device): place for place, job in enumerate(jobs)}
        found: dict[int, Outcome] = {}
        try:
            for future in as_completed(futures):
                found[futures[future]] = _report(future.result(), on_outcome)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [found[place] for place in range(len(jobs))]


def _over_ranks(
    jobs: Sequence[Job],
    device: torch.device,
    rank: int,
    world_size: int,
    on_outcome: Callable[[Outcome], None],
) -> list[Outcome]:
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    own = [_report(_work(job, device), on_outcome) for job in jobs[rank::world_size]]
    everyone = _exchange(own, rank, world_size)
    return [everyone[place % world_size][place // world_size] for place in range(len(jobs))]


def _exchange(own: list[Outcome], rank: int, world_size: int) -> list[list[Outcome]]:
    """Every rank's outcomes, for every rank, through the key-value store `torchrun` keeps.

    No process group: gloo's worker threads can outlive `destroy_process_group` and abort the process as the
    interpreter ends (seen once, after all results were written).
    """
    store, _, _ = next(torch.distributed.rendezvous("env://", timeout=_PATIENCE))
    store.set(f"outcomes/{rank}", pickle.dumps(own))
    everyone = [pickle.loads(store.get(f"outcomes/{other}")) for other in range(world_size)]
    store.set(f"read/{rank}", "")
    if rank == 0:  # the store may live in this process
        store.wait([f"read/{other}" for other in range(world_size)], _PATIENCE)
    return everyone


def _work(job: Job, device: torch.device) -> Outcome:
    with _one_thread():
        return certify(*job, device)


def _report(outcome: Outcome, on_outcome: Callable[[Outcome], None]) -> Outcome:
    on_outcome(outcome)
    return outcome


@contextmanager
def _one_thread() -> Iterator[None]:
    """Tables are too small to share out: more threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
