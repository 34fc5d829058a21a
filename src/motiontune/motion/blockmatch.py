"""Motion from an encoder used as a block matcher, for codecs without vectors and for frames given as images.

The sampled frames are encoded once more, with x264 and in memory, and the vectors that it found are read back. Unlike
optical flow it searches far: a large motion that flow's pyramid misses is found.

Shapes: r x c cells of 8 x 8 pixels, F, R, C frames, patch rows and patch columns, H, W height and width of a frame.
"""

from collections.abc import Collection, Iterator, Sequence
from fractions import Fraction
from typing import cast

import av
import cv2
import numpy as np
from av.codec.codec import UnknownCodecError
from av.video.codeccontext import VideoCodecContext
from numpy.typing import NDArray

from motiontune.errors import MotionUnavailable
from motiontune.grid import VideoGrid
from motiontune.motion.consensus import per_patch
from motiontune.motion.exposure import levelled
from motiontune.motion.field import STEP, Direction, MotionField
from motiontune.motion.pairs import neighbours, padded_times
from motiontune.video.clip import Clip
from motiontune.video.lattice import QUARTERS, spread
from motiontune.video.vectors import records_of


ENCODER = "libx264"
CELL = 8
# One reference, no B-frames and no key frame but the first, so that each frame is described by the one before it; a
# wide search; and nothing that serves only the eye
PARAMS = {
    "me": "umh",
    "merange": "64",
    "subme": "2",
    "cabac": "0",
    "qp": "20",
    "ref": "1",
    "bframes": "0",
    "scenecut": "0",
    "keyint": "infinite",
    "weightp": "0",
    "mbtree": "0",
    "aq-mode": "0",
    "rc-lookahead": "0",
    "psy": "0",
    "trellis": "0",
    "threads": "1",
}


def blockmatch_motion(
    clip: Clip,
    grid: VideoGrid,
    direction: Direction,
    frames: list[NDArray[np.uint8]],
    wanted: Collection[int] | None = None,
    smaller: int = 1,
) -> MotionField:
    """Find each patch of a sampled frame in the neighbouring one with x264's motion search.

    A vector's confidence is the share of its patch that the encoder predicted, less where the blocks disagree.

    Args:
        clip: the sampled frames.
        grid: the patch grid; its frames may outnumber the clip's by a repeated last one, which is invalid.
        direction: "past" or "future".
        frames: the clip's frames in gray, see `gray_frames`.
        wanted: the frames whose motion is to be found, the others' is invalid; None is all.
        smaller: frames are made smaller by this before they are searched: larger blocks find what small ones do not.

    Raises:
        MotionUnavailable: if this build of PyAV has no x264.
        ValueError: if the grid and the clip do not have the same frames.
    """
    times = padded_times(clip, grid)
    vectors = np.zeros((grid.frames, grid.rows, grid.cols, 2), np.float32)
    confidence = np.zeros(vectors.shape[:3], np.float32)
    step = STEP[direction]
    # each frame is matched with the one that was encoded before it
    pairs = {here: there for here, there in neighbours(clip, direction)[::-step] if wanted is None or here in wanted}
    order = [there for _, there in zip(range(1), pairs.values(), strict=False)]
    for here, there in pairs.items():
        order += [here] if there == order[-1] else [there, here]
    if pairs:
        try:
            matched = list(_match([_smaller(frame, smaller) for frame in levelled([frames[i] for i in order])]))
        except (av.error.FFmpegError, UnknownCodecError) as error:
            raise MotionUnavailable(f"{clip.path}: blockmatch needs PyAV with libx264 ({error})") from error
        for there, here, (to_reference, inter) in zip(order[:-1], order[1:], matched, strict=True):
            if pairs.get(here) != there:
                continue
            flow, confidence[here] = per_patch(*_points(to_reference, inter, grid, grid.patch / smaller), least=0.25)
            vectors[here] = np.float32(step * smaller) * flow
    return MotionField.from_confidence(vectors, confidence, times, "blockmatch", direction)


def _match(frames: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
    """For each frame but the first, the vectors from its cells to where they were in the frame before.

    Args:
        frames: uint8 [H, W] each.

    Yields:
        float32 [r, c, 2] in pixels, and bool [r, c], whether the encoder predicted the cell.
    """
    height, width = frames[0].shape
    down, right = -height % 16, -width % 16
    encoder = cast(VideoCodecContext, av.CodecContext.create(ENCODER, "w"))
    encoder.width, encoder.height, encoder.pix_fmt = width + right, height + down, "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
    encoder.options = {"x264-params": ":".join(f"{key}={value}" for key, value in PARAMS.items())}
    decoder = av.CodecContext.create("h264", "r")
    decoder.options = {"flags2": "+export_mvs", "skip_loop_filter": "all"}  # its pictures are not looked at
    decoder.thread_count = 1

    def packets() -> Iterator[av.Packet | None]:
        picture = np.full(((height + down) * 3 // 2, width + right), 128, np.uint8)
        for number, frame in enumerate(frames):
            picture[: height + down] = cv2.copyMakeBorder(frame, 0, down, 0, right, cv2.BORDER_REPLICATE)
            image = av.VideoFrame.from_ndarray(picture, format="yuv420p")
            image.pts = number
            yield from encoder.encode(image)
        yield from encoder.encode(None)
        yield None

    decoded = (frame for packet in packets() for frame in decoder.decode(packet))
    next(decoded)
    for frame in decoded:
        shifts = np.zeros(((height + down) // CELL, (width + right) // CELL, 2), np.int16)
        inter = np.zeros(shifts.shape[:2], np.bool_)
        spread(records_of(frame), CELL, 0, 0, shifts, inter)
        yield (shifts / np.float32(QUARTERS)).astype(np.float32), inter


def _smaller(frame: NDArray[np.uint8], by: int) -> NDArray[np.uint8]:
    height, width = frame.shape
    size = (-(-width // by), -(-height // by))
    return frame if by == 1 else np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)


def _points(
    to_reference: NDArray[np.float32], inter: NDArray[np.bool_], grid: VideoGrid, patch: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The cells' vectors at four points of each patch, and whether there is one.

    Args:
        to_reference: float32 [r, c, 2].
        inter: bool [r, c].
        grid: the patch grid.
        patch: side of a patch in the pixels that were searched.

    Returns:
        [R, C, 4, 2], and 0 or 1, [R, C, 4].
    """
    inside = (np.arange(2) + 0.5) / 2
    row = ((np.arange(grid.rows)[:, None] + inside) * patch / CELL).astype(np.int64)[:, None, :, None]
    col = ((np.arange(grid.cols)[:, None] + inside) * patch / CELL).astype(np.int64)[None, :, None, :]
    shape = (grid.rows, grid.cols, 4)
    points, good = to_reference[row, col].astype(np.float64), inter[row, col].astype(np.float64)
    return points.reshape(*shape, 2), good.reshape(shape)
