"""Does the motion hold where light and motion are difficult? Rooms of `rooms.py` as Something-Something has them.

    python benchmarks/motion/conditions.py --cache build/rooms

scores seed 0 and writes results/conditions.json; what is tuned is tuned on other rooms, seeds from 100 on. Clips have
426 x 240 pixels and 12 frames a second, VP9 (crf 38) or x264 (crf 23), ordinary ones also crf 23 to 45 and veryslow,
and are sampled at 2 frames per second, on patches of 14 pixels.

A patch is scored where at least half of it is visible in the other frame and its visible pixels move alike; of a pair
across a cut every patch is, and every vector is wrong. "Wrong and sure" is the share of scored patches whose
confidence is above 0.5 while they are off by more than 5 px. `ece` is the expected calibration error: how far, on
average, the confidence is from the share of vectors within 3 px, in ten bins.

Of a hidden patch less than a quarter is visible in the other frame: nothing can be found there. That vectors of such
patches are valid, and off by more than 3 px from where the thing is, counts in columns of its own (`hidden_...`) and,
together with the scored ones, in `outliers_with_hidden`.
"""

import argparse
import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rooms
from accuracy import auc
from encoders import MORE_ENCODINGS, ROOM_ENCODINGS, encode
from loading import write_results
from numpy.typing import NDArray
from tqdm import tqdm

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion import pairs
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.patches import patch_median
from motiontune.motion.sources import motion_of
from motiontune.video.clip import Clip, read_clip


RESULTS = Path(__file__).parent / "results" / "conditions.json"
ALL_ENCODINGS = ROOM_ENCODINGS | MORE_ENCODINGS
PATCH, ROWS, COLS = 14, 18, 30
NEAR, FAR, SURE = 3.0, 5.0, 0.5
SEEN = 0.25  # of a patch; below it is hidden in the other frame
BINS = 10
PHOTO_LOOKS = {"photos": "", "dim photos": "dim 4"}
ORDINARY = ("walk", "pan", "hand", "cube", "small fast", "talking")


def of_photos(clips: Sequence[str]) -> dict[str, tuple[tuple[str, str], ...]]:
    """The conditions that show pictures of real clips."""
    still = tuple((f"tripod {clip}", ("clean", "")[number % 2]) for number, clip in enumerate(clips))
    held = {name: tuple((f"photo {clip}", look) for clip in clips) for name, look in PHOTO_LOOKS.items()}
    return {**held, "tripod": still}


# condition: (scene, look) of its clips
CONDITIONS: dict[str, tuple[tuple[str, str], ...]] = {
    "ordinary": tuple((scene, "") for scene in ORDINARY),
    **{look: (("walk", look), ("hand", look)) for look in rooms.LOOKS if look.startswith(("dim", "exposure"))},
    "fade": (("walk", "fade"),),
    "curved": (("globe", ""), ("balls", "")),
    "cloth": (("cloth", ""),),
    "rolling shutter": (("pan", "rolling"), ("hand", "rolling")),
    "shadow": (("walk", "shadow"),),
    "blur": (("pan", "blur"),),
    "repeats": (("repeats", ""),),
    "bare walls": (("bare pan", ""), ("bare hand", "")),
    "still, noise": (("still", "noise"),),
    "cut": (("walk", "cut"),),
    **of_photos(rooms.SCORED),
}
VARIANTS: tuple[tuple[str, str | None], ...] = (
    ("codec", None),
    ("codec+flow", "balanced"),
    ("blockmatch", None),
    ("blockmatch+flow", "balanced"),
    ("flow", "balanced"),
    ("auto", "fast"),
    ("auto", "balanced"),
    ("auto", "best"),
)
Pool = dict[str, NDArray[Any]]


def load(scene: str, look: str, seed: int, encoding: str, cache: Path) -> Clip:
    """A room's clip, encoded unless the cache has it."""
    path = cache / f"{scene} {look} {seed} {encoding}{ALL_ENCODINGS[encoding].suffix}".replace(" ", "_")
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"part_{path.name}")
        encode(rooms.room(scene, seed, look).frames, encoding, part, rooms.RATE).rename(path)
    return read_clip(str(path), fps=2.0, with_vectors=True)


