"""Sampling on several processes, with the result of one.

An execution depends on its number only. So processes are given batches of numbers, and what comes
of them is counted in the order of the numbers; what was run beyond the end is thrown away.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import count
from multiprocessing import get_context

from vmm.search.sampling import Execution, Sampler

BATCH = 32
"""Executions that a process is told of at once: few, because the last ones may be for nothing."""

AHEAD = 3
"""Batches under way for each process, so that none waits for the next one."""

Build = Callable[[], Sampler]
"""Makes the sampler anew in each process; it is pickled."""

_sampler: Sampler | None = None


def executions(
    build: Build, jobs: int, *, most: int | None = None
) -> Generator[Execution, None, None]:
    """All executions, or ``most`` of them, in their order, made by ``jobs`` processes."""
    # A fork would take the threads of this process with it half dead.
    pool = ProcessPoolExecutor(
        jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(build,)
    )
    waiting: deque[Future[list[Execution]]] = deque()
    try:
        for first in count(1, BATCH):
            if most is None or first <= most:
                last = first + BATCH - 1 if most is None else min(first + BATCH - 1, most)
                waiting.append(pool.submit(_run, first, last))
            elif not waiting:
                return
            if len(waiting) == AHEAD * jobs or (most is not None and first > most):
                yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(build: Build) -> None:
    global _sampler  # noqa: PLW0603 - a process of the pool samples one world
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends the others
    _sampler = build()


def _run(first: int, last: int) -> list[Execution]:
    assert _sampler is not None, "the process has begun"
    return [_sampler.execution(number) for number in range(first, last + 1)]
