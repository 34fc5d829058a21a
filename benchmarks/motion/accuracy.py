"""How true is the motion of each source? Rendered scenes, encoded in sixteen ways, against their exact flow.

    python benchmarks/motion/accuracy.py --cache build/motion

scores seed 0 and writes results/accuracy.json. What is tuned is tuned on other content: seeds from 100. The cache
keeps the encoded clips between runs; clear it when render.py or encoders.py change.

Frames are nine, half a second apart, or ten that follow each other ("adjacent"), all of 640 x 352 pixels.

A patch is scored where at least half of it is visible in the other frame and one layer makes three quarters of that;
its truth is the median flow of its visible pixels. Figures of "valid" patches are at motiontune's default
`min_confidence`, those of "all" take every vector that there is, and zero where there is none. Times are
the processor's, of one thread and without decoding.
"""

import argparse
import functools
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from encoders import ENCODINGS, PRECISE, encode
from loading import write_results
from numpy.typing import NDArray
from peers import PEERS, displayed_vectors
from render import FRAMES, NOISE, RATE, SCENES, Scene, scene
from tqdm import tqdm

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion import pairs
from motiontune.motion.field import MotionField
from motiontune.motion.options import MotionOptions
from motiontune.motion.patches import patch_median
from motiontune.motion.sources import SOURCES, motion_of
from motiontune.video.clip import Clip, read_clip


RESULTS = Path(__file__).parent / "results" / "accuracy.json"
GAPS = ("0.5 s", "adjacent")
PANS = ("pan 3,-2", "pan 2.25,0.75", "pan 1.37,-0.61")
PAN_ENCODINGS = (*PRECISE, "x264 default")
# (source, quality); None where there is no choice
VARIANTS: tuple[tuple[str, str | None], ...] = (
    ("codec", None),
    ("codec+flow", "balanced"),
    ("codec+flow", "best"),
    ("blockmatch", None),
    ("blockmatch+flow", "balanced"),
    ("blockmatch+flow", "best"),
    ("flow", "balanced"),
    ("flow", "best"),
    *((name, None) for name in PEERS),
)

VARIANT_SOURCES = tuple(dict.fromkeys(name for name, _ in VARIANTS))


@dataclass(frozen=True)
class Truth:
    """The true motion of the pairs of a clip that are scored: P pairs on R x C patches.

    Args:
        frames: int64 [P], which of the clip's frames the vectors belong to.
        vectors: float32 [P, R, C, 2] in pixels, direction past.
        scored: bool [P, R, C].
    """

    frames: NDArray[np.int64]
    vectors: NDArray[np.float32]
    scored: NDArray[np.bool_]


@dataclass(frozen=True)
class Case:
    """A clip to make motion of, and the truth."""

    clip: Clip
    grid: VideoGrid
    truth: Truth


@dataclass(frozen=True)
class Scores:
    """How N scored patches of some pairs fared.

    Args:
        error: float32 [N], length of the difference to the true vector in pixels.
        length: float32 [N], length of the true vector in pixels.
        valid: bool [N], whether the confidence is above the threshold.
        confidence: float32 [N].
        pairs: number of pairs.
        seconds: what the motion took.
    """

    error: NDArray[np.float32]
    length: NDArray[np.float32]
    valid: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    pairs: int
    seconds: float


@dataclass(frozen=True)
class Figures:
    """The figures of a table; None where there is nothing to count."""

    pairs: int
    patches: int
    epe_valid: float | None
    epe_all: float | None
    median_valid: float | None
    outliers_valid: float | None
    valid_share: float | None
    auc: float | None
    ms_per_pair: float | None


def load(name: str, seed: int, encoding: str, gap: str, cache: Path) -> Case:
    """A scene's clip in one encoding, encoded unless the cache has it."""
    made = _scene(name, seed)
    suffix = (ENCODINGS | PRECISE)[encoding].suffix
    path = cache / f"{name} {seed} {encoding}{suffix}".replace(" ", "_")
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{os.getpid()}_{path.name}")  # a run beside this one must not read half a file
        encode(_frames(made), encoding, part, RATE).rename(path)
    shown = _shown(gap)
    if gap == "adjacent":
        clip = read_clip(str(path), fps=2 * RATE, max_frames=FRAMES, with_vectors=True)
        clip = replace(clip, frames=clip.frames[shown], times=clip.times[shown], indices=clip.indices[shown])
    else:
        clip = read_clip(str(path), fps=RATE, max_frames=len(shown), with_vectors=True)
    if clip.indices.tolist() != shown.tolist():
        raise ValueError(f"{path.name} has frames {clip.indices.tolist()}, not {shown.tolist()}")
    return Case(clip, _grid(len(shown)), _truth(made, gap))


