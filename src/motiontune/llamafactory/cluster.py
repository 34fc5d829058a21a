"""Runs in a Ray cluster, which LLaMA-Factory starts with `USE_RAY=1`: also on few CPUs, and without `ray[default]`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llamafactory.extras.misc import get_device_name, use_ray

from motiontune.errors import ConfigError, MotiontuneError, in_one_line
from motiontune.llamafactory import names


CPUS = 10
"""What LLaMA-Factory asks for each worker. Where there are fewer, Ray waits for them without end."""


def cpus_per_worker(nodes: list[dict[str, Any]], device: str) -> float:
    """Share the CPUs of each node among its devices; the smallest share is what every worker can have.

    Args:
        nodes: as `ray.nodes()` returns them.
        device: Ray's name for what a worker trains on: "GPU", or "CPU".

    Returns:
        At most `CPUS`; a whole number above 1, as Ray wants it.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get(device)]
    share = min((resources.get("CPU", 0) / resources[device] for resources in alive), default=CPUS)
    return float(min(CPUS, int(share) if share > 1 else share))


def install_in_cluster() -> None:
    """Change how LLaMA-Factory places workers. Nothing happens in runs without Ray."""
    _originals.update(
        names.replace_in_tuner(
            get_placement_group=_place,
            get_ray_remote_config_for_worker=_worker_options,
            get_ray_head_node_ip=_head_address,
        )
    )


_originals: dict[str, Any] = {}


def _share() -> float:
    import ray

    return cpus_per_worker(ray.nodes(), get_device_name().upper())


def _place(devices: int) -> tuple[Any, dict[str, float]]:
    from ray.util.placement_group import placement_group

    device = get_device_name().upper()
    bundle = {"CPU": _share()} | ({} if device == "CPU" else {device: 1.0})
    bundle = {name: number for name, number in bundle.items() if number}
    return placement_group([bundle] * devices, strategy="PACK"), bundle


def _worker_options(**arguments: Any) -> dict[str, Any]:
    return {**_originals["get_ray_remote_config_for_worker"](**arguments), "num_cpus": _share()}


def _head_address() -> str:
    """The head node's address, for which LLaMA-Factory asks the dashboard that `ray[default]` brings."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"]]
    heads = [node for node in nodes if "node:__internal_head__" in node["Resources"]]
    return str((heads or nodes)[0]["NodeManagerAddress"])


@contextmanager
def in_cluster() -> Iterator[None]:
    """Let a mistake that a worker of Ray's finds arrive as it was raised there.

    Raises:
        ConfigError: if Ray is not installed, or cannot be reached or has too few devices.
    """
    if not use_ray():
        yield
        return
    try:
        from ray.exceptions import RayTaskError
    except ImportError as error:
        raise ConfigError("USE_RAY: Ray is not installed: pip install ray, or unset USE_RAY") from error
    try:
        yield
    except RayTaskError as error:  # also of the kind that was raised in the worker
        if isinstance(error.cause, MotiontuneError):
            raise error.cause from None
        raise
    except (ValueError, ConnectionError) as error:
        raise ConfigError(f"USE_RAY: {in_one_line(error)}") from error
