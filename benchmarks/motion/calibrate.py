"""Fit the weights of the confidence's evidence: rooms of `rooms.py` that scoring does not see, with their true motion.

    python benchmarks/motion/calibrate.py --cache build/rooms

prints `WEIGHTS` of `motiontune/motion/confidence.py`. Each vector of codec, blockmatch and flow, before and after
refinement, is a sample: is it within `NEAR` of the truth? Every condition counts alike, but for `WEIGHT`, and what
moves by itself `MOVING` times. A tenth of the weight is of vectors that are wrong on purpose, which sources seldom are
in a whole picture: zero, the block match shifted by one vector, chance.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import conditions
import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.blockmatch import blockmatch_motion
from motiontune.motion.codec import codec_motion
from motiontune.motion.confidence import NEAR, Pair
from motiontune.motion.field import MotionField
from motiontune.motion.flow import dis_flow, flow_motion
from motiontune.motion.patches import gray_frames, patch_median
from motiontune.video.clip import Clip


ENCODINGS = ("vp9 crf38", "x264 crf23")
WEIGHT = {"ordinary": 4.0, "cut": 1.5, "repeats": 5.0, "dim 2": 0.7}
MOVING, ON_PURPOSE = 6.0, 0.1
Floats = NDArray[np.float64]


def fields_of(clip: Clip, grid: VideoGrid, frames: list[NDArray[np.uint8]]) -> list[MotionField]:
    """What each source finds, with its own confidence."""
    fields = [blockmatch_motion(clip, grid, "past", frames), flow_motion(clip, grid, "past", frames, "fast")]
    try:
        fields.append(codec_motion(clip, grid, "past"))
    except MotionUnavailable:
        pass
    return fields


def samples_of(clip: Clip, true: conditions.Pool, random: np.random.Generator) -> dict[str, list[Any]]:
    """Evidence, whether the vector is near the truth, its weight, and whether it is wrong on purpose."""
    count = len(clip.frames)
    grid = VideoGrid(count + count % 2, conditions.ROWS, conditions.COLS, conditions.PATCH)
    frames = gray_frames(clip, grid)
    everywhere = np.ones((grid.height, grid.width), np.bool_)
    found = defaultdict(list)
    fields = fields_of(clip, grid, frames)
    for pair in range(count - 1):
        compared, scored = Pair(frames[pair + 1], frames[pair], grid.patch), true["scored"][pair]
        candidates = []
        for field in fields:
            vectors, own = field.vectors[pair + 1], field.confidence[pair + 1]
            candidates.append((vectors, own, field.valid[pair + 1], False))
            start = np.asarray(cv2.resize(-vectors, (grid.width, grid.height), interpolation=cv2.INTER_LINEAR))
            finer = -patch_median(dis_flow(frames[pair + 1], frames[pair], "fast", start), everywhere, grid)[0]
            candidates.append((finer, own, np.ones_like(scored), False))
        if pair % 3 == 0:
            angle, length = random.uniform(0, 2 * np.pi), random.uniform(5, 30)
            shift = length * np.float32([np.cos(angle), np.sin(angle)])
            first, own = fields[0].vectors[pair + 1], np.ones(scored.shape, np.float32)
            chance = random.normal(random.normal(0, 8), random.uniform(0.5, 8), first.shape).astype(np.float32)
            for vectors in (np.zeros_like(first), first + shift, chance):
                candidates.append((vectors, own, np.ones_like(scored), True))
        for vectors, own, known, on_purpose in candidates:
            chosen = scored & known
            near = np.linalg.norm(vectors - true["vectors"][pair], axis=-1) < NEAR
            found["evidence"].append(compared.evidence(-vectors, own)[0][chosen])
            found["near"].append((near & ~true["cut"][pair])[chosen])
            found["weight"].append(np.where(true["moving"][pair], MOVING, 1.0)[chosen])
            found["on_purpose"].append(np.full(chosen.sum(), on_purpose))
    return found


def fit(evidence: Floats, near: NDArray[np.bool_], weight: Floats) -> Floats:
    """Logistic regression by Newton's method: a weight for each kind of evidence, and the constant."""
    mean, deviation = evidence.mean(0), evidence.std(0) + 1e-9
    design = np.column_stack([(evidence - mean) / deviation, np.ones(len(evidence))])
    found = np.zeros(design.shape[1])
    for _ in range(30):
        probable = 1 / (1 + np.exp(-np.clip(design @ found, -30, 30)))
        slope = design.T @ (weight * (near - probable))
        curve = (design * (weight * probable * (1 - probable))[:, None]).T @ design
        step = np.linalg.solve(curve + 1e-6 * weight.sum() * np.eye(len(found)), slope)
        found += step
        if np.abs(step).max() < 1e-6:
            break
    scaled = found[:-1] / deviation
    return np.append(scaled, found[-1] - scaled @ mean)


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101])
    parser.add_argument("--cache", type=Path, required=True, help="keep encoded clips in this folder")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    pools: dict[str, dict[str, list[Any]]] = {}
    jobs = [
        (seed, condition, scene, look, encoding)
        for seed in args.seeds
        for condition, clips in conditions.CONDITIONS.items()
        for scene, look in clips
        for encoding in ENCODINGS
    ]
    for seed, condition, scene, look, encoding in tqdm(jobs, unit="clip"):
        clip = conditions.load(scene, look, seed, encoding, args.cache)
        true = conditions.truth(scene, look == "cut", seed, tuple(clip.indices.tolist()))
        pool = pools.setdefault(condition, defaultdict(list))
        for key, value in samples_of(clip, true, random).items():
            pool[key] += value
    parts = defaultdict(list)
    for condition, pool in pools.items():
        evidence, near, weight, on_purpose = (
            np.concatenate(pool[key]) for key in ("evidence", "near", "weight", "on_purpose")
        )
        for chosen, share in ((~on_purpose, 1 - ON_PURPOSE), (on_purpose, ON_PURPOSE)):
            parts["evidence"].append(evidence[chosen])
            parts["near"].append(near[chosen])
            parts["weight"].append(weight[chosen] / weight[chosen].sum() * WEIGHT.get(condition, 1.0) * share)
    evidence, near, weight = (np.concatenate(parts[key]) for key in ("evidence", "near", "weight"))
    print(
        "WEIGHTS =",
        tuple(round(float(number), 4) for number in fit(evidence, near, weight * len(weight) / weight.sum())),
    )


if __name__ == "__main__":
    main()
