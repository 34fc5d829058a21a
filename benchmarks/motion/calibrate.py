"""Fit the weights of the confidence's evidence: scenes that scoring does not see, with their true motion.

    python benchmarks/motion/calibrate.py --cache build/rooms

prints `HIDDEN` and `WEIGHTS` of `motiontune/motion/confidence.py`. Each vector of codec, blockmatch and flow, before
and after refinement, is a sample: is it within `NEAR` of the truth? Every condition of `conditions.py` counts alike,
as do the flat scenes of `render.py` together and frames that nothing has encoded, but for `WEIGHT`; what moves by
itself counts `MOVING` times. Some of the weight is of vectors that are wrong on purpose, which sources seldom are in a
whole picture (`ON_PURPOSE`): zero, the block match shifted by one vector and chance, and things that are said to move
as what is around them does. With some evidence the probability only rises, with some it only falls: `RISE` and `FALL`.

Fits from other starts (`--start`) end as low, and differ in the vectors that samples seldom are like: of 0 to 3 number
0 does best on the real clips of `TUNED` (`real.py`); numbers 0 and 1 do what `tests/test_confidence.py` asks for.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import accuracy
import conditions
import cv2
import numpy as np
import render
import rooms
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus
from tqdm import tqdm

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.blockmatch import blockmatch_motion
from motiontune.motion.codec import codec_motion
from motiontune.motion.competition import FOLLOWED
from motiontune.motion.confidence import NEAR, Pair
from motiontune.motion.exposure import levelled
from motiontune.motion.field import MotionField
from motiontune.motion.flow import dis_flow, filled, flow_motion
from motiontune.motion.patches import gray_frames, patch_median
from motiontune.video.clip import Clip, clip_from_frames


ENCODINGS = ("vp9 crf38", "x264 crf23")
FLAT_ENCODINGS = ("vp9", "x264 default")
# Frames that no encoder and no noise has touched, as users render them: everything fits to the last bit, or not at all
CLEAN = ("hand", "small fast", "talking", "tripod bikes.mp4", "bare hand")
WEIGHT = {
    "flat": 2.0,
    "clean": 2.0,
    "tripod": 3.0,
    "ordinary": 4.0,
    "photos": 4.0,
    "cut": 1.5,
    "repeats": 3.0,
    "bare walls": 2.5,
    "dim photos": 2.0,
    "dim 2": 0.7,
}
# Seeds of more rooms of these conditions: two have few patterns, and few walls
MORE = {"repeats": (102, 103, 104), "bare walls": (102, 103)}
MOVING = 10.0
# The share of a condition's weight that vectors have which are wrong anywhere, and on things that move by themselves;
# what sources found has the rest. And the share of all three kinds that is taken
ON_PURPOSE = {"wrong": 0.1, "gone": 0.1}
TAKEN = {"found": 0.15, "wrong": 0.15, "gone": 1.0}
UNITS, STEPS, DECAY = 8, 900, 1e-5
# Kinds of evidence with which the probability only rises: how much better a patch fits than beside, alone and with
# those around it. And falls: the difference beside the texture, and brightness that nothing explains
RISE, FALL = (0, 1), (3, 5)
Floats = NDArray[np.float64]


def fields_of(clip: Clip, grid: VideoGrid, frames: list[NDArray[np.uint8]]) -> list[MotionField]:
    """What each source finds, with its own confidence."""
    fields = [blockmatch_motion(clip, grid, "past", frames, smaller=smaller) for smaller in (1, 2)]
    fields.append(flow_motion(clip, grid, "past", frames, "balanced"))
    try:
        fields.append(codec_motion(clip, grid, "past"))
    except MotionUnavailable:
        pass
    return fields


def samples_of(
    clip: Clip, grid: VideoGrid, true: conditions.Pool, random: np.random.Generator
) -> dict[str, list[Any]]:
    """Evidence, whether the vector is near the truth, its weight, and which of `TAKEN` it is of."""
    count = len(clip.frames)
    frames = gray_frames(clip, grid)
    level = levelled(frames)
    everywhere = np.ones((grid.height, grid.width), np.bool_)
    found = defaultdict(list)
    fields = fields_of(clip, grid, frames)
    for pair in range(count - 1):
        compared, scored = Pair(frames[pair + 1], frames[pair], grid.patch), true["scored"][pair]
        sure = np.ones(scored.shape, np.float32)
        candidates = []
        for field in fields:
            vectors, own = field.vectors[pair + 1], field.confidence[pair + 1]
            followed = field.source in FOLLOWED
            candidates.append((vectors, own, field.valid[pair + 1], followed, "found"))
            start = np.asarray(cv2.resize(-vectors, (grid.width, grid.height), interpolation=cv2.INTER_LINEAR))
            finer = -patch_median(dis_flow(level[pair + 1], level[pair], "balanced", start), everywhere, grid)[0]
            moved = np.linalg.norm(finer - vectors, axis=-1)
            kept = followed & field.valid[pair + 1] & (moved < NEAR)
            candidates.append((finer, own, np.ones_like(scored), kept, "found"))
        if pair % 3 == 0:
            angle, length = random.uniform(0, 2 * np.pi), random.uniform(5, 30)
            shift = length * np.float32([np.cos(angle), np.sin(angle)])
            first = fields[0].vectors[pair + 1]
            chance = random.normal(random.normal(0, 8), random.uniform(0.5, 8), first.shape).astype(np.float32)
            for vectors in (np.zeros_like(first), first + shift, chance):
                candidates.append((vectors, sure, np.ones_like(scored), False, "wrong"))
        if not true["moving"][pair].all():
            around = filled(true["vectors"][pair], ~true["moving"][pair])
            candidates.append((around, sure, true["moving"][pair], False, "gone"))
        for vectors, own, known, followed, kind in candidates:
            chosen = scored & known
            near = np.linalg.norm(vectors - true["vectors"][pair], axis=-1) < NEAR
            evidence = compared.evidence(-vectors, own)
            evidence[..., -1] = np.where(followed, 0.0, compared.repeats)
            found["evidence"].append(evidence[chosen].astype(np.float32))
            found["near"].append((near & ~true["cut"][pair])[chosen])
            found["weight"].append(np.where(true["moving"][pair], MOVING, 1.0)[chosen])
            found["kind"].append(np.full(chosen.sum(), list(TAKEN).index(kind)))
    return found


def fit(evidence: Floats, near: NDArray[np.bool_], weight: Floats, start: int) -> tuple[Floats, Floats]:
    """Fit `UNITS` hidden units and their sum: [UNITS, K + 1] and [UNITS + 1], the constants last."""
    torch.manual_seed(start)
    mean, deviation = evidence.mean(0), evidence.std(0) + 1e-9
    design = torch.tensor((evidence - mean) / deviation, dtype=torch.float32)
    target, weights = (torch.tensor(values, dtype=torch.float32) for values in (near, weight / weight.mean()))
    sign = torch.zeros(design.shape[1] + 1)
    sign[[*RISE]], sign[[*FALL]] = 1.0, -1.0
    free = [0.3 * torch.randn(UNITS, len(sign)), 0.3 * torch.randn(UNITS + 1)]
    optimizer = torch.optim.LBFGS(
        [one.requires_grad_() for one in free],
        max_iter=STEPS,
        max_eval=2 * STEPS,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def signed() -> tuple[Tensor, Tensor]:
        """The units, each of which only rises with some of the evidence and falls with some, and counts positive."""
        hidden = torch.where(sign != 0, sign * softplus(free[0] - 1), free[0])
        return hidden, torch.cat([softplus(free[1][:-1] + 1), free[1][-1:]])

    def loss() -> Tensor:
        optimizer.zero_grad()
        hidden, out = signed()
        logit = torch.tanh(design @ hidden[:, :-1].T + hidden[:, -1]) @ out[:-1] + out[-1]
        each = binary_cross_entropy_with_logits(logit, target, reduction="none")
        total = (weights * each).mean() + DECAY * (hidden.square().sum() + out.square().sum())
        total.backward()
        return total

    print("loss", optimizer.step(loss).item(), "to", loss().item())  # type: ignore[no-untyped-call]
    inner, out = (one.detach().double().numpy() for one in signed())
    scaled = inner[:, :-1] / deviation
    return np.column_stack([scaled, inner[:, -1] - scaled @ mean]), out


def cases(seeds: list[int], cache: Path) -> Iterator[tuple[str, Clip, VideoGrid, conditions.Pool]]:
    """Condition, clip, grid and truth of everything that is fitted on."""
    jobs = [
        (seed, condition, scene, look, encoding)
        for condition, clips in {**conditions.CONDITIONS, **conditions.of_photos(rooms.TUNED)}.items()
        for seed in (*seeds, *MORE.get(condition, ()))
        for scene, look in clips
        for encoding in ENCODINGS
    ]
    for seed, condition, scene, look, encoding in tqdm(jobs, unit="clip"):
        clip = conditions.load(scene, look, seed, encoding, cache)
        count = len(clip.frames)
        grid = VideoGrid(count + count % 2, conditions.ROWS, conditions.COLS, conditions.PATCH)
        yield condition, clip, grid, conditions.truth(scene, look, seed, tuple(clip.indices.tolist()))
    for name in render.SCENES:
        for encoding in FLAT_ENCODINGS:
            case = accuracy.load(name, seeds[0], encoding, "0.5 s", cache)
            nothing = np.zeros_like(case.truth.scored)
            true = {"vectors": case.truth.vectors, "scored": case.truth.scored, "moving": nothing, "cut": nothing}
            yield "flat", case.clip, case.grid, true
    for scene in CLEAN:
        for seed in (*seeds, 102):
            frames = list(rooms.room(scene, seed, "clean").frames)[::6]
            clip = clip_from_frames(frames, rooms.RATE / 6)
            grid = VideoGrid(len(frames), conditions.ROWS, conditions.COLS, conditions.PATCH)
            yield "clean", clip, grid, conditions.truth(scene, "clean", seed, tuple(range(0, rooms.FRAMES, 6)))


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101])
    parser.add_argument("--start", type=int, default=0, help="seed of the fit's first values")
    parser.add_argument("--cache", type=Path, required=True, help="keep encoded clips in this folder")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    random, thinning = np.random.default_rng(0), np.random.default_rng(0)
    pools: dict[str, dict[str, list[Any]]] = {}
    for condition, clip, grid, true in cases(args.seeds, args.cache):
        pool = pools.setdefault(condition, defaultdict(list))
        for key, value in samples_of(clip, grid, true, random).items():
            pool[key] += value
    parts = defaultdict(list)
    for condition, pool in pools.items():
        evidence, near, weight, kind = (np.concatenate(pool[key]) for key in ("evidence", "near", "weight", "kind"))
        shares = {name: share for name, share in ON_PURPOSE.items() if (kind == list(TAKEN).index(name)).any()}
        for number, (name, taken) in enumerate(TAKEN.items()):
            share = shares.get(name, 1 - sum(shares.values()))
            chosen = np.flatnonzero(kind == number)
            chosen = chosen[thinning.random(len(chosen)) < taken]
            parts["evidence"].append(evidence[chosen])
            parts["near"].append(near[chosen])
            parts["weight"].append(weight[chosen] / weight[chosen].sum() * WEIGHT.get(condition, 1.0) * share)
    hidden, out = fit(*(np.concatenate(parts[key]) for key in ("evidence", "near", "weight")), args.start)
    for name, rows in (("HIDDEN", hidden), ("WEIGHTS", out[None])):
        print(name, *(" ".join(f"{number:.3f}" for number in row) for row in rows), sep="\n")


if __name__ == "__main__":
    main()
