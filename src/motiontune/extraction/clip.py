"""One clip of many: read, its motion made, summed up and written; a row whatever happens."""

import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from motiontune.cache import MotionCache, arrays_of, this_code
from motiontune.errors import (
    ClipError,
    ConfigError,
    LimitError,
    MotiontuneError,
    MotionUnavailable,
    OutputError,
    escaped,
    in_one_line,
)
from motiontune.extraction.inputs import ClipSource, fetched
from motiontune.files import write_bytes, write_once
from motiontune.grid import VideoGrid
from motiontune.limits import PIXELS
from motiontune.manifest import ClipRow, Failure
from motiontune.motion.field import MotionField
from motiontune.motion.file import npz_bytes
from motiontune.motion.options import MotionOptions
from motiontune.motion.provider import is_provider
from motiontune.motion.sources import motion_of, vectors_for
from motiontune.motion.statistics import MotionStatistics
from motiontune.video.clip import Clip
from motiontune.video.reader import FrameReader, Reader


ManyForm = Literal["npz", "cache", "none"]
MANY_FORMS: tuple[ManyForm, ...] = get_args(ManyForm)
"""A `.npz` per clip, the `motion_cache_dir` of a training, or the manifest alone."""


@dataclass(frozen=True)
class Settings:
    """What the motion of each clip depends on. It goes to other processes as JSON.

    Args:
        out: the output folder.
        form: what is written, one of MANY_FORMS.
        options: source, direction, quality and so on.
        frames: how clips are sampled and resized; replaced by the model's, with `model`.
        model: the model (folder or hub) whose sampling, sizes and patches are taken; None is none in particular.
        given: of `frames`, the sampling that goes before the model's own: `fps`, `max_frames`, `max_pixels`.

    Raises:
        ConfigError: on a source that reads files, or a cache without a model.
    """

    out: str
    form: ManyForm = "npz"
    options: MotionOptions = MotionOptions()
    frames: FrameReader = FrameReader()
    model: str | None = None
    given: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.options.source == "file":
            raise ConfigError("--source file is not for many clips: their motion is in files already")
        if self.form not in MANY_FORMS:
            raise ConfigError(f"--format {self.form} is not for many clips: use {', '.join(MANY_FORMS)}")
        if self.form == "cache" and self.model is None:
            raise ConfigError("--format cache needs --model: what training keeps depends on the model's patches")

    def to_json(self) -> str:
        """As text, for a process elsewhere."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Out of `to_json`."""
        values = json.loads(text)
        values |= {"options": MotionOptions(**values["options"]), "frames": FrameReader(**values["frames"])}
        return cls(**values | {"given": tuple((name, value) for name, value in values["given"])})

    def fingerprint(self) -> dict[str, Any]:
        """What must stay for a run to be gone on with: the settings but the folder, and the code."""
        values: dict[str, Any] = json.loads(self.to_json())
        del values["out"]
        if is_provider(self.options.source):
            values["own source"] = Path(self.options.source.rpartition(":")[0]).read_text("utf-8", "replace")
        return values | {"code": this_code("motion/statistics.py")}


class Extractor:
    """Makes rows of clips; what is costly to start is started once.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._reader: Reader = settings.frames
        self._cache, self._model = None, None
        if settings.model is not None:
            from motiontune.llamafactory.reader import ModelReader  # torch and LLaMA-Factory: only where needed

            sampling: dict[str, Any] = dict(settings.given)
            self._reader = self._model = ModelReader(settings.model, **sampling)
        if settings.form == "cache":
            self._cache = MotionCache(settings.out)

    def row(self, source: ClipSource, ours: bool = False) -> ClipRow:
        """What becomes of a clip: no error of its own or of its surroundings gets out.

        Args:
            source: the clip.
            ours: a motion file was written for it earlier; what is left of that is replaced.
        """
        start = time.perf_counter()
        known: dict[str, Any] = {}
        try:
            self._fill(known, source, ours)
        except OutputError as error:
            known |= self._failure("output", error, source)
        except MotionUnavailable as error:
            known |= self._failure("motion", error, source)
        except LimitError as error:
            known |= self._failure("limit", error, source)
        except (MotiontuneError, OSError, MemoryError) as error:
            # what could be read to its end, and then not decoded, is no clip
            known |= self._failure("clip" if "digest" in known else "access", error, source)
        return ClipRow(source.path, **known, seconds=round(time.perf_counter() - start, 4))

    def _failure(self, kind: Failure, error: BaseException, source: ClipSource) -> dict[str, Any]:
        reason = error.reason if isinstance(error, ClipError) else in_one_line(error)
        return {"failure": kind, "error": escaped(reason).removeprefix(f"{escaped(source.path)}: ")}

    def _fill(self, known: dict[str, Any], source: ClipSource, ours: bool) -> None:
        """Add what is found out about a clip, in the order in which it is."""
        reader, options = self._reader, self.settings.options
        with fetched(source) as (path, digest, size, changed):
            known |= {"digest": digest, "bytes": size, "changed": changed}
            key = None if self._model is None or self._cache is None else self._model.motion_key(path, options)
            clip = reader.read(path, vectors_for(options, reader.grid_of))
        clip = dataclasses.replace(clip, path=source.path)
        info = clip.info
        known |= {"codec": info.codec, "width": info.width, "height": info.height, "stream_frames": info.frames}
        known |= {"duration": info.duration, "fps": info.average_rate, "counted": info.counted}
        known["frames"] = len(clip.frames)
        grid = reader.grid_of(clip)
        field = clip_motion(clip, grid if self._cache else grid.unpadded(len(clip.frames)), options)
        if self._cache is not None and key is not None:
            self._cache.write(key, arrays_of(field))
            known |= self._written(self._cache.path_of(key))
        elif self.settings.form == "npz":
            place = Path(self.settings.out, f"{source.place}.npz")
            data = npz_bytes(field, grid.unpadded(len(clip.frames)), digest)
            if ours and _is_zip(place):
                write_bytes(place, data, listed=False)
            else:
                write_once(place, data)
            known |= self._written(place)
        known["source"] = field.source
        known |= dataclasses.asdict(MotionStatistics.of(field, grid))

    def _written(self, file: Path) -> dict[str, Any]:
        return {"motion": os.path.relpath(file, self.settings.out), "motion_bytes": file.stat().st_size}


def _is_zip(file: Path) -> bool:
    """Whether a file begins as a `.npz` does, however much of it is left."""
    mark = b"PK\3\4"
    try:
        with file.open("rb") as opened:
            return mark.startswith(opened.read(len(mark)))
    except OSError:
        return False


def clip_motion(clip: Clip, grid: VideoGrid, options: MotionOptions) -> MotionField:
    """The motion of a clip that was read for it.

    Raises:
        MotionUnavailable: if the source has no motion for it, or one frame is sampled of it.
        LimitError: if its frames would have to be made too large, as whole tokens are.
    """
    (height, width), size = clip.frames.shape[1:3], grid.width * grid.height
    # rounding a side to whole tokens doubles it at most; a token of more than that may have any size
    if size > 4 * width * height and (
        reason := PIXELS.excess(size, f"a frame of whole tokens, {grid.width}x{grid.height},")
    ):
        raise LimitError(clip.path, reason)
    if len(clip.frames) < 2:
        raise MotionUnavailable(
            f"{clip.path}: one frame is sampled of it: too short, or --fps or --max-frames too low"
        )
    return motion_of(clip, grid, options)
