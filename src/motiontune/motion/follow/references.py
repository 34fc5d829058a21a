"""The reference of each vector, and so the velocity of what it describes.

FFmpeg exports where a block's reference lies, but not in which of several pictures. A vector goes with the camera
where that tells its candidates apart (`camera.py`). Of the others' candidates one stands the better, the more the
velocity that it implies is like the neighbours' and like the one before; the encoder's first reference has an
advantage, because it is the cheapest to name. A hole is filled from its neighbours, or with the velocity before.

Shapes: K candidate references, r x c points of the lattice over the decoded frame.
"""

import math

import numpy as np
from numpy.typing import NDArray

from motiontune.compiled import compiled
from motiontune.motion.follow.camera import SOON, Floats, explain, fit_camera, maps_since, part_of, sample
from motiontune.video.lattice import QUARTERS
from motiontune.video.vectors import Anchor, Lattice


Singles = NDArray[np.float32]

# How far two velocities may differ to be called alike: this share of the vector, and pixels, over the frames that the
# vector spans, and pixels per frame
LIKE_SHARE, LIKE_PIXELS, LIKE_PACE = 0.12, 0.35, 0.1
# What speaks for a candidate: a neighbour that fits with its own second reference counts less than with its first
NEIGHBOUR, BEFORE, FIRST = 0.6, 1.2, 0.35
# A vector shorter than this hardly tells its reference (pixels)
LEAST = 0.5
# The camera's motion is found from about so many points, at least so many with vectors
POINTS, MIN_POINTS = 200, 20
# The confidence of a velocity that comes from the neighbours, or from before, of that of the vectors
FILLED = 0.8
# The number of the candidate where there is no vector, or nothing is known of the references
NONE = -1


