"""All frames of a file, for films; training reads sampled ones."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from motiontune.video.container import frames_of, open_video


def all_frames(path: str, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """Every frame of a file in the order of presentation, resized: uint8 [height, width, 3], RGB.

    Raises:
        ClipError: if the file cannot be decoded.
    """
    with open_video(path) as (source, video):
        video.thread_type = "AUTO"
        for frame in frames_of(source, video):
            image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
            yield np.asarray(image, np.uint8)
