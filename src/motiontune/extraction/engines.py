"""Where clips are worked on: in worker processes of this machine, or of a Ray cluster."""

import platform
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from motiontune.extraction.clip import Settings
from motiontune.extraction.inputs import ClipSource
from motiontune.extraction.worker import Worker
from motiontune.manifest import ClipRow


TRIES = 2
"""A clip that ends its decoder so many times is left."""
KILLS = 6
"""The same, where the process was killed from outside: it may have been an operator, or too little memory."""


@dataclass(frozen=True)
class Job:
    """A clip that is to be worked on.

    Args:
        source: the clip.
        crashes: how many times it has ended its decoder before.
        ours: see `Extractor.row`.
    """

    source: ClipSource
    crashes: int = 0
    ours: bool = False


@dataclass(frozen=True)
class Done:
    """A clip that was worked on.

    Args:
        row: what became of it.
        node: the machine.
    """

    row: ClipRow
    node: str


Engine = Callable[[Iterable[Job], Settings, int, float, Callable[[str], None]], Generator[Done]]
"""From jobs, the settings, the number of workers, the seconds that a clip may take, and what is called with the path
of a clip that ends its decoder, to rows in the order in which they are done."""


def work(worker: Worker, job: Job, note_crash: Callable[[str], None]) -> ClipRow:
    """Have a clip worked on, again where it ends its decoder, but no more than `TRIES` times in all."""
    crashes, kills, reason = job.crashes, 0, "ended the process that decoded it, in an earlier run"
    while crashes < TRIES and kills < KILLS:
        result = worker.row(job.source, job.ours)
        if isinstance(result, ClipRow):
            return result
        reason = result.reason
        if result.from_outside:
            kills += 1
        else:
            crashes += 1
            note_crash(job.source.path)
    return ClipRow(job.source.path, failure="crash", error=f"{reason}, {max(crashes, kills)} times")


def on_this_machine(
    jobs: Iterable[Job], settings: Settings, workers: int, timeout: float, note_crash: Callable[[str], None]
) -> Generator[Done]:
    """Work on clips in so many processes, each of which a thread waits for."""
    waiting, lock, done = iter(jobs), threading.Lock(), queue.SimpleQueue[Done | BaseException | None]()
    crew = [Worker(settings, timeout) for _ in range(workers)]
    stopped = threading.Event()
    node = platform.node()

    def labour(worker: Worker) -> None:
        try:
            while not stopped.is_set():
                with lock:
                    job = next(waiting, None)
                if job is None:
                    break
                row = work(worker, job, note_crash)
                if not stopped.is_set():
                    done.put(Done(row, node))
            done.put(None)
        except BaseException as error:  # the main thread raises it
            done.put(error)

    threads = [threading.Thread(target=labour, args=(worker,), daemon=True) for worker in crew]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            while (one := done.get()) is not None:
                if isinstance(one, BaseException):
                    raise one
                yield one
    finally:
        stopped.set()
        for worker in crew:
            worker.close()


ENGINES: dict[str, Engine] = {"local": on_this_machine}
