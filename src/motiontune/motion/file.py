"""Motion that the user computed, read from files that lie beside the clip or in a folder of their own.

For a clip `NAME.mp4` these are looked for, in this order:

* `NAME.npz` with the key `vectors`, and `valid` if some vectors are not; what `motiontune extract` writes besides is
  compared with the run's: `direction`, `size` (height and width of the frame that patch vectors are made for), `times`
  of the frames, and `clip`, a digest of the clip's content;
* `NAME.npy` with the vectors alone, not a number where there is none;
* `NAME/*.flo` or `NAME/*.png` (KITTI's 16-bit format), one file per pair of neighbouring sampled frames, by name;
* `NAME_000.flo` or `NAME_000.png` and so on, the same without a folder.

What a `.npz` keeps besides, `motiontune extract` writes to `NAME.motion.json` beside a `.npy` or a folder of pairs,
with digests of these: it is compared, too. Files without it are the user's own.

Numbers in these names count as numbers: `flow_2.flo` comes before `flow_10.flo`. `NAME.mp4.npz` and so on come first,
for clips that differ in their suffix alone. In a folder of their own, files that lie as the clips do come first: for
`data/left/001.mp4` that is `data/left/001.npz`, `left/001.npz`, `001.npz`.

Vectors are float [F or F-1, R, C, 2] on the patch grid, in pixels of the frame that the vision encoder sees, or dense
float [F or F-1, H, W, 2] at any resolution that is not smaller than the grid and has its proportions, in pixels of
that resolution. `valid` is bool of the same shape without the last axis. F counts the sampled frames (with or without
the repeated last one); F-1 counts the pairs between them. A .flo or .png file is one dense pair.

Signs are those of `MotionField`. Optical flow from frame i to frame i+1 is "future" as it stands, pair i. For "past",
pair i is minus the optical flow from frame i+1 to frame i.
"""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.errors import ConfigError, MotiontuneError, MotionUnavailable, in_one_line
from motiontune.files import file_digest, remove, write_bytes, write_text, write_whole
from motiontune.grid import VideoGrid
from motiontune.limits import ARRAY_BYTES, PIXELS, PNG_MAGIC, check_png, load_arrays, read_json
from motiontune.motion.field import Direction, MotionField, frames_with_motion
from motiontune.motion.pairs import neighbours, padded_times
from motiontune.motion.patches import patch_median
from motiontune.video.clip import Clip
from motiontune.video.container import content_of


MADE = ("direction", "size", "times", "clip")
"""What is kept with motion of what it was made of: the direction, height and width of the frame, seconds, a digest."""
FLO_MAGIC = np.float32(202021.25)  # the bytes "PIEH"
FLO_UNKNOWN = 1e9  # larger values mark pixels without flow
# how far the proportions of a dense field may lie from the grid's, which resizing rounds to whole patches
ASPECT_TOLERANCE = 1.25

ABOUT = ".motion.json"
"""Ends the name of what `write_motion` writes about a `.npy`, or a folder of pairs."""

Format = Literal["npz", "npy", "flo", "png"]
FORMATS: tuple[str, ...] = get_args(Format)

Pairs = tuple[NDArray[np.floating], NDArray[np.bool_]]


def file_motion(
    clip: Clip, grid: VideoGrid, direction: Direction = "past", motion_dir: str | None = None
) -> MotionField:
    """Read the motion that the user computed for a clip; see the module's docstring for names and shapes.

    Args:
        clip: the sampled frames.
        grid: the patch grid; its frames may outnumber the clip's by a repeated last one, which is invalid.
        direction: the direction that the vectors in the file have; the file itself does not tell.
        motion_dir: the folder to look in; None is the clip's own.

    Raises:
        MotionUnavailable: if there is no such file.
        MotiontuneError: if a file cannot be read, or its shape, dtype or values do not fit.
    """
    times = padded_times(clip, grid)
    path, vectors, valid = _find(clip, motion_dir, direction, grid)
    _check(path, vectors, valid, clip, grid)
    count = len(clip.frames)
    if len(vectors) == count - 1:
        own = frames_with_motion(count, direction)
        ends = (own.start, count - own.stop)
        vectors = np.pad(vectors, (ends, (0, 0), (0, 0), (0, 0)))
        valid = np.pad(valid, (ends, (0, 0), (0, 0)))
    field = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    good = np.zeros(field.shape[:3], np.bool_)
    for i, _ in neighbours(clip, direction):
        field[i], good[i] = _on_grid(vectors[i], valid[i], grid)
    return MotionField(np.where(good[..., None], field, np.float32(0)), good, times, "file", direction)


