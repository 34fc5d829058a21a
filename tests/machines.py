"""Two machines in one: network namespaces that a cable joins, each with a host name of its own."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Machine:
    """One of the two.

    Args:
        name: its host name.
        address: on the cable, `CABLE` there.
        within: a command that runs another one on it.
    """

    name: str
    address: str
    within: tuple[str, ...]

    def kill(self) -> None:
        """Let it lose its power: all its processes are killed."""
        there = subprocess.run(["ip", "netns", "pids", self.name], check=True, capture_output=True, text=True)
        for pid in there.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


CABLE = "cable"


@contextlib.contextmanager
def two_machines() -> Iterator[tuple[Machine, Machine]]:
    """Make them, for a while; skips the test where there are no namespaces (which takes root and `ip`)."""
    names = [f"motiontune{os.getpid()}{end}" for end in "ab"]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", CABLE, "netns", names[0], "type", "veth", "peer", "name", CABLE, "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "address", "add", f"10.213.7.{number}/24", "dev", CABLE)
            for device in (CABLE, "lo"):
                ip("-n", name, "link", "set", device, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    else:
        named = 'hostname "$0" && exec "$@"'
        first, second = (
            Machine(
                name, f"10.213.7.{number}", ("ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", named, name)
            )
            for number, name in enumerate(names, 1)
        )
        yield first, second
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
