"""The clips that files and folders stand for, and the names of what is made of them."""

import os
from collections.abc import Sequence
from pathlib import Path

from motiontune.drawing.films import is_film
from motiontune.errors import ConfigError


VIDEO_SUFFIXES = frozenset(".3gp .avi .flv .h264 .m4v .mkv .mov .mp4 .mpeg .mpg .ogv .ts .webm .wmv".split())


def list_clips(paths: Sequence[str]) -> list[tuple[Path, str]]:
    """The clips that files and folders stand for: (name, the file), where a folder stands for the videos below it.

    The name of a clip in a folder keeps the folder's structure.

    Raises:
        ConfigError: if there is no video in a folder.
    """
    found: list[tuple[Path, str]] = []
    for path in paths:
        if not os.path.isdir(path):
            found.append((Path(Path(path).name), path))
            continue
        below = sorted(p for p in Path(path).rglob("*") if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file())
        if not below:
            raise ConfigError(f"{path}: has no video in it ({' '.join(sorted(VIDEO_SUFFIXES))})")
        found += [(clip.relative_to(path), str(clip)) for clip in below]
    return found


def find_clips(paths: Sequence[str], out: str, suffixes: Sequence[str] = ()) -> dict[Path, str]:
    """Name the clips that files and folders stand for: {where to write, without suffix: clip}.

    Args:
        paths: clips, and folders of clips.
        out: the output folder.
        suffixes: of the films that will be written. None may replace a clip, or what is no such film.

    Raises:
        ConfigError: if there is none, two would be written to the same place, a clip or another file would be written
            over, or the output folder is a file.
    """
    if os.path.exists(out) and not os.path.isdir(out):
        raise ConfigError(f"{out} is a file: choose a folder with --out")
    found: dict[Path, str] = {}
    for name, clip in list_clips(paths):
        target = Path(out) / name.with_suffix("")
        if target in found:
            raise ConfigError(f"{clip} and {found[target]} would both be written to {target}: give them apart")
        found[target] = clip
    inputs = {Path(clip).resolve() for clip in found.values()}
    for target in found:
        for file in (target.with_name(target.name + suffix) for suffix in suffixes):
            if file.resolve() in inputs:
                raise ConfigError(f"{file} is a clip and would be written over: choose another folder with --out")
            if file.exists() and not is_film(file):
                raise ConfigError(f"{file} was not made by motiontune and would be written over: choose another --out")
    return found
