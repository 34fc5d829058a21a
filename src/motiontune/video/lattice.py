"""The vectors of a picture's blocks, as libavcodec exports them, on a lattice of points.

Shapes: N records, r x c points of the lattice over the decoded frame.
"""

import math

import numpy as np
from numba import boolean, from_dtype, int16, intp, types, void
from numpy.typing import NDArray

from motiontune.compiled import compiled


# libavutil's AVMotionVector
RECORD = np.dtype(
    [
        ("source", np.int32),
        ("w", np.uint8),
        ("h", np.uint8),
        ("src_x", np.int16),
        ("src_y", np.int16),
        ("dst_x", np.int16),
        ("dst_y", np.int16),
        ("flags", np.uint64),
        ("motion_x", np.int32),
        ("motion_y", np.int32),
        ("motion_scale", np.uint16),
    ],
    align=True,
)
# Vectors on the lattice count quarters of a pixel, as H.264's do
QUARTERS = 4


@compiled(
    void(
        types.Array(from_dtype(RECORD), 1, "C", readonly=True),
        *(intp, intp, intp),
        int16[:, :, ::1],
        boolean[:, ::1],
    )
)
def spread(
    records: NDArray[np.void],
    spacing: int,
    left: int,
    top: int,
    shifts: NDArray[np.int16],
    inter: NDArray[np.bool_],
) -> None:
    """Write the vectors of blocks to the lattice points that the blocks cover.

    Where blocks overlap (in damaged streams) the last one stays.

    Args:
        records: `RECORD` [N].
        spacing: pixels between neighbouring points.
        left: pixels that the frame lacks at its left, of those that the records count.
        top: the same at its top.
        shifts: int16 [r, c, 2], written: quarters of a pixel, to the block's reference.
        inter: bool [r, c], written: true where a point has a vector.
    """
    rows, cols = inter.shape
    half = spacing // 2
    for n in range(len(records)):
        record = records[n]
        scale = int(record.motion_scale)
        if record.source >= 0 or scale == 0:
            continue
        # half pixels in MPEG-1 and MPEG-2, quarters in H.264, either in MPEG-4
        x, y = int(record.motion_x) * QUARTERS // scale, int(record.motion_y) * QUARTERS // scale
        x, y = min(max(x, -32768), 32767), min(max(y, -32768), 32767)
        w, h = int(record.w), int(record.h)
        x0, y0 = int(record.dst_x) - w // 2 - left, int(record.dst_y) - h // 2 - top
        # the first point at or after the block's edge, and the one after it: blocks have at most 16 pixels
        col, row = int(math.ceil((x0 - half) / spacing)), int(math.ceil((y0 - half) / spacing))
        for r in range(max(row, 0), min(row + 2, rows)):
            if r * spacing + half >= y0 + h:
                break
            for c in range(max(col, 0), min(col + 2, cols)):
                if c * spacing + half >= x0 + w:
                    break
                shifts[r, c, 0] = x
                shifts[r, c, 1] = y
                inter[r, c] = True
