"""Where clips are worked on: in worker processes of this machine, or of a Ray cluster."""

import os
import platform
import queue
import re
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from motiontune.errors import ConfigError, in_one_line
from motiontune.extraction.clip import Settings
from motiontune.extraction.inputs import ClipSource, State
from motiontune.extraction.journal import Crash
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
        crashes: how many times it has ended its decoder before, as it is now.
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


Engine = Callable[[Iterable[Job], Settings, int, float, Callable[[Crash], None]], Generator[Done]]
"""From jobs, the settings, the number of workers (0 is one per core), the seconds that a clip may take, and what is
called with a clip that ends its decoder, to rows in the order in which they are done."""


def work(worker: Worker, job: Job, note_crash: Callable[[Crash], None]) -> ClipRow:
    """Have a clip worked on, again where it ends its decoder, but no more than `TRIES` times in all."""
    state = _state_of(job)  # before it is read: what replaces it meanwhile is tried, too
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
            note_crash(Crash(job.source.path, *state, result.seconds))
    return _crashed(job, state, f"{reason}, {max(crashes, kills)} times")


def _state_of(job: Job) -> State:
    try:
        return job.source.state()
    except OSError:
        return None, None


def _crashed(job: Job, state: State, error: str) -> ClipRow:
    return ClipRow(job.source.path, bytes=state[0], changed=state[1], failure="crash", error=error)


def on_this_machine(
    jobs: Iterable[Job], settings: Settings, workers: int, timeout: float, note_crash: Callable[[Crash], None]
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
        fingerprint: of the run, where it was started.
        timeout: seconds that a clip may take.
    """

    def __init__(self, settings: str, fingerprint: dict[str, Any], timeout: float) -> None:
        self._settings, self._fingerprint = Settings.from_json(settings), fingerprint
        self._worker = Worker(self._settings, timeout)

    def begin(self) -> str:
        """Return as soon as there is room for the actor: why its node cannot take part, if it can't."""
        try:
            same = self._settings.fingerprint() == self._fingerprint
        except OSError as error:  # a source of the user's own
            return f"{platform.node()}: {in_one_line(error)}"
        if same:
            return ""
        return f"{platform.node()}: other code there than where the run was started: install the same on every node"

    def work(self, job: Job) -> tuple[Done, list[Crash]]:
        """A clip's row, and how it has ended its decoder here."""
        crashes: list[Crash] = []
        row = work(self._worker, job, crashes.append)
        return Done(row, platform.node()), crashes


def on_ray(
    jobs: Iterable[Job], settings: Settings, workers: int, timeout: float, note_crash: Callable[[Crash], None]
) -> Generator[Done]:
    """Work on clips on a Ray cluster: that of RAY_ADDRESS or of this machine, or else one that is started here.

    Actors, and not Ray Data: its rows come by blocks, and each that is done must be in the journal at once. One core
    for each actor; without a number of them, as many as the cluster has. A node that is lost has its clips done
    elsewhere.

    Raises:
        ConfigError: if Ray is not installed, there is no cluster at RAY_ADDRESS, or a node lacks motiontune or has
            another one.
    """
    try:
        import ray
        from ray.exceptions import RayActorError, RayError
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray: pip install 'motiontune[ray]'") from error
    if not ray.is_initialized():
        where = os.environ.get("RAY_ADDRESS", "")
        try:
            _reach(where)
            ray.init(log_to_driver=False)
        except (RayError, OSError, RuntimeError, ValueError) as error:
            place = f"at RAY_ADDRESS={where}" if where else "on this machine"
            raise ConfigError(f"--engine ray: no cluster can be had {place}: {_last_line(error)}") from error
    number = workers or int(ray.cluster_resources().get("CPU", 1))
    actor, terms = ray.remote(num_cpus=1)(_Hand), (settings.to_json(), settings.fingerprint(), timeout)
    hands, begun, running, idle = set[Any](), dict[Any, Any](), dict[Any, tuple[Any, Job]](), list[Any]()
    waiting, again, lost = iter(jobs), deque[Job](), Counter[str]()

    def hire() -> None:
        hand = actor.remote(*terms)
        hands.add(hand)
        begun[hand.begin.remote()] = hand

    def give(hand: Any) -> None:
        job = again.popleft() if again else next(waiting, None)
        if job is None:
            idle.append(hand)
        else:
            running[hand.work.remote(job)] = hand, job

    def replace(hand: Any) -> None:
        if hand in hands:  # else it had another clip, too
            hands.remove(hand)
            ray.kill(hand)
            idle[:] = [other for other in idle if other is not hand]
            hire()

    try:
        for _ in range(number):
            hire()
        while True:
            refs = [*begun, *running]
            ray.wait(refs, num_returns=1)
            # waiting takes longer the more there are to wait for: all that are done by now are taken at once
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            for ref in ready:
                hand, job = running.pop(ref) if ref in running else (begun.pop(ref), None)
                try:
                    result = ray.get(ref)
                except RayActorError as error:
                    if job is None and "creation task" in str(error):
                        raise ConfigError(f"--engine ray: a node cannot take part: {_last_line(error)}") from error
                    replace(hand)
                    if job is not None:
                        lost[job.source.path] += 1
                        if lost[job.source.path] < KILLS:
                            again.append(job)
                        else:
                            row = _crashed(job, _state_of(job), f"its node was lost, {KILLS} times")
                            yield Done(row, "lost nodes")
                    continue
                if job is None:
                    if result:
                        raise ConfigError(f"--engine ray: {result}")
                    give(hand)
                    give(hand)  # one waits there while another is worked on
                    continue
                give(hand)
                done, crashes = result
                for crash in crashes:
                    note_crash(crash)
                yield done
            while again and idle:
                give(idle.pop())
            if not running and not again:
                return
    finally:
        for hand in hands:
            ray.kill(hand)


def _reach(address: str) -> None:
    """Connect to HOST:PORT or ray://HOST:PORT, if that is an address: Ray itself tries for minutes.

    Raises:
        OSError: if there is nobody.
    """
    place = urlsplit(address if "://" in address else f"//{address}")
    if place.hostname and place.port:
        socket.create_connection((place.hostname, place.port), timeout=10).close()


def _last_line(error: BaseException) -> str:
    """What an error of Ray's says, whose message is a traceback of the node, and where that was."""
    *_, last = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    where = re.search(r"ip=([^,)\s]+)", str(error))
    return f"{where[1]}: {last.strip()}" if where else last.strip()


ENGINES: dict[str, Engine] = {"local": on_this_machine, "ray": on_ray}