def find_motion(clip_path: str, motion_dir: str | None = None) -> list[Path]:
    """The motion file of a clip, or its files of pairs in their order; empty where there is none.

    Args:
        clip_path: the clip.
        motion_dir: the folder to look in; None is the clip's own.
    """
    clip = Path(os.path.abspath(clip_path))
    folders = [clip.parent]
    if motion_dir is not None:
        around = clip.parent.parts[1:]
        folders = [Path(motion_dir, *around[begin:]) for begin in range(len(around) + 1)]
    for folder in filter(Path.is_dir, folders):
        places = [folder / clip.name, folder / clip.stem]
        for place in places:
            for suffix in (".npz", ".npy"):
                file = place.with_name(place.name + suffix)
                if file.is_file():
                    return [file]
            if place.is_dir() and (files := _pairs(place.iterdir())):
                return files
        for place in places:  # at last, because it lists a folder that may be large
            numbered = re.compile(re.escape(place.name) + r"_\d+")
            if files := _pairs(file for file in folder.iterdir() if numbered.fullmatch(file.stem)):
                return files
    return []


def _pairs(files: Iterable[Path]) -> list[Path]:
    """The `.flo` files among some, or else the `.png` files, in their order."""
    files = sorted((file for file in files if not file.name.startswith(".")), key=_by_number)
    return [file for file in files if file.suffix == ".flo"] or [file for file in files if file.suffix == ".png"]


