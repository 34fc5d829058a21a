"""The clips that `motiontune view` may show: those of data sets, measured and filtered by their motion."""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from motiontune.datasets.dataset_info import ClipOfSample, columns_of, load_info, read_clips
from motiontune.drawing.films import is_film
from motiontune.errors import ConfigError, MotiontuneError, escaped, nearest
from motiontune.grid import VideoGrid
from motiontune.motion.field import MOVING_PIXELS, MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, vectors_for
from motiontune.video.clip import Clip
from motiontune.video.find import list_clips
from motiontune.video.reader import Reader


FILES = "files"
"""The name that clips from the command line have among the data sets."""

Kind = Literal["all", "moving", "still", "few vectors", "unreadable"]
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True)
class Measured:
    """The motion of a clip in a few numbers.

    Args:
        frames: number of sampled frames.
        moving: share of the valid patches whose vector is longer than `MOVING_PIXELS`, 0 to 1; None without any.
        invalid: share of the patches without a vector, of those in frames that have a neighbour to move from or to.
        mean_motion: mean length of the valid vectors, pixels of the resized frame; None without any.
        source: the source that made them; "" where there is no motion.
        problem: why there is no motion, or the clip cannot be read; "" where there is.
        readable: whether the clip could be decoded.
    """

    frames: int = 0
    moving: float | None = None
    invalid: float = 1.0
    mean_motion: float | None = None
    source: str = ""
    problem: str = ""
    readable: bool = True


@dataclass(frozen=True)
class Limits:
    """Where clips part.

    Args:
        still: a clip stands still if at most this share of its patches moves.
        invalid: a clip has few vectors if more than this share of its patches has none.
    """

    still: float = 0.01
    invalid: float = 0.5


class Library:
    """Data sets of a folder, and single clips.

    Attributes:
        folders: any clip that lies in one of them may be opened too, such as those that are dropped onto the page.

    Args:
        dataset_dir: the folder of `dataset_info.json`; None for no data sets.
        paths: clips, and folders of clips.
        predicted: more lists of clips, by name: those of folders of predictions.

    Raises:
        ConfigError: if there is no `dataset_info.json`, or no clip in a path.
    """

    def __init__(
        self,
        dataset_dir: str | None,
        paths: Sequence[str] = (),
        predicted: Mapping[str, Sequence[ClipOfSample]] | None = None,
    ) -> None:
        self.dataset_dir = dataset_dir
        self._clips: dict[str, list[ClipOfSample]] = {}
        self._named: set[str] = set()
        self.folders: list[Path] = []
        self.measured: dict[tuple[str, MotionOptions], Measured] = {}
        if paths:
            self._keep(FILES, [ClipOfSample(path, "", "") for _, path in list_clips(paths, is_film)])
        for name, clips in (predicted or {}).items():
            self._keep(name, list(clips))
        self.names = [*self._clips]
        if dataset_dir is not None:
            # a data set without videos has nothing to show
            info = load_info(dataset_dir)
            self.names += [name for name, about in info.items() if columns_of(about).get("videos")]

    def _keep(self, name: str, clips: list[ClipOfSample]) -> None:
        self._clips[name] = clips
        self._named |= {clip.path for clip in clips}

    def clips(self, name: str) -> list[ClipOfSample]:
        """The clips of a data set; its file is read once.

        Raises:
            ConfigError: if there is no such data set, or it cannot be read.
        """
        if name not in self._clips:
            if name not in self.names or self.dataset_dir is None:
                raise ConfigError(f"dataset: {name!r} is none of {', '.join(self.names)}" + nearest(name, self.names))
            self._keep(name, read_clips(self.dataset_dir, name))
        return self._clips[name]

    def check_there(self, name: str) -> None:
        """Refuse a data set none of whose clips is there.

        Raises:
            ConfigError: naming one; and as `clips`.
        """
        clips = self.clips(name)
        if clips and not any(os.path.isfile(clip.path) for clip in clips):
            raise ConfigError(
                f"dataset: none of the {len(clips):,} clips of {name!r} is there, such as {clips[0].path}: correct "
                f"the paths in its file, or open another data set with --dataset"
            )

    def check_allowed(self, path: str) -> None:
        """Refuse a clip that neither a data set names nor the user, wherever it lies, but for those in `folders`.

        Raises:
            ConfigError: naming it.
        """
        real = Path(path).resolve()
        if path not in self._named and not any(real.is_relative_to(folder) for folder in self.folders):
            raise ConfigError(f"{path}: is no clip of the open data sets: start with it on the command line to see it")

    def measure(self, path: str, reader: Reader, options: MotionOptions) -> Measured:
        """Measure a clip, once for each choice of options."""
        key = path, options
        if key not in self.measured:
            try:
                self.check_allowed(path)
                self.measured[key] = measure(*read_motion(path, reader, options))
            except MotiontuneError as error:
                self.measured[key] = Measured(problem=reason(path, error), readable=False)
        return self.measured[key]

    def measure_all(
        self, paths: Sequence[str], reader: Reader, options: MotionOptions, workers: int | None = None
    ) -> Iterator[int]:
        """Measure clips, several at a time, and yield how many are done; none is begun once the iterator is closed."""
        todo, workers = iter(paths), workers or min(8, os.cpu_count() or 1)
        with ThreadPoolExecutor(workers) as pool:
            running = {pool.submit(self.measure, path, reader, options) for path in islice(todo, workers)}
            done = 0
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(self.measure, path, reader, options) for path in islice(todo, len(finished))}
                for one in finished:
                    one.result()  # a bug is not hidden
                done += len(finished)
                yield done


