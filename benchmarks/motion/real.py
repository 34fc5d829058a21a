"""How well does each source predict real clips? The motion-compensation error, which needs no ground truth.

    make clips ARGS=--all
    python benchmarks/motion/real.py

Clips are read as for training. Each patch of a sampled frame is fetched from the sampled frame before it, half a
second earlier, by its vector: all vectors count, valid or not, and a patch without one is taken to stand still. The
error is the mean difference of brightness (0 to 255), over all pixels of all frames; `error_valid` is that of the
valid patches, `error_where_auto` that of the patches of which `auto` (balanced) has valid vectors (the same ones for
every source, what appears or has gone apart), and `error_of_scenes` that of all patches of the pairs of frames that
show one scene. The source `still` is no motion at all.
"""

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from accuracy import VARIANTS
from loading import Loader, real_clips, write_results
from numpy.typing import NDArray
from peers import PEERS
from tqdm import tqdm

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.pairs import neighbours
from motiontune.motion.patches import gray_frames
from motiontune.motion.sources import SOURCES
from motiontune.video.clip import Clip


RESULTS = Path(__file__).parent / "results" / "real.json"
STILL, AUTO = ("still", None), ("auto", "balanced")
# Sampled frames that begin another scene, seen by eye
CUTS = {"Megamind.avi": (1, 13, 16), "bikes.mp4": (3, 6, 11, 15, 19), "cityCC0.mpg": (9,)}


def difference(
    here: NDArray[np.uint8], there: NDArray[np.uint8], way: NDArray[np.float32], grid: VideoGrid
) -> NDArray[np.float32]:
    """Mean difference of brightness between each patch and where its way [R, C, 2] leads, float32 [R, C]."""
    dense = np.repeat(np.repeat(way, grid.patch, axis=0), grid.patch, axis=1)
    y, x = np.mgrid[: grid.height, : grid.width].astype(np.float32)
    moved = cv2.remap(there, x + dense[..., 0], y + dense[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    apart = np.abs(moved.astype(np.float32) - here)
    return np.asarray(apart.reshape(grid.rows, grid.patch, grid.cols, grid.patch).mean(axis=(1, 3)), np.float32)


def compensated(clip: Clip, grid: VideoGrid, field: MotionField, auto: NDArray[np.bool_]) -> dict[str, Any]:
    """The figures of a field with direction past, made with `min_confidence=0`; `auto` is bool [F, R, C], where `auto`
    has valid vectors."""
    frames = gray_frames(clip, grid)
    valid = field.above(MotionOptions().min_confidence).valid
    pairs = neighbours(clip, "past")
    errors = np.stack([difference(frames[i], frames[j], -field.vectors[i], grid) for i, j in pairs])
    chosen, of_auto = (np.stack([known[i] for i, _ in pairs]) for known in (valid, auto))
    of_scene = np.array([i not in CUTS.get(Path(clip.path).name, ()) for i, _ in pairs])
    return {
        "pairs": len(pairs),
        "error": round(float(errors.mean()), 3),
        "error_valid": round(float(errors[chosen].mean()), 3) if chosen.any() else None,
        "error_where_auto": round(float(errors[of_auto].mean()), 3) if of_auto.any() else None,
        "error_of_scenes": round(float(errors[of_scene].mean()), 3),
        "valid_share": round(float(chosen.mean()), 4),
    }


def _field(clip: Clip, grid: VideoGrid, source: str, quality: str | None) -> MotionField:
    if source in PEERS:
        return PEERS[source](clip, grid)
    options = MotionOptions(source=source, quality=quality or "balanced")  # type: ignore[arg-type]
    return SOURCES[source](clip, grid, options, gray_frames(clip, grid))


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    loader = Loader()
    rows: list[dict[str, Any]] = []
    for path in tqdm(real_clips(args.clips), unit="clip"):
        clip = loader.read(path, with_vectors=True)
        grid = loader.grid_of(clip)
        auto = _field(clip, grid, *AUTO).above(MotionOptions().min_confidence).valid
        for source, quality in (STILL, *VARIANTS, AUTO, ("auto", "best")):
            row = {"clip": path.name, "codec": clip.info.codec, "source": source, "quality": quality}
            if source == "still":
                zero = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
                times = np.arange(grid.frames, dtype=np.float64)
                field = MotionField(zero, np.zeros(zero.shape[:3], np.bool_), times, "still")
            else:
                try:
                    field = _field(clip, grid, source, quality)
                except MotionUnavailable as error:
                    rows.append({**row, "reason": str(error).removeprefix(f"{path}: ")})
                    continue
            rows.append({**row, **compensated(clip, grid, field, auto)})
    write_results(args.out, {}, {"summaries": means(rows), "rows": rows})
    for mean in means(rows):
        print(mean)


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each source's mean errors over the clips of which every source has motion, each clip counting the same."""
    without = {row["clip"] for row in rows if "error" not in row}
    counted = [row for row in rows if row["clip"] not in without]
    names = dict.fromkeys((row["source"], row["quality"]) for row in rows)
    summaries = []
    for source, quality in names:
        mine = [row for row in counted if (row["source"], row["quality"]) == (source, quality)]
        kinds = ("error", "error_of_scenes", "error_where_auto")
        errors = {key: round(float(np.mean([row[key] for row in mine])), 3) for key in kinds}
        summaries.append({"source": source, "quality": quality, "clips": len(mine), **errors})
    return summaries


if __name__ == "__main__":
    main()
