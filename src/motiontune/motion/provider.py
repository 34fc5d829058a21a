"""A user's own function as a source: `motion_source: my_file.py:my_function`.

The function takes (clip, grid, direction) and returns a `MotionField` on that grid: two numbers per patch of each
frame, and where they are valid. What the numbers mean is the function's business; everything after it (targets, head,
loss, metrics, pictures) treats them as motion. `my_function.needs_vectors = True` asks for `clip.codec_motion`.
"""

import functools
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

from motiontune.errors import ConfigError, MotiontuneError, in_one_line, nearest
from motiontune.grid import VideoGrid
from motiontune.motion.field import Direction, MotionField
from motiontune.video.clip import Clip


Provider = Callable[[Clip, VideoGrid, Direction], MotionField]


def is_provider(source: str) -> bool:
    """Whether the name of a source is that of a function in a file."""
    return ".py:" in source


def load_provider(source: str) -> Provider:
    """Find the function that `FILE.py:FUNCTION` names; a relative path starts at the working directory.

    Raises:
        ConfigError: if there is no such file or function, or the file cannot be imported.
    """
    name, _, function = source.rpartition(":")
    return _load(str(Path(name).resolve()), name, function)


@functools.cache
def _load(path: str, name: str, function: str) -> Provider:
    if not Path(path).is_file():
        raise ConfigError(f"motion_source: {name} does not exist")
    # the whole path: files of one name in two folders are two modules
    spec = importlib.util.spec_from_file_location("motiontune_provider" + re.sub(r"\W", "_", path), path)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ConfigError(f"motion_source: {name} cannot be imported: {in_one_line(error)}") from error
    found = getattr(module, function, None)
    if not callable(found):
        others = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"motion_source: {name} has no function {function!r}{nearest(function, others)}")
    return found  # type: ignore[no-any-return]


def provided_motion(source: str, clip: Clip, grid: VideoGrid, direction: Direction) -> MotionField:
    """Call a user's function for a clip.

    Raises:
        ConfigError: as `load_provider`.
        MotiontuneError: if the function fails, or returns anything but a field on the grid.
    """
    provider = load_provider(source)
    try:
        field = provider(clip, grid, direction)
    except MotiontuneError:
        raise
    except Exception as error:
        raise MotiontuneError(f"{clip.path}: {source} failed: {type(error).__name__}: {in_one_line(error)}") from error
    if not isinstance(field, MotionField):
        raise MotiontuneError(f"{clip.path}: {source} returned {type(field).__name__}, needs a MotionField")
    wanted = (grid.frames, grid.rows, grid.cols)
    if field.valid.shape != wanted:
        raise MotiontuneError(f"{clip.path}: {source} returned a field of {field.valid.shape}, the grid is {wanted}")
    if field.direction != direction:
        raise MotiontuneError(
            f"{clip.path}: {source} returned motion of the {field.direction}, asked for {direction}: give the field "
            f"the direction that the function is called with"
        )
    return field