def score(field: MotionField, truth: Truth, seconds: float = 0.0) -> Scores:
    """Compare a field, made with `min_confidence=0`, with the truth."""
    at, chosen = truth.frames, truth.scored
    valid = field.above(MotionOptions().min_confidence).valid
    error = np.linalg.norm(field.vectors[at] - truth.vectors, axis=-1)
    length = np.linalg.norm(truth.vectors, axis=-1)
    return Scores(error[chosen], length[chosen], valid[at][chosen], field.confidence[at][chosen], len(at), seconds)


def pooled(parts: Sequence[Scores]) -> Scores:
    """The patches of several clips as if they were of one."""
    arrays = {
        key: np.concatenate([getattr(part, key) for part in parts])
        for key in ("error", "length", "valid", "confidence")
    }
    return Scores(**arrays, pairs=sum(part.pairs for part in parts), seconds=sum(part.seconds for part in parts))


def figures(scores: Scores) -> Figures:
    """The figures of scored patches."""
    error, valid = scores.error, scores.valid
    outlier = (error > 3) & (error > 0.05 * scores.length)
    return Figures(
        scores.pairs,
        len(error),
        _mean(error[valid]),
        _mean(error),
        round(float(np.median(error[valid])), 4) if valid.any() else None,
        _mean(outlier[valid]),
        _mean(valid),
        auc(scores.confidence, error < 3),
        round(1000 * scores.seconds / scores.pairs, 2),
    )


