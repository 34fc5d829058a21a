"""Whether the hub can be reached. Where it cannot, what is cached is used at once: its library tries for minutes."""

import functools
import logging
import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies


SECONDS = 3.0
"""How long the hub may take to answer."""

_OTHER_HUBS = ("USE_MODELSCOPE_HUB", "USE_OPENMIND_HUB")

logger = logging.getLogger(__name__)


def use_cache_without_network(*places: str | None) -> None:
    """Set the libraries' own offline mode where a place is no folder and the hub cannot be reached; logged once.

    Nothing is tried behind a proxy, with another hub, or in offline mode.

    Args:
        places: folders or names of hub repositories; None is neither.
    """
    if not any(_may_be_on_hub(place) for place in places if place):
        return
    from huggingface_hub import constants

    if constants.is_offline_mode() or getproxies() or any(os.environ.get(name) for name in _OTHER_HUBS):
        return
    host = urlsplit(constants.ENDPOINT)
    if host.hostname is None or _answers(host.hostname, host.port or {"http": 80}.get(host.scheme, 443)):
        return
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for processes that are started
    logger.warning(f"{host.hostname} cannot be reached: only what is in the cache can be loaded (HF_HUB_OFFLINE=1).")


def _may_be_on_hub(place: str) -> bool:
    return place[0] not in "/.~" and place.count("/") < 2 and not Path(place).exists()


@functools.cache
def _answers(host: str, port: int) -> bool:
    """Whether a host takes connections. In a thread, since a name may take longer to look up than any timeout."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(_connects(host, port)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answers == [True]


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError:
        return False
    return True