def _by_number(file: Path) -> list[str | int]:
    """Sorts the numbers in names as numbers."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", file.name))]


def check_unshared(clips: Iterable[str], motion_dir: str | None, taken: dict[Path, str]) -> None:
    """Refuse clips that take one motion file: it is that of one of them at most.

    Args:
        clips: their paths.
        motion_dir: the folder to look in; None is each clip's own.
        taken: the clip of each motion file that was found before; these are added.

    Raises:
        ConfigError: naming two clips and the file.
    """
    for clip in clips:
        for file in find_motion(clip, motion_dir)[:1]:
            other = taken.setdefault(file, clip)
            if other != clip and os.path.realpath(other) != os.path.realpath(clip):
                raise ConfigError(
                    f"{file} would be the motion of both {other} and {clip}: write it where each has its own, "
                    f"as `motiontune extract FOLDER` does"
                )


def _find(
    clip: Clip, motion_dir: str | None, direction: Direction, grid: VideoGrid
) -> tuple[str, NDArray[np.floating], NDArray[np.bool_]]:
    files = find_motion(clip.path, motion_dir)
    if not files:
        stem, folder = Path(clip.path).stem, motion_dir or Path(clip.path).parent
        names = f"{stem}.npz, {stem}.npy, {stem}/*.flo, {stem}/*.png, {stem}_000.flo or {stem}_000.png"
        raise MotionUnavailable(f"{clip.path}: no motion file; put {names} into {folder}, or set motion_dir")
    on_patches = files[0].suffix in (".npz", ".npy")
    vectors, valid, made = _read_numpy(files[0]) if on_patches else _read_pairs(files)
    try:
        made = _about(files) if made is None else made
        _check_made_for(files[0], made, vectors.shape, clip, direction, grid if on_patches else None)
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise MotiontuneError(
            f"{files[0]}: what is kept of what it was made of is damaged ({in_one_line(error)}); extract again"
        ) from error
    return str(files[0]) if on_patches else f"{files[0]} to {files[-1].name}", vectors, valid


def _read_pairs(files: Sequence[Path]) -> tuple[NDArray[np.floating], NDArray[np.bool_], None]:
    read = read_flo if files[0].suffix == ".flo" else read_kitti_png
    first = read(str(files[0]))
    ARRAY_BYTES.check(files[0], len(files) * sum(array.nbytes for array in first), "it with the files after it")
    pairs = [first, *(read(str(path)) for path in files[1:])]
    if len({vectors.shape for vectors, _ in pairs}) > 1:
        raise MotiontuneError(f"{files[0]} and the files after it differ in size; all pairs must have one size")
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs]), None


def _read_numpy(path: Path) -> tuple[NDArray[np.floating], NDArray[np.bool_], dict[str, Any] | None]:
    """Vectors, where they are valid, and of a `.npz` what it was made of."""
    made = None
    try:
        loaded = load_arrays(path)
        if isinstance(loaded, np.ndarray):
            vectors, valid = loaded, None
            if np.issubdtype(vectors.dtype, np.floating) and vectors.ndim:
                valid = np.asarray(~np.isnan(vectors).any(-1), np.bool_)
        else:
            with loaded:
                if "vectors" not in loaded:
                    raise MotiontuneError(f"{path}: has the keys {sorted(loaded)}, needs vectors (and valid)")
                vectors, valid = loaded["vectors"], loaded["valid"] if "valid" in loaded else None
                made = {name: loaded[name].tolist() for name in MADE if name in loaded}
    except (OSError, ValueError, EOFError) as error:
        raise MotiontuneError(f"{path}: cannot be read as a numpy file ({error}); write it with numpy.save") from error
    except Exception as error:
        if isinstance(error, MotiontuneError):
            raise
        raise MotiontuneError(f"{path}: is damaged ({type(error).__name__}); write it again") from error
    return vectors, np.ones(vectors.shape[:-1], np.bool_) if valid is None else valid, made


def _about(files: Sequence[Path]) -> dict[str, Any]:
    """What a `.npy`, or the pairs in a folder, were made of; nothing where that is not known.

    Raises:
        MotiontuneError: if that was written about other files.
        OSError, ValueError, KeyError, TypeError: if it is damaged.
    """
    place = files[0].with_suffix("") if files[0].suffix == ".npy" else files[0].parent
    about = place.with_name(place.name + ABOUT)
    if not about.is_file():
        return {}
    made = read_json(about)
    if made["files"] == [file_digest(file) for file in files]:
        return {name: made[name] for name in MADE if name in made}
    raise MotiontuneError(
        f"{files[0]}: is not what was extracted, {about.name} was written about other files: extract again, or remove "
        f"{about.name} if the motion is your own"
    )


def _check_made_for(
    path: Path,
    made: Mapping[str, Any],
    shape: Sequence[int],
    clip: Clip,
    direction: Direction,
    grid: VideoGrid | None,
) -> None:
    """Refuse a file that was extracted for something else, as far as it tells.

    Args:
        path: the file.
        made: what it was made of, under some of the names in MADE.
        shape: of its vectors.
        clip: the sampled frames that it is read for.
        direction: the direction that is asked for.
        grid: the patch grid; None of dense vectors, which fit any.

    Raises:
        MotiontuneError: naming what.
    """
    if made.get("direction", direction) != direction:
        raise MotiontuneError(
            f"{path}: has motion of the {made['direction']}, motion_direction is {direction}: extract again"
        )
    # else vectors on a patch grid of another size would pass for dense ones
    size = made.get("size")
    if grid is not None and size and (size != [grid.height, grid.width] or shape[1] != grid.rows):
        made_for = f"{size[1]}x{size[0]} px in {shape[1]} rows of patches"
        raise MotiontuneError(
            f"{path}: was extracted for frames of {made_for}, this run has {grid.width}x{grid.height} px in "
            f"{grid.rows}: extract again for its sizes"
        )
    if "clip" not in made or not os.path.isfile(clip.path):
        return
    if made["clip"] != content_of(clip.path):
        raise MotiontuneError(f"{path}: is the motion of another clip than {clip.path}, or it changed: extract again")
    if "times" in made:
        times = made["times"]
        known = min(len(times), len(clip.times))
        if not np.allclose(times[:known], clip.times[:known], rtol=0, atol=1e-3):
            raise MotiontuneError(
                f"{path}: was extracted for other frames of {clip.path}: extract again with this run's video_fps and "
                f"video_maxlen"
            )


def _check(path: str, vectors: NDArray[np.floating], valid: NDArray[np.bool_], clip: Clip, grid: VideoGrid) -> None:
    """Refuse what does not fit, with both shapes.

    Raises:
        MotiontuneError: if the vectors' dtype, shape or values, or the mask's, do not fit the clip and its grid.
    """
    if not np.issubdtype(vectors.dtype, np.floating):
        raise MotiontuneError(f"{path}: vectors must be floats, not {vectors.dtype}")
    if valid.dtype != np.bool_ or valid.shape != vectors.shape[:-1]:
        raise MotiontuneError(
            f"{path}: valid must be bool {vectors.shape[:-1]} like its vectors, not {valid.dtype} {valid.shape}"
        )
    count = len(clip.frames)
    wanted = f"[{count} or {count - 1}, {grid.rows}, {grid.cols}, 2]"
    if vectors.ndim != 4 or vectors.shape[-1] != 2 or len(vectors) not in {count - 1, count, grid.frames}:
        raise MotiontuneError(f"{path}: vectors are {list(vectors.shape)}, {clip.path} needs {wanted} or dense ones")
    height, width = vectors.shape[1:3]
    if (height, width) != (grid.rows, grid.cols):
        aspect = (width / grid.width) / (height / grid.height) if height else 0.0
        if height < grid.rows or width < grid.cols or not 1 / ASPECT_TOLERANCE < aspect < ASPECT_TOLERANCE:
            raise MotiontuneError(
                f"{path}: vectors are {list(vectors.shape)}, neither {clip.path}'s grid {wanted} nor dense with the "
                f"proportions of its frame, {grid.height} x {grid.width}"
            )
    if not np.isfinite(vectors[valid]).all():
        raise MotiontuneError(f"{path}: a valid vector is not finite; mark it in valid, or mend it")


def _on_grid(
    vectors: NDArray[np.floating], valid: NDArray[np.bool_], grid: VideoGrid
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """One frame's vectors, dense or not, on the patch grid and in its pixels."""
    single = np.where(valid[..., None], vectors, 0).astype(np.float32)
    height, width = valid.shape
    if (height, width) == (grid.rows, grid.cols):
        return single, valid
    size = (grid.width, grid.height)
    # nearest, because a mean across the edge of a moving thing is the motion of nothing
    dense = cv2.resize(single, size, interpolation=cv2.INTER_NEAREST)
    known = cv2.resize(valid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    dense = dense * np.array([grid.width / width, grid.height / height], np.float32)
    median, share = patch_median(np.asarray(dense, np.float32), np.asarray(known, np.bool_), grid)
    return median, share >= 0.5


def motion_files(place: Path, form: Format) -> list[Path]:
    """The files that `write_motion` will write, replace or remove, as far as is known before."""
    about = place.with_name(place.name + ABOUT)
    if form == "npz":
        files = [place.with_name(f"{place.name}.npz")]
    elif form == "npy":
        files = [place.with_name(f"{place.name}.npy"), about]
    else:
        files = [place / f"00000.{form}", *_pairs_in(place), about]
    return list(dict.fromkeys([*files, *_found_before(place, form)]))


def _found_before(place: Path, form: Format) -> list[Path]:
    """What `find_motion` would take at a place instead of what is written there in some form."""
    names = {"npz": (), "npy": ("npz",)}.get(form, ("npz", "npy"))
    files = [place.with_name(f"{place.name}.{other}") for other in names]
    return [file for file in files if os.path.lexists(file)]


def has_motion(place: Path) -> bool:
    """Whether `find_motion` would take something at a place, a clip's with or without its suffix."""
    return bool(_found_before(place, "flo") or _pairs_in(place))


def _pairs_in(folder: Path) -> list[Path]:
    return [*folder.glob("*.flo"), *folder.glob("*.png")] if folder.is_dir() else []


def write_motion(
    place: Path, clip: Clip, field: MotionField, grid: VideoGrid, form: Format, /, **more: NDArray[np.generic]
) -> None:
    """Write a field as `file_motion` reads it: to `place` + ".npz" or ".npy", or to pairs in the folder `place`.

    Args:
        place: the place without a suffix; its folder is made.
        clip: the clip; a digest of it is kept, with a `.npz` in the file itself.
        field: the motion of its sampled frames.
        grid: its patches.
        form: `.flo` and KITTI's `.png` are dense, each patch's pixels alike.
        more: further arrays, which only a `.npz` can hold.

    Raises:
        OutputError: if a file cannot be written, or one that was not written by this is in the way.
    """
    digest = content_of(clip.path) if os.path.isfile(clip.path) else None
    if form == "npz":
        known = {} if digest is None else {"clip": np.array(digest)}
        write_npz(place.with_name(f"{place.name}.npz"), field, grid, **more, **known)
        return
    about = place.with_name(place.name + ABOUT)
    remove([about])  # it is about what was there
    if form == "npy":
        files = [place.with_name(f"{place.name}.npy")]
        write_npy(files[0], field)
    else:
        files = _write_pairs(place, field, grid, form)
    made = {"direction": field.direction, "size": [grid.height, grid.width], "times": field.times.tolist()}
    made |= {} if digest is None else {"clip": digest}
    made["files"] = [file_digest(file) for file in files]
    write_text(about, json.dumps(made, indent=1) + "\n")
    remove(_found_before(place, form))


def _write_pairs(folder: Path, field: MotionField, grid: VideoGrid, form: Literal["flo", "png"]) -> list[Path]:
    write = write_flo if form == "flo" else write_kitti_png
    remove(_pairs_in(folder))  # perhaps more than there will be now
    kept = slice(1, None) if field.direction == "past" else slice(0, -1)
    vectors, valid = field.vectors[kept], field.valid[kept]
    files = [folder / f"{number:05d}.{form}" for number in range(len(vectors))]
    for file, *pair in zip(files, vectors, valid, strict=True):
        dense, known = (np.repeat(np.repeat(a, grid.patch, axis=0), grid.patch, axis=1) for a in pair)
        write(str(file), dense, known)
    return files


def write_npz(path: Path, field: MotionField, grid: VideoGrid, **more: NDArray[np.generic]) -> None:
    """Write a field as this module reads it, whole or not at all.

    Args:
        path: the file, ending in ".npz".
        field: the motion of a clip's sampled frames.
        grid: its patches; their frame's size is written with them.
        more: further arrays, which reading passes over.
    """
    with write_whole(path) as unfinished, open(unfinished, "wb") as file:
        _save_npz(file, field, grid, more)


def npz_bytes(field: MotionField, grid: VideoGrid, clip: str) -> bytes:
    """What `write_motion` writes into a `.npz`: the same bytes for the same motion.

    Args:
        field: the motion of a clip's sampled frames.
        grid: its patches.
        clip: the digest of the clip.
    """
    data = io.BytesIO()
    _save_npz(data, field, grid, {"clip": np.array(clip)})
    return data.getvalue()


def _save_npz(file: IO[bytes], field: MotionField, grid: VideoGrid, more: Mapping[str, NDArray[Any]]) -> None:
    np.savez_compressed(
        file,
        allow_pickle=False,
        vectors=field.vectors,
        valid=field.valid,
        confidence=field.confidence,
        times=field.times,
        size=np.array([grid.height, grid.width]),
        source=np.array(field.source),
        direction=np.array(field.direction),
        **more,
    )


def write_npy(path: Path, field: MotionField) -> None:
    """Write a field's vectors as this module reads them, not a number where they are not valid; whole or not at all.

    A `.npy` keeps neither its direction nor its frame's size: prefer `write_npz`, or `write_motion`.
    """
    data = io.BytesIO()  # written to a file, numpy does not notice a disk that is full
    np.save(data, np.where(field.valid[..., None], field.vectors, np.float32(np.nan)), allow_pickle=False)
    write_bytes(path, data.getvalue())


def read_flo(path: str) -> Pairs:
    """Read a Middlebury .flo file: vectors float32 [H, W, 2] in pixels, and valid bool [H, W].

    Raises:
        MotiontuneError: if the file is not one, or is cut, or larger than a limit.
    """
    with open(path, "rb") as file:
        header = file.read(12)
        if len(header) < 12 or header[:4] != FLO_MAGIC.astype("<f4").tobytes():
            raise MotiontuneError(f"{path}: is not a .flo file")
        width, height = (int(number) for number in np.frombuffer(header, "<i4", 2, 4))
        if width < 1 or height < 1 or os.path.getsize(path) < 12 + 8 * width * height:
            raise MotiontuneError(f"{path}: is cut or damaged: it should hold {height} x {width} vectors")
        PIXELS.check(path, width * height)
        data = file.read(8 * width * height)
    vectors = np.frombuffer(data, "<f4").reshape(height, width, 2)
    valid = np.asarray((np.abs(vectors) < FLO_UNKNOWN).all(-1), np.bool_)
    return np.asarray(np.where(valid[..., None], vectors, 0), np.float32), valid


def write_flo(path: str, vectors: NDArray[np.float32], valid: NDArray[np.bool_] | None = None) -> None:
    """Write a Middlebury .flo file.

    Args:
        path: the file.
        vectors: float32 [H, W, 2], pixels.
        valid: bool [H, W]; pixels without flow get the format's mark for unknown.
    """
    height, width = vectors.shape[:2]
    known = vectors if valid is None else np.where(valid[..., None], vectors, 1e10)
    header = FLO_MAGIC.astype("<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    write_bytes(path, header + np.ascontiguousarray(known, "<f4").tobytes())


def read_kitti_png(path: str) -> Pairs:
    """Read KITTI's 16-bit .png: vectors float32 [H, W, 2] in pixels, in steps of 1/64, and valid bool [H, W].

    Raises:
        MotiontuneError: if the file is not a 16-bit picture with three channels, or is larger than a limit.
    """
    ARRAY_BYTES.check(path, os.path.getsize(path))
    data, picture = Path(path).read_bytes(), None
    if data.startswith(PNG_MAGIC):
        check_png(path, data)
        with contextlib.suppress(cv2.error):
            picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if picture is None or picture.dtype != np.uint16 or picture.ndim != 3 or picture.shape[2] != 3:
        raise MotiontuneError(f"{path}: is not a KITTI flow file (a 16-bit .png with three channels)")
    # OpenCV reads blue first: valid, y, x
    valid = np.asarray(picture[..., 0] > 0, np.bool_)
    vectors = (picture[..., :0:-1].astype(np.float32) - 32768) / 64
    return np.asarray(np.where(valid[..., None], vectors, 0), np.float32), valid


def write_kitti_png(path: str, vectors: NDArray[np.float32], valid: NDArray[np.bool_] | None = None) -> None:
    """Write KITTI's 16-bit .png.

    Args:
        path: the file.
        vectors: float32 [H, W, 2], pixels; rounded to 1/64, and cut at +-512.
        valid: bool [H, W]; None is all of them.
    """
    known = np.ones(vectors.shape[:2], np.bool_) if valid is None else valid
    steps = np.clip(np.rint(vectors * 64) + 32768, 0, 65535)
    picture = np.dstack([known, steps[..., 1], steps[..., 0]])
    picture = np.where(known[..., None], picture, 0).astype(np.uint16)
    done, encoded = cv2.imencode(".png", picture)
    if not done:
        raise MotiontuneError(f"{path}: cannot be written as a .png")
    write_bytes(path, encoded.tobytes())
