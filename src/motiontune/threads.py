"""How many threads one clip takes: some, or only the caller's where each core has a process of its own."""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any


_alone = False


def use_one_thread() -> None:
    """From here on, let this process read clips and make their motion in the caller's thread alone.

    Where every core has its process, a second thread finds no core that is free: it only costs the switching.
    """
    global _alone
    _alone = True
    import cv2

    cv2.setNumThreads(1)


def is_one_thread() -> bool:
    """Whether `use_one_thread` was called."""
    return _alone


def threads(number: int) -> Executor:
    """So many threads, or the caller's own under `use_one_thread`."""
    return _Caller() if _alone else ThreadPoolExecutor(number)


class _Caller(Executor):
    """Does what is submitted at once."""

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **names: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(work(*arguments, **names))
        except BaseException as error:  # as a thread of a pool: who asks for the result gets it
            done.set_exception(error)
        return done
