"""The clips that files and folders stand for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from motiontune.errors import ConfigError


VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v .mkv "
    ".mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .ogm .ogv .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)


def _refuse(error: OSError) -> None:
    raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from error


def files_below(folder: str | Path, refuse: Callable[[OSError], None] = _refuse) -> list[Path]:
    """What lies in a folder and below it, but folders; sorted. Links to folders are followed, unless in a circle.

    Args:
        folder: the folder.
        refuse: what becomes of a folder that cannot be read: what is in it must not be missing without a word.

    Raises:
        ConfigError: if a folder cannot be read, where `refuse` is not given.
    """
    found = []
    for place, below, names in os.walk(folder, onerror=refuse, followlinks=True):
        links = [name for name in below if os.path.islink(os.path.join(place, name))]
        if links:
            above = {os.path.realpath(path) for path in (Path(place), *Path(place).parents)}
            circles = {name for name in links if os.path.realpath(os.path.join(place, name)) in above}
            below[:] = [name for name in below if name not in circles]
        found += [Path(place, name) for name in names]
    return sorted(found)


def no_video(folder: str | Path) -> str:
    """What is said of a folder without a video."""
    return f"{folder}: has no video in it ({' '.join(sorted(VIDEO_SUFFIXES))})"


def list_clips(paths: Sequence[str], is_drawn: Callable[[Path], bool]) -> list[tuple[Path, str]]:
    """The clips that files and folders stand for: (name, the file), where a folder stands for the videos below it.

    What cannot be read, such as a link that leads nowhere, is among them: reading it tells what it is.

    The name of a clip in a folder keeps the folder's structure.

    Args:
        paths: clips, and folders of clips.
        is_drawn: whether a file in a folder is a film that this package drew, and so no clip.

    Raises:
        ConfigError: if there is no video in a folder, a folder cannot be read, or a name is empty.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if not os.path.isdir(path):
            if not Path(path).name:
                raise ConfigError(f"{path!r} names no clip: is a variable of the shell empty?")
            found.append((Path(Path(path).name), path))
            continue
        below = [file for file in files_below(path) if file.suffix.lower() in VIDEO_SUFFIXES and not is_drawn(file)]
        if not below:
            raise ConfigError(no_video(path))
        found += [(clip.relative_to(path), str(clip)) for clip in below]
    return found
