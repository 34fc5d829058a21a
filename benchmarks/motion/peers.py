"""What others do for the same field, under the conventions of `MotionField` with direction past.

None of them says which vectors are to be trusted: all are valid.
"""

import functools
from collections.abc import Callable
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.codec import has_vectors
from motiontune.motion.field import MotionField
from motiontune.motion.pairs import neighbours, padded_times
from motiontune.motion.patches import gray_frames, patch_median
from motiontune.video.clip import Clip


Peer = Callable[[Clip, VideoGrid], MotionField]
Gray = NDArray[np.uint8]

CELL = 8


def naive(clip: Clip, grid: VideoGrid) -> MotionField:
    """Accumulated vectors as CoViAR and its successors take them.

    Every vector to an earlier frame counts as if it led to the frame displayed just before, and a block without one as
    if it stood still. Each cell of a sampled frame is traced back frame by frame.

    Raises:
        MotionUnavailable: if FFmpeg exports no vectors of the clip's codec.
    """
    shifts = displayed_vectors(clip.path)
    scale = np.array([grid.width / clip.info.width, grid.height / clip.info.height], np.float32)
    rows, cols = -(-grid.height // CELL), -(-grid.width // CELL)
    start = np.stack(np.meshgrid(np.arange(cols), np.arange(rows)), axis=-1).astype(np.float32) * CELL + CELL / 2

    def way(here: int, there: int) -> NDArray[np.float32]:
        at = start.copy()
        for number in range(int(clip.indices[here]), int(clip.indices[there]), -1):
            cell = (at / scale // CELL).astype(np.int64)
            x, y = (cell[..., i].clip(0, shifts.shape[2 - i] - 1) for i in range(2))
            at += shifts[number, y, x] * scale
        cells = np.repeat(np.repeat(at - start, CELL, axis=0), CELL, axis=1)
        return np.asarray(cells[: grid.height, : grid.width], np.float32)

    return _field(clip, grid, way, "naive")


@functools.lru_cache(maxsize=2)
def displayed_vectors(path: str) -> NDArray[np.float32]:
    """For every frame in the order of display, from each cell to the frame before: float32 [frames, r, c, 2]."""
    found = []
    with av.open(path) as container:
        stream: Any = container.streams.video[0]
        codec = stream.codec_context.codec.canonical_name
        if not has_vectors(codec):
            raise MotionUnavailable(f"{codec} has no exported vectors")
        stream.thread_type = "SLICE"
        stream.codec_context.options = {"flags2": "+export_mvs"}
        for frame in container.decode(stream):
            shifts = np.zeros((-(-frame.height // 16) * 2, -(-frame.width // 16) * 2, 2), np.float32)
            side: Any = frame.side_data.get("MOTION_VECTORS")
            if side is not None:
                records = side.to_ndarray()
                records = records[records["source"] < 0]
                motion = np.stack([records["motion_x"], records["motion_y"]], -1) / records["motion_scale"][:, None]
                width, height = records["w"].astype(np.int64), records["h"].astype(np.int64)
                x, y = (records["dst_x"] - width // 2) // CELL, (records["dst_y"] - height // 2) // CELL
                for down, right in np.ndindex(2, 2):
                    part = (CELL * right < width) & (CELL * down < height)
                    shifts[y[part] + down, x[part] + right] = motion[part]
            found.append(shifts)
    return np.stack(found)


def _dense(flow: Callable[[Gray, Gray], NDArray[np.float32]], name: str) -> Peer:
    def peer(clip: Clip, grid: VideoGrid) -> MotionField:
        gray = gray_frames(clip, grid)
        return _field(clip, grid, lambda here, there: flow(gray[here], gray[there]), name)

    return peer


def _farneback(here: Gray, there: Gray) -> NDArray[np.float32]:
    # the arguments of OpenCV's tutorial, which most have copied
    return np.asarray(cv2.calcOpticalFlowFarneback(here, there, None, 0.5, 3, 15, 3, 5, 1.2, 0), np.float32)


def _dis(preset: int) -> Callable[[Gray, Gray], NDArray[np.float32]]:
    # a DIS object remembers earlier flows: one object per call
    return lambda here, there: np.asarray(cv2.DISOpticalFlow.create(preset).calc(here, there, None), np.float32)


def _field(clip: Clip, grid: VideoGrid, way: Callable[[int, int], NDArray[np.float32]], name: str) -> MotionField:
    """The median over each patch of dense ways [H, W, 2] from a frame to the one before."""
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    valid = np.zeros(vectors.shape[:3], np.bool_)
    everywhere = np.ones((grid.height, grid.width), np.bool_)
    for here, there in neighbours(clip, "past"):
        vectors[here] = -patch_median(way(here, there), everywhere, grid)[0]
        valid[here] = True
    return MotionField(vectors, valid, padded_times(clip, grid), name)


PEERS: dict[str, Peer] = {
    "naive": naive,
    "farneback": _dense(_farneback, "farneback"),
    "dis fast": _dense(_dis(cv2.DISOPTICAL_FLOW_PRESET_FAST), "dis fast"),
    "dis medium": _dense(_dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM), "dis medium"),
}
