"""All frames of a file, for films; training reads sampled ones."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from motiontune.video.container import open_video, packets_of


def all_frames(path: str, width: int, height: int) -> Iterator[NDArray[np.uint8]]:
    """Every frame of a file in the order of presentation, resized: uint8 [height, width, 3], RGB.

    Raises:
        ClipError: if the file cannot be decoded.
    """
    with open_video(path) as (source, video):
        video.thread_type = "AUTO"
        for packet in packets_of(source, video):
            for frame in video.decode(packet):
                image = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
                yield np.asarray(image, np.uint8)