class References:
    """Chooses each vector's reference, and finds how the content moved since the anchor before, anchor by anchor.

    Args:
        lattice: the points of the vectors.
    """

    def __init__(self, lattice: Lattice) -> None:
        self.ambiguous = False  # whether a picture of the stream has several references
        self._size, self._spacing = (lattice.width, lattice.height), lattice.spacing
        self._rate = lattice.rate
        rows, cols = lattice.shape
        self._step = max(1, int(np.sqrt(rows * cols / POINTS)))
        self._points, self._vectors = np.empty((2, -(-rows // self._step) * -(-cols // self._step), 2))
        self._choice, self._with_camera = np.zeros((rows, cols), np.int8), np.zeros((rows, cols), np.bool_)
        self._displacement = np.zeros((rows, cols, 2))
        # of all anchors so far, with room for more
        self._number = 0
        self._times, self._cameras, self._moving = np.zeros(64), np.zeros((64, 2, 3)), np.zeros(64, np.bool_)
        # of the last anchor whose velocities are known, as far as they are
        self._after = False
        self._velocities: Singles = np.zeros((rows, cols, 2), np.float32)
        self._confidence: Singles = np.zeros((rows, cols), np.float32)

    def add(self, anchor: Anchor) -> tuple[NDArray[np.int8], Singles, Singles]:
        """Look at the next anchor.

        Returns:
            int8 [r, c], the number of the candidate, -1 where there is no vector or nothing is known of the
            references; float32 [r, c, 2], pixels per second; float32 [r, c], the velocity's confidence, 0 where it is
            not known. They must not be changed.
        """
        shifts, inter, k = anchor.shifts, anchor.inter, self._number
        self._make_room()
        self._times[k], self._number = anchor.time, k + 1
        chosen = np.full(inter.shape, NONE, np.int8)
        velocities: Singles = np.zeros((*inter.shape, 2), np.float32)
        confidence: Singles = np.zeros(inter.shape, np.float32)
        spans = anchor.time - anchor.candidates
        numbers = np.flatnonzero(spans > SOON)
        if not len(numbers):
            self._after &= not anchor.key
            return chosen, velocities, confidence
        self._with_camera[:] = False
        if self.ambiguous:
            self._look_at_camera(anchor, numbers)
        span = spans[numbers]
        earlier = (self._after, self._velocities, self._confidence)
        choose(shifts, inter, 1.0 / (span * self._rate), 1.0 / self._rate, *earlier, self._with_camera, self._choice)
        per_interval = 1.0 / (anchor.time - self._times[k - 1]) if k else 0.0
        move(
            shifts,
            inter,
            self._choice,
            1.0 / span,
            self._with_camera,
            self._displacement,
            per_interval,
            anchor.confidence,
            *earlier,
            velocities,
            confidence,
            numbers,
            chosen,
        )
        self._after, self._velocities, self._confidence = True, velocities, confidence
        return chosen, velocities, confidence

    def _look_at_camera(self, anchor: Anchor, numbers: NDArray[np.intp]) -> None:
        """Find the camera's motion since the anchor before, and the vectors that go with it."""
        shifts, inter, k = anchor.shifts, anchor.inter, self._number - 1
        size, spacing, times = self._size, self._spacing, self._times
        sampled = sample(shifts, inter, self._step, size, spacing, self._points, self._vectors)
        if sampled < MIN_POINTS:
            return
        back, cases = np.zeros((len(numbers), 2, 3)), np.zeros(len(numbers), np.intp)
        known = maps_since(anchor.candidates[numbers], k - 1, times, self._cameras, self._moving, back, cases)
        if not known:
            return
        back, cases, guess = back[:known], cases[:known], None
        if self._moving[k - 1]:
            share = (times[k] - times[k - 1]) / (times[k - 1] - times[k - 2])
            guess = part_of(self._cameras[k - 1], share)
        self._cameras[k] = fit_camera(self._points[:sampled], self._vectors[:sampled], back, guess)
        found = (self._choice, self._with_camera, self._displacement)
        self._moving[k] = explain(shifts, inter, size, spacing, back, cases, self._cameras[k], *found)
        if not self._moving[k]:
            self._with_camera[:] = False

    def _make_room(self) -> None:
        if self._number == len(self._times):
            arrays = (self._times, self._cameras, self._moving)
            self._times, self._cameras, self._moving = (np.concatenate([one, np.zeros_like(one)]) for one in arrays)


@compiled(
    "void(int16[:,:,::1], boolean[:,::1], float64[::1], float64, boolean, float32[:,:,::1], float32[:,::1],"
    "boolean[:,::1], int8[:,::1])"
)
def choose(
    shifts: NDArray[np.int16],
    inter: NDArray[np.bool_],
    paces: Floats,
    frame: float,
    after: bool,
    velocities: Singles,
    confidence: Singles,
    chosen: NDArray[np.bool_],
    choice: NDArray[np.int8],
) -> None:
    """Choose the candidate reference of each vector of a picture, by its neighbours and the velocity before.

    Args:
        shifts: int16 [r, c, 2], from each point to its reference in quarters of a pixel.
        inter: bool [r, c], whether the point has a vector.
        paces: [K], 1 / the number of frames from each candidate to this picture.
        frame: seconds from one frame to the next.
        after: whether there is an anchor before; the next two arrays are its.
        velocities: float32 [r, c, 2], pixels per second.
        confidence: float32 [r, c], 0 where the velocity is not known.
        chosen: bool [r, c], whether the vector's candidate is known already.
        choice: int8 [r, c], written for the other vectors: the number of the candidate.
    """
    rows, cols = inter.shape
    for i in range(rows):
        for j in range(cols):
            if not inter[i, j] or chosen[i, j]:
                continue
            choice[i, j] = 0
            x, y = shifts[i, j, 0] / QUARTERS, shifts[i, j, 1] / QUARTERS
            length = math.sqrt(x * x + y * y)
            if len(paces) == 1 or length <= LEAST:
                continue
            best = -1.0
            for n in range(len(paces)):
                strictness = 1.0 / ((LIKE_SHARE * length + LIKE_PIXELS) * abs(paces[n]) + LIKE_PACE)
                ux, uy = x * paces[n], y * paces[n]
                like = 0.0
                if after and confidence[i, j] > 0.0:
                    # velocities point the way that content went, vectors back to where it came from
                    dx, dy = ux + velocities[i, j, 0] * frame, uy + velocities[i, j, 1] * frame
                    like = max(1.0 - math.sqrt(dx * dx + dy * dy) * (0.5 * strictness), 0.0)
                if n > 0 and 1.0 + BEFORE * like <= best:
                    continue  # whatever the neighbours
                total, neighbours = 0.0, 0
                for side in range(4):
                    a, b = i + (-1, 0, 0, 1)[side], j + (0, -1, 1, 0)[side]
                    if a < 0 or b < 0 or a >= rows or b >= cols or not inter[a, b]:
                        continue
                    neighbours += 1
                    nx, ny = shifts[a, b, 0] / QUARTERS, shifts[a, b, 1] / QUARTERS
                    dx, dy = ux - nx * paces[0], uy - ny * paces[0]
                    off, rest = dx * dx + dy * dy, np.inf
                    for m in range(1, len(paces)):
                        dx, dy = ux - nx * paces[m], uy - ny * paces[m]
                        rest = min(rest, dx * dx + dy * dy)
                    with_first = 1.0 - math.sqrt(off) * strictness
                    with_other = NEIGHBOUR * (1.0 - math.sqrt(rest) * strictness)
                    total += max(max(with_first, with_other), 0.0)
                score = total / neighbours if neighbours > 0 else 0.0
                score += BEFORE * like
                if n == 0:
                    score += FIRST
                if score > best:
                    best = score
                    choice[i, j] = n


@compiled(
    "void(int16[:,:,::1], boolean[:,::1], int8[:,::1], float64[::1], boolean[:,::1], float64[:,:,::1], float64,"
    "float64, boolean, float32[:,:,::1], float32[:,::1], float32[:,:,::1], float32[:,::1], intp[::1], int8[:,::1])"
)
def move(
    shifts: NDArray[np.int16],
    inter: NDArray[np.bool_],
    choice: NDArray[np.int8],
    per_span: Floats,
    with_camera: NDArray[np.bool_],
    displacement: Floats,
    per_interval: float,
    reliability: float,
    after: bool,
    earlier: Singles,
    earlier_confidence: Singles,
    velocities: Singles,
    confidence: Singles,
    numbers: NDArray[np.intp],
    chosen: NDArray[np.int8],
) -> None:
    """Write a picture's velocities: those of its vectors, and in its holes those of their neighbours or from before.

    Args:
        shifts: int16 [r, c, 2], from each point to its reference in quarters of a pixel.
        inter: bool [r, c], whether the point has a vector.
        choice: int8 [r, c], the number of each vector's candidate.
        per_span: [K], 1 / the seconds from each candidate to this picture.
        with_camera: bool [r, c], whether the displacement is to be taken for the vector.
        displacement: [r, c, 2], from the points to where their content was in the anchor before, pixels.
        per_interval: 1 / the seconds since the anchor before.
        reliability: the confidence of the picture's vectors.
        after: whether there is an anchor before; the next two arrays are its.
        earlier: float32 [r, c, 2], pixels per second.
        earlier_confidence: float32 [r, c], 0 where the velocity is not known.
        velocities: float32 [r, c, 2], written where known.
        confidence: float32 [r, c], written where known.
        numbers: [K], of the candidates, in the order of the picture's list.
        chosen: int8 [r, c], written: the number of each vector's candidate in that list.
    """
    rows, cols = inter.shape
    for i in range(rows):
        for j in range(cols):
            if not inter[i, j]:
                continue
            if with_camera[i, j]:
                velocities[i, j, 0] = -displacement[i, j, 0] * per_interval
                velocities[i, j, 1] = -displacement[i, j, 1] * per_interval
            else:
                velocities[i, j, 0] = -(shifts[i, j, 0] / QUARTERS) * per_span[choice[i, j]]
                velocities[i, j, 1] = -(shifts[i, j, 1] / QUARTERS) * per_span[choice[i, j]]
            confidence[i, j] = reliability
            chosen[i, j] = numbers[choice[i, j]]
    for i in range(rows):
        for j in range(cols):
            if inter[i, j]:
                continue
            sx, sy, neighbours = 0.0, 0.0, 0
            for a in range(max(i - 1, 0), min(i + 2, rows)):
                for b in range(max(j - 1, 0), min(j + 2, cols)):
                    if inter[a, b]:
                        sx += velocities[a, b, 0]
                        sy += velocities[a, b, 1]
                        neighbours += 1
            if neighbours >= 3:
                velocities[i, j, 0], velocities[i, j, 1] = sx / neighbours, sy / neighbours
            elif after and earlier_confidence[i, j] > 0.0:
                velocities[i, j, 0], velocities[i, j, 1] = earlier[i, j, 0], earlier[i, j, 1]
            else:
                continue
            confidence[i, j] = reliability * FILLED
