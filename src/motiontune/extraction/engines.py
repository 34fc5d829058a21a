"""Where clips are worked on: in worker processes of this machine, or of a Ray cluster."""

import os
import platform
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from motiontune.errors import ConfigError
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
"""From jobs, the settings, the number of workers (0 is one per core), the seconds that a clip may take, and what is
called with the path of a clip that ends its decoder, to rows in the order in which they are done."""


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
    crew = [Worker(settings, timeout) for _ in range(workers or os.cpu_count() or 1)]
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


class _Hand:
    """An actor of Ray: a worker process on some node. Decoders end in that, never in the actor.

    Args:
        settings: of the run, as `Settings.to_json`.
        timeout: seconds that a clip may take.
    """

    def __init__(self, settings: str, timeout: float) -> None:
        self._worker = Worker(Settings.from_json(settings), timeout)

    def begin(self) -> None:
        """Return as soon as there is room for the actor."""

    def work(self, job: Job) -> tuple[Done, int]:
        """A clip's row, and how many times it has ended its decoder here."""
        crashes: list[str] = []
        row = work(self._worker, job, crashes.append)
        return Done(row, platform.node()), len(crashes)


def on_ray(
    jobs: Iterable[Job], settings: Settings, workers: int, timeout: float, note_crash: Callable[[str], None]
) -> Generator[Done]:
    """Work on clips on a Ray cluster: that of RAY_ADDRESS or of this machine, or else one that is started here.

    Actors, and not Ray Data: its rows come by blocks, and each that is done must be in the journal at once. One core
    for each actor; without a number of them, as many as the cluster has. A node that is lost has its clips done
    elsewhere.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'motiontune[ray]'") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(_Hand)
    number = workers or int(ray.cluster_resources().get("CPU", 1))
    hands = [actor.remote(settings.to_json(), timeout) for _ in range(number)]
    waiting = iter(jobs)
    begun = {hand.begin.remote(): hand for hand in hands}
    running: dict[Any, Any] = {}

    def give(hand: Any) -> None:
        if (job := next(waiting, None)) is not None:
            running[hand.work.remote(job)] = hand

    try:
        while True:
            refs = [*begun, *running]
            ray.wait(refs, num_returns=1)
            # waiting takes longer the more there are to wait for: all that are done by now are taken at once
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in ready:
                if ref in begun:
                    hand = begun.pop(ref)
                    give(hand)
                    give(hand)  # one waits there while another is worked on
                    continue
                give(running.pop(ref))
                done, crashes = ray.get(ref)
                for _ in range(crashes):
                    note_crash(done.row.path)
                yield done
            if not running:
                return
    finally:
        for hand in hands:
            ray.kill(hand)


ENGINES: dict[str, Engine] = {"local": on_this_machine, "ray": on_ray}
