"""Frames written as clips whose vectors, where there are any, tell each block's place one frame before."""

from pathlib import Path
from typing import cast

import av
import numpy as np
from numpy.typing import NDArray

from motiontune.files import as_url, write_whole


# Container, pixel format and options per encoder. One reference and no B-frames: then each H.264 vector tells where
# the content was one frame before. Adaptive quantisation and psy options make vectors less true for better looks.
_X264 = "ref=1:bframes=0:weightp=0:scenecut=0:keyint=250:me=umh:merange=24:subme=7:qp=18:aq-mode=0:psy=0:threads=1"
ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    "libx264": (".mp4", {"x264-params": _X264}),
    "mpeg4": (".mp4", {"bf": "0", "g": "250", "qmin": "3", "qmax": "3", "mbd": "rd"}),
    "libvpx-vp9": (".webm", {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0"}),
}


def encode(path: Path, frames: NDArray[np.uint8], fps: int, codec: str) -> None:
    """Write frames as a video file.

    Args:
        path: the file, with the suffix of the codec's container.
        frames: uint8 [frames, height, width, 3] RGB.
        fps: frames per second.
        codec: one of ENCODERS.
    """
    form = path.suffix.removeprefix(".")
    with write_whole(path) as unfinished, av.open(as_url(unfinished), "w", format=form) as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=fps, options=ENCODERS[codec][1]))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1  # small frames: starting threads costs more than they save
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
