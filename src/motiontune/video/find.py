"""The clips that files and folders stand for, and the names of what is made of them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from motiontune.drawing.films import FILM, is_film
from motiontune.errors import ConfigError


VIDEO_SUFFIXES = frozenset(
    ".264 .265 .3g2 .3gp .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2t .m2ts .m2v .m4v .mkv "
    ".mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .ogm .ogv .rm .rmvb .ts .vob .webm .wmv .y4m".split()
)


def list_clips(paths: Sequence[str]) -> list[tuple[Path, str]]:
    """The clips that files and folders stand for: (name, the file), where a folder stands for the videos below it.

    The name of a clip in a folder keeps the folder's structure. Films that this package drew are no clips.

    Raises:
        ConfigError: if there is no video in a folder.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append((Path(Path(path).name), path))
            continue
        below = sorted(p for p in Path(path).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
        below = [clip for clip in below if not (clip.name.endswith(FILM) and is_film(clip))]
        if not below:
            raise ConfigError(f"{path}: has no video in it ({' '.join(sorted(VIDEO_SUFFIXES))})")
        found += [(clip.relative_to(path), str(clip)) for clip in below]
    return found


def find_clips(paths: Sequence[str], out: str) -> dict[Path, str]:
    """Name the clips that files and folders stand for: {where to write, without suffix: clip}.

    That is the clip's name without its suffix, or where several clips share that name, with it.

    Args:
        paths: clips, and folders of clips.
        out: the output folder.

    Raises:
        ConfigError: if there is none, or two would be written to the same place.
    """
    clips = list_clips(paths)
    shared = Counter(str(name.with_suffix("")).casefold() for name, _ in clips)
    found: dict[Path, str] = {}
    for name, clip in clips:
        stem = name.with_suffix("")
        target = Path(out) / (stem if shared[str(stem).casefold()] == 1 else name)
        if target in found:
            raise ConfigError(f"{clip} and {found[target]} would both be written to {target}: give them apart")
        found[target] = clip
    return found
