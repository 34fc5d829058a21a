"""The camera's motion: what most of a picture's vectors agree on, once each leads to the right one of its candidates.

Where a picture has several references, its vectors alone say little: those of a steady pan fit any reference if only
neighbours are compared, and where the camera shakes, a vector to an older picture is no multiple of one to the newest.
The motion between the references, which is known by then, tells them apart: taken off, each vector says how the
content moved since the anchor before, and under the right candidates all of them say the same.

A camera's motion is an affine map, float64 [3, 3], from positions in an anchor to those in the anchor before, in
pixels from the middle of the frame. Shapes: K candidates, N points.
"""

import numpy as np
from numpy.typing import NDArray

from motiontune.motion.kernels import OTHER_REFERENCE as OTHER


Floats = NDArray[np.float64]

# Vectors further off than this count little (pixels), round by round: first of those to the first candidate, for a
# start from nothing; then of all
COARSE, FINE = (16.0, 4.0), (3.0, 1.0)
# A guess is good if it explains this share of the vectors, and this share as leading to the first candidate: half of
# the motion over twice the time would explain as many, but as leading to others
GOOD, FIRST = 0.5, 0.2
# Keeps the map from turning and scaling where there is little to go by (pixels squared)
STIFF = np.diag([40.0, 40.0, 1e-9])
STILL: Floats = np.eye(3)


def part_of(camera: Floats, part: float) -> Floats:
    """The motion in a part of the time."""
    return STILL + part * (camera - STILL)


def fit_camera(points: Floats, shifts: Floats, back: Floats, guess: Floats | None) -> Floats:
    """Find the motion that most vectors agree on.

    Args:
        points: [N, 2].
        shifts: [N, 2], from the points to the reference.
        back: [K, 3, 3], the camera's motion from each candidate to the anchor before.
        guess: the motion as it would be if the camera went on as before.
    """
    design = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    # what the vectors say of the motion since the anchor before, if they lead to each candidate
    there = np.concatenate([points + shifts, design[:, 2:]], axis=1)
    way = (there @ back[:, :2].transpose(0, 2, 1)) - points
    start = STILL.copy()
    start[:2, 2] = np.median(way[0], axis=0)
    starts = [(start, [(scale, 1) for scale in COARSE])]
    if guess is not None:
        starts.insert(0, (guess, []))
    each = np.arange(len(points))
    most, best = -1.0, STILL
    for camera, rounds in starts:
        for scale, count in [*rounds, *((scale, len(way)) for scale in FINE)]:
            error = (way[:count] - (design @ camera[:2].T - points)) / scale
            cost = 1 + error[..., 0] * error[..., 0] + error[..., 1] * error[..., 1]
            cost[1:] *= OTHER
            candidate = cost.argmin(0)
            weight = 1 / np.square(cost[candidate, each])
            weighted = (design * weight[:, None]).T
            total = weight.sum()
            camera = STILL.copy()
            camera[:2] += np.linalg.solve(weighted @ design + STIFF * total, weighted @ way[candidate, each]).T
        if total > most:
            most, best = total, camera
        if camera is best and total > GOOD * len(points) and (candidate == 0).sum() > FIRST * len(points):
            break
    return best
