"""Work that is independent, in this process or in several, with results in the order of the work."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

import torch

Work = TypeVar("Work")
Result = TypeVar("Result")


def in_order(function: Callable[[Work], Result], work: Sequence[Work], workers: int) -> Iterator[Result]:
    """Results of the function, one after the other.

    Args:
        function: of a module, so that another process finds it.
        work: its arguments.
        workers: processes of one thread each; with one, or one piece of work, all is done here.
    """
    if workers <= 1 or len(work) < 2:
        yield from map(function, work)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(function, work)
