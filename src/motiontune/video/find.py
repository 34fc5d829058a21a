"""The clips that files and folders stand for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from motiontune.errors import ConfigError


VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v .mkv "
    ".mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .ogm .ogv .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)


def list_clips(paths: Sequence[str], is_drawn: Callable[[Path], bool]) -> list[tuple[Path, str]]:
    """The clips that files and folders stand for: (name, the file), where a folder stands for the videos below it.

    The name of a clip in a folder keeps the folder's structure.

    Args:
        paths: clips, and folders of clips.
        is_drawn: whether a file in a folder is a film that this package drew, and so no clip.

    Raises:
        ConfigError: if there is no video in a folder, or a name is empty.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if not os.path.isdir(path):
            if not Path(path).name:
                raise ConfigError(f"{path!r} names no clip: is a variable of the shell empty?")
            found.append((Path(Path(path).name), path))
            continue
        below = sorted(p for p in Path(path).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
        below = [clip for clip in below if not is_drawn(clip)]
        if not below:
            raise ConfigError(f"{path}: has no video in it ({' '.join(sorted(VIDEO_SUFFIXES))})")
        found += [(clip.relative_to(path), str(clip)) for clip in below]
    return found