def read_motion(path: str, reader: Reader, options: MotionOptions) -> tuple[Clip, VideoGrid, MotionField | None, str]:
    """Decode a clip and compute its motion.

    Returns:
        The clip, its grid without padding, and the motion and "", or None and why there is none.

    Raises:
        ClipError: if the clip cannot be read.
        ConfigError: if there is no such source.
    """
    clip = reader.read(path, vectors_for(options, reader.grid_of))
    grid = reader.grid_of(clip).unpadded(len(clip.frames))
    try:
        return clip, grid, motion_of(clip, grid, options), ""
    except ConfigError:
        raise
    except MotiontuneError as error:
        return clip, grid, None, reason(path, error)


def measure(clip: Clip, grid: VideoGrid, field: MotionField | None, problem: str) -> Measured:
    """Sum a clip's motion up."""
    if field is None:
        return Measured(len(clip.frames), problem=problem)
    lengths = np.linalg.norm(field.vectors, axis=-1)[field.valid]
    return Measured(
        frames=len(clip.frames),
        moving=float((lengths > MOVING_PIXELS).mean()) if len(lengths) else None,
        invalid=1 - field.valid_share,
        mean_motion=float(lengths.mean()) if len(lengths) else None,
        source=field.source,
    )


def kinds_of(measured: Measured, limits: Limits) -> set[Kind]:
    """What a clip counts as; a clip with few vectors may move or stand still by those that it has."""
    if not measured.readable:
        return {"all", "unreadable"}
    kinds: set[Kind] = {"all"}
    if measured.invalid > limits.invalid:
        kinds.add("few vectors")
    if measured.moving is not None:
        kinds.add("still" if measured.moving <= limits.still else "moving")
    return kinds


def choose(
    clips: Sequence[ClipOfSample], measured: Mapping[str, Measured], kind: Kind, limits: Limits, words: str = ""
) -> list[int]:
    """The numbers of the clips of one kind whose path or answer holds all of some words, in any case.

    Args:
        clips: of a data set.
        measured: by path; a clip that is not measured is of no kind but "all".
        kind: what is wanted.
        limits: where kinds part.
        words: separated by spaces.
    """
    wanted = words.lower().split()
    return [
        number
        for number, clip in enumerate(clips)
        if (kind == "all" or (clip.path in measured and kind in kinds_of(measured[clip.path], limits)))
        and all(word in f"{clip.path} {clip.answer}".lower() for word in wanted)
    ]


def short_names(names: Sequence[str]) -> list[str]:
    """The ends of paths that tell them apart, such as the folders' own names where these differ."""
    parts = [Path(name).parts or (name,) for name in names]
    for count in range(1, max(map(len, parts), default=0)):
        short = ["/".join(part[-count:]) for part in parts]
        if len(set(short)) == len(short):
            return short
    return list(names)


def reason(path: str, error: Exception) -> str:
    """An error's message about a clip, without the clip's path."""
    return escaped(str(error)).removeprefix(f"{escaped(path)}: ")
