"""Whether the hub can be reached. Where it cannot, what is cached is used at once: its library tries for minutes."""

import functools
import logging
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, build_opener, getproxies, proxy_bypass

from motiontune.errors import ConfigError


SECONDS = 3.0
"""How long the hub may take to answer."""

PROXY_SECONDS = 6.0
"""The same, behind a proxy."""

_OTHER_HUBS = ("USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB")
_FILES = ("config.json", "adapter_config.json")

logger = logging.getLogger(__name__)


def use_cache_without_network(*places: str | None, cache_dir: str | None = None, revision: str | None = None) -> None:
    """Set the libraries' own offline mode where a place is no folder and the hub cannot be reached; logged once.

    Nothing is tried with another hub.

    Args:
        places: folders or names of hub repositories; None is neither.
        cache_dir: of the hub's files, where it is not the usual one.
        revision: of the repositories, where it is not the main one.

    Raises:
        ConfigError: in offline mode, of a place that is neither a folder nor in the cache.
    """
    named = [place for place in places if place and _may_be_on_hub(place)]
    if not named or any(os.environ.get(name) for name in _OTHER_HUBS):
        return
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT)
    reason = "HF_HUB_OFFLINE is set"
    if not constants.is_offline_mode():
        if host.hostname is None or _reached(constants.ENDPOINT):
            return
        reason = f"{host.hostname} cannot be reached"
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started
        logger.warning(f"{reason}: only what is in the cache can be loaded (HF_HUB_OFFLINE=1).")
    for place in named:
        if not _is_cached(place, cache_dir, revision):
            raise ConfigError(f"{place} is no folder here, and not in the hub's cache; {reason}: name a folder")


def _may_be_on_hub(place: str) -> bool:
    return place[0] not in "/.~" and place.count("/") < 2 and not Path(place).exists()


def _is_cached(place: str, cache_dir: str | None, revision: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    try:
        return any(isinstance(try_to_load_from_cache(place, file, cache_dir, revision), str) for file in _FILES)
    except ValueError:  # no name that a repository can have
        return False


@functools.cache
def _reached(address: str) -> bool:
    """Whether a host takes connections, or where there is a proxy answers through it."""
    host = urlsplit(address)
    assert host.hostname is not None
    if getproxies().keys() & {host.scheme, "all"} and not proxy_bypass(host.hostname):
        return _in_time(PROXY_SECONDS, lambda: _answers(address))
    name, port = host.hostname, host.port or {"http": 80}.get(host.scheme, 443)
    return _in_time(SECONDS, lambda: _connects(name, port))


def _in_time(seconds: float, test: Callable[[], bool]) -> bool:
    """Whether a test comes out true. In a thread, since a name may take longer to look up than any timeout."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(test()), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers == [True]


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError:
        return False
    return True


def _answers(address: str) -> bool:
    try:
        build_opener().open(Request(address, method="HEAD"), timeout=PROXY_SECONDS).close()
    except HTTPError as error:  # the hub's own answer, or a proxy's that it cannot be reached or is forbidden
        return error.code not in (403, 407, 502, 503, 504)
    except OSError:
        return False
    return True