def auc(confidence: NDArray[np.float32], good: NDArray[np.bool_]) -> float | None:
    """How often a good patch has more confidence than a bad one, ties counting half; None if there is one kind."""
    positive = int(good.sum())
    negative = len(good) - positive
    if not positive or not negative:
        return None
    _, place, count = np.unique(confidence, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2  # the mean of the ranks of equal ones
    return round(float((rank[place][good].sum() - positive * (positive + 1) / 2) / (positive * negative)), 4)


def _mean(values: NDArray[Any]) -> float | None:
    return round(float(values.mean(dtype=np.float64)), 4) if len(values) else None


def _grid(frames: int) -> VideoGrid:
    return VideoGrid(frames + frames % 2, 22, 40, 16)


def _shown(gap: str) -> NDArray[np.int64]:
    """The numbers of a clip's frames, int64. Adjacent ones are of a stretch in the middle, not pairs from everywhere:
    blockmatch encodes the frames that it is given, and would find other vectors."""
    return np.arange(48, 58) if gap == "adjacent" else np.arange(0, FRAMES, RATE // 2)


@functools.lru_cache(maxsize=4)
def _scene(name: str, seed: int) -> Scene:
    return scene(name, seed, 0 if name.startswith("pan ") else NOISE)


@functools.lru_cache(maxsize=1)
def _frames(made: Scene) -> list[NDArray[np.uint8]]:
    return list(made.frames)


@functools.lru_cache(maxsize=8)
def _truth(made: Scene, gap: str) -> Truth:
    shown = _shown(gap)
    frames = np.arange(1, len(shown))
    pairs = [_patches(made, int(shown[i]), int(shown[i - 1])) for i in frames]
    return Truth(frames, np.stack([vectors for vectors, _ in pairs]), np.stack([scored for _, scored in pairs]))


def _patches(made: Scene, here: int, there: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The true motion of patches since an earlier frame, float32 [R, C, 2], and which of them to score."""
    grid = _grid(2)
    flow, visible = made.flow(here, there)
    way, share = patch_median(flow, visible, grid)
    top = made.top(here)
    layers = [patch_median(flow, visible & (top == number), grid)[1] for number in range(len(made.layers))]
    return -way, (share >= 0.5) & (np.max(layers, axis=0) >= 0.75 * share)


def _run(case: Case, source: str, quality: str | None) -> Scores:
    """Make a case's motion by one source.

    Raises:
        MotionUnavailable: if the source has none for this clip.
    """
    if source == "naive":
        displayed_vectors(case.clip.path)  # decoding, which is not timed
    started = time.process_time()  # of all threads; what runs beside this one does not count
    if source in PEERS:
        field = PEERS[source](case.clip, case.grid)
    else:
        options = MotionOptions(source=source, quality=quality or "balanced", min_confidence=0)  # type: ignore[arg-type]
        field = motion_of(case.clip, case.grid, options)
    return score(field, case.truth, time.process_time() - started)


def main(arguments: Sequence[str] | None = None) -> None:
    """Score and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--encodings", nargs="+", choices=ENCODINGS, default=list(ENCODINGS), metavar="NAME")
    parser.add_argument("--sources", nargs="+", default=list(VARIANT_SOURCES))
    parser.add_argument("--scenes", nargs="+", default=[*SCENES, *PANS], metavar="NAME")
    parser.add_argument("--gap", nargs="+", choices=GAPS, default=list(GAPS))
    parser.add_argument("--cache", type=Path, help="keep encoded clips in this folder")
    parser.add_argument("--keep", type=Path, help="results whose rows of other sources (peers, say) stay as they are")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    pairs.THREADS = 1
    unknown = [name for name in args.sources if name not in SOURCES and name not in PEERS]
    if unknown:
        print(f"motiontune does not know {', '.join(unknown)}: left out")
    variants = [variant for variant in VARIANTS if variant[0] in args.sources and variant[0] not in unknown]
    with tempfile.TemporaryDirectory() as folder:
        rows, summaries = measure(args.seeds, args.scenes, args.encodings, args.gap, variants, args.cache or folder)
    about: dict[str, Any] = {"seed": args.seeds}
    if args.keep:
        kept = json.loads(args.keep.read_text("utf-8"))
        summaries += [row for row in kept["summaries"] if row["source"] not in args.sources]
        rows += [row for row in kept["rows"] if row["source"] not in args.sources]
        about["kept_from"] = {"date": kept["date"], "sources": [s for s in VARIANT_SOURCES if s not in args.sources]}
        if "kept_from" in kept:  # some of them were kept from earlier ones
            about["kept_from"]["kept_from"] = kept["kept_from"]
    write_results(args.out, about, {"summaries": summaries, "rows": rows})
    for gap in args.gap:
        print(table(summaries, gap))


def measure(
    seeds: Sequence[int],
    scenes: Sequence[str],
    encodings: Sequence[str],
    gaps: Sequence[str],
    variants: Sequence[tuple[str, str | None]],
    cache: Path | str,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Score every variant on every clip: a row for each clip, and a summary over the scenes (known pans left out)."""
    jobs = [
        (seed, name, encoding, gap)
        for seed in seeds
        for name in scenes
        for encoding in (PAN_ENCODINGS if name.startswith("pan ") else encodings)
        for gap in gaps
    ]
    rows, pools = [], defaultdict(list)
    cold = set(variants)
    for seed, name, encoding, gap in tqdm(jobs, unit="clip", smoothing=0):
        case = load(name, seed, encoding, gap, Path(cache))
        for source, quality in variants:
            row = {"source": source, "quality": quality, "encoding": encoding, "scene": name, "gap": gap, "seed": seed}
            try:
                if (source, quality) in cold:
                    _run(case, source, quality)  # what is made once per process is not timed
                    cold.discard((source, quality))
                scores = _run(case, source, quality)
            except MotionUnavailable as error:
                nothing = dict.fromkeys(Figures.__dataclass_fields__)
                rows.append({**row, **nothing, "reason": str(error).removeprefix(f"{case.clip.path}: ")})
                continue
            rows.append({**row, **asdict(figures(scores))})
            if name in SCENES:
                pools[source, quality, encoding, gap].append(scores)
    summaries = [
        {"source": source, "quality": quality, "encoding": encoding, "gap": gap, "clips": len(parts)}
        | asdict(figures(pooled(parts)))
        for (source, quality, encoding, gap), parts in pools.items()
    ]
    return rows, summaries


def table(summaries: Sequence[dict[str, Any]], gap: str) -> str:
    """EPE of valid patches, their share and the AUC, a line for each encoding and a column for each source."""
    cells = {
        (row["encoding"], f"{row['source']} {row['quality'] or ''}".strip()): " ".join(
            "-" if row[key] is None else f"{row[key]:.2f}" for key in ("epe_valid", "valid_share", "auc")
        )
        for row in summaries
        if row["gap"] == gap
    }
    lines, columns = (list(dict.fromkeys(key[i] for key in cells)) for i in range(2))
    widths = [max(len(column), 15) for column in columns]
    head = f"{gap:16}" + "".join(f"  {column:{width}}" for column, width in zip(columns, widths, strict=True))
    body = [
        f"{line:16}" + "".join(f"  {cells.get((line, c), '-'):{w}}" for c, w in zip(columns, widths, strict=True))
        for line in lines
    ]
    return "\n".join([head, *body])


if __name__ == "__main__":
    main()