@functools.lru_cache(maxsize=64)
def truth(scene: str, look: str, seed: int, shown: tuple[int, ...]) -> Pool:
    """The true motion of each pair's patches, direction past: `vectors` float32 [P, R, C, 2] in pixels of the grid,
    `scored`, `hidden`, `moving` and `cut`, bool [P, R, C]."""
    if look not in rooms.FLOWS:
        return truth(scene, rooms.FLOWS[0], seed, shown)
    room, grid = rooms.room(scene, seed, look), VideoGrid(2, ROWS, COLS, PATCH)
    scale = np.float32([grid.width / rooms.WIDTH, grid.height / rooms.HEIGHT])
    parts: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for before, number in zip(shown[:-1], shown[1:], strict=True):
        flow, seen, moving = room.flow(number, before)
        size = (grid.width, grid.height)
        flow = cv2.resize(flow, size, interpolation=cv2.INTER_NEAREST) * scale
        seen, moving = (
            cv2.resize(a.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for a in (seen, moving)
        )
        way, share = patch_median(flow, seen, grid)
        dense = np.repeat(np.repeat(way, PATCH, 0), PATCH, 1)
        alike = patch_median(flow, seen & (np.linalg.norm(flow - dense, axis=-1) < 2), grid)[1]
        cut = room.shows(number) is not room.shows(before)
        hidden = (share < SEEN) & ~np.bool_(cut)
        of_all = patch_median(flow, np.ones_like(seen), grid)[0]
        parts["vectors"].append(-np.where(hidden[..., None], of_all, way))
        parts["hidden"].append(hidden)
        parts["scored"].append(np.ones_like(share, np.bool_) if cut else (share >= 0.5) & (alike >= 0.75 * share))
        parts["moving"].append(patch_median(flow, moving, grid)[1] >= 0.5)
        parts["cut"].append(np.full(share.shape, cut))
    return {key: np.stack(value) for key, value in parts.items()}


def compare(field: MotionField, true: Pool) -> Pool:
    """The scored and the hidden patches of a field that was made with `min_confidence=0`."""
    error = np.linalg.norm(field.vectors[1:][: len(true["vectors"])] - true["vectors"], axis=-1)
    error = np.where(true["cut"], np.float32(1e3), error)
    confidence = field.confidence[1:][: len(error)]
    chosen = true["scored"] | true["hidden"]
    return {
        "hidden": true["hidden"][chosen],
        "error": error[chosen],
        "confidence": confidence[chosen],
        "moving": true["moving"][chosen],
        "cut": true["cut"][chosen],
        "length": np.linalg.norm(true["vectors"], axis=-1)[chosen],
    }


def calibration(confidence: NDArray[np.float32], near: NDArray[np.bool_]) -> tuple[float | None, list[list[float]]]:
    """The expected calibration error, and of each bin that is not empty the mean confidence, the share that is near,
    and the share of the vectors that are in it."""
    known = confidence > 0
    confidence, near = confidence[known], near[known]
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = []
    for number in range(BINS):
        chosen = place == number
        if chosen.any():
            bins.append([float(confidence[chosen].mean()), float(near[chosen].mean()), float(chosen.mean())])
    if not bins:
        return None, []
    ece = sum(share * abs(mean - found) for mean, found, share in bins)
    return round(ece, 4), [[round(number, 4) for number in one] for one in bins]


def figures(pool: Pool, least: float) -> dict[str, Any]:
    """The figures of a table; None where there is nothing to count."""
    all_wrong, all_valid, hidden = pool["error"] > NEAR, pool["confidence"] > least, pool["hidden"]
    error, confidence, cut, moving = (pool[key][~hidden] for key in ("error", "confidence", "cut", "moving"))
    valid = confidence > least
    one = valid & ~cut
    ece, bins = calibration(confidence, error < NEAR)
    return {
        "patches": len(error),
        "epe_valid": _mean(error[one]),
        "median_valid": round(float(np.median(error[one])), 4) if one.any() else None,
        "valid_share": _mean(valid[~cut]),
        "outliers_valid": _mean((error > NEAR)[valid]),
        "wrong_and_sure": _mean((confidence > SURE) & (error > FAR)),
        "cut_valid": _mean(valid[cut]),
        "hidden_patches": int(hidden.sum()),
        "hidden_valid_share": _mean(all_valid[hidden]),
        "hidden_outliers": _mean(all_wrong[all_valid & hidden]),
        "outliers_with_hidden": _mean(all_wrong[all_valid]),
        "moving_patches": int(moving.sum()),
        "moving_epe_valid": _mean(error[one & moving]),
        "moving_valid_share": _mean(valid[moving & ~cut]),
        "moving_outliers": _mean((error > NEAR)[one & moving]),
        "auc": auc(confidence, error < NEAR),
        "ece": ece,
        "bins": bins,
    }


def _mean(values: NDArray[Any]) -> float | None:
    return round(float(values.mean(dtype=np.float64)), 5) if len(values) else None


def measure(
    seeds: Sequence[int],
    conditions: Sequence[str],
    encodings: Sequence[str],
    variants: Sequence[tuple[str, str | None]],
    cache: Path,
    pools: dict[tuple[str, str | None, str, str], list[Pool]] | None = None,
) -> list[dict[str, Any]]:
    """Score every variant: a row for each condition and encoding, and one over all conditions."""
    pools = defaultdict(list) if pools is None else pools
    seconds: dict[tuple[str, str | None, str, str], list[float]] = defaultdict(list)
    jobs = [
        (seed, condition, scene, look, encoding)
        for seed in seeds
        for condition in conditions
        for scene, look in CONDITIONS[condition]
        for encoding in encodings
        if encoding not in MORE_ENCODINGS or condition == "ordinary"
    ]
    for seed, condition, scene, look, encoding in tqdm(jobs, unit="clip", smoothing=0):
        clip = load(scene, look, seed, encoding, cache)
        count = len(clip.frames)
        true = truth(scene, look, seed, tuple(clip.indices.tolist()))
        for source, quality in variants:
            key = (source, quality, encoding, condition)
            options = MotionOptions(source, quality=quality or "balanced", min_confidence=0)  # type: ignore[arg-type]
            started = time.process_time()
            try:
                field = motion_of(clip, VideoGrid(count + count % 2, ROWS, COLS, PATCH), options)
            except MotionUnavailable:
                continue
            seconds[key].append((time.process_time() - started) / (count - 1))
            pools[key].append(compare(field, true))
    least = MotionOptions().min_confidence
    rows = []
    for (source, quality, encoding, condition), parts in pools.items():
        row = {"condition": condition, "encoding": encoding, "source": source, "quality": quality}
        times = seconds[source, quality, encoding, condition]
        rows.append({**row, **figures(together(parts), least), "ms_per_pair": _milliseconds(times)})
    for source, quality, encoding in dict.fromkeys(key[:3] for key in pools):
        same = [key for key in pools if key[:3] == (source, quality, encoding)]
        parts, times = ([one for key in same for one in table[key]] for table in (pools, seconds))
        row = {"condition": "all", "encoding": encoding, "source": source, "quality": quality}
        rows.append({**row, **figures(together(parts), least), "ms_per_pair": _milliseconds(times)})
    return rows


def _milliseconds(seconds: Sequence[float]) -> float:
    return round(1000 * float(np.median(seconds)), 2)


def together(parts: Sequence[Pool]) -> Pool:
    """The patches of several clips as if they were of one."""
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Score and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="NAME")
    parser.add_argument("--encodings", nargs="+", choices=ALL_ENCODINGS, default=list(ALL_ENCODINGS))
    names = list(dict.fromkeys(name for name, _ in VARIANTS))
    parser.add_argument("--sources", nargs="+", choices=names, default=names, metavar="NAME")
    parser.add_argument("--cache", type=Path, help="keep encoded clips in this folder")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    pairs.THREADS = 1
    variants = [variant for variant in VARIANTS if variant[0] in args.sources]
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(args.seeds, args.conditions, args.encodings, variants, args.cache or Path(folder))
    write_results(args.out, {"seeds": args.seeds}, {"rows": rows})
    show(rows)


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print the table."""
    keys = (
        "epe_valid",
        "valid_share",
        "outliers_valid",
        "wrong_and_sure",
        "moving_epe_valid",
        "moving_valid_share",
        "auc",
        "ece",
    )
    for row in sorted(rows, key=lambda row: (row["source"], row["quality"] or "", row["encoding"])):
        name = f"{row['source']} {row['quality'] or ''}"
        cells = " ".join("    -  " if row[key] is None else f"{row[key]:7.4f}" for key in keys)
        print(f"{name:25}{row['encoding']:14}{row['condition']:16}{cells}")


if __name__ == "__main__":
    main()
