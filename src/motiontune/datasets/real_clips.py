"""Data sets of video files that are there, and clips cut out of longer videos."""

import importlib.util
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2

from motiontune.datasets.dataset_info import PROMPT, make_sample, write_dataset
from motiontune.errors import ConfigError
from motiontune.files import as_url, write_whole


def add_real_clips(
    out_dir: str | Path,
    paths: Iterable[str | Path],
    *,
    captions: Sequence[str] | str = "",
    name: str = "real",
    prompt: str = PROMPT,
) -> Path:
    """Enter video files in a data set of their own, under their absolute paths.

    Args:
        out_dir: the `dataset_dir`.
        paths: of the clips.
        captions: one for each clip, or one for all; empty where nobody knows.
        name: of the data set.
        prompt: the question; `<video>` is put before it where it isn't in it.

    Returns:
        The JSON file with the samples.

    Raises:
        ConfigError: if a file is missing, or the captions are not as many as the clips.
    """
    files = [Path(path) for path in paths]
    texts = [captions] * len(files) if isinstance(captions, str) else list(captions)
    if len(texts) != len(files):
        raise ConfigError(f"{len(files)} clips with {len(texts)} captions: give one each, or one for all")
    if missing := [str(file) for file in files if not file.is_file()]:
        raise ConfigError(f"no such file: {', '.join(missing)}")
    pairs = zip(files, texts, strict=True)
    samples = [make_sample(str(file.absolute()), prompt, text, id=file.stem) for file, text in pairs]
    return write_dataset(Path(out_dir), name, samples)


def write_real_clips(data: Path, caption: str) -> bool:
    """Cut one-second windows out of the videos that Gradio ships (LLaMA-Factory depends on it) into two data sets.

    They are written as H.264 with B-frames, MPEG-4 and VP9 in turn, as real data sets mix codecs.

    Args:
        data: the `dataset_dir`; the data sets are `real_train` and `real_heldout`.
        caption: of all of them.

    Returns:
        False where the videos are not installed.
    """
    spec = importlib.util.find_spec("gradio")
    folder = Path(spec.origin).parent / "media_assets" / "videos" if spec and spec.origin else Path()
    videos = [path for path in (folder / "world.mp4", folder / "b.mp4") if path.is_file()]
    if not videos:
        return False
    windows: list[Path] = []
    for video in videos:
        for second in range(1, 4) if video.name == "b.mp4" else range(2, 26, 3):
            codec, suffix = (("libx264", ".mp4"), ("mpeg4", ".avi"), ("libvpx-vp9", ".webm"))[len(windows) % 3]
            windows.append(data / "real" / f"{video.stem}_{second:02d}s{suffix}")
            cut(video, windows[-1], second, codec)
    held_out = windows[3::4]
    add_real_clips(data, [path for path in windows if path not in held_out], captions=caption, name="real_train")
    add_real_clips(data, held_out, captions=caption, name="real_heldout")
    return True


def cut(video: Path, out: Path, second: int, codec: str, width: int = 112, height: int = 56) -> None:
    """Write one second of a video, its middle cropped to 2:1, at 16 frames a second."""
    form = out.suffix.removeprefix(".")
    with (
        write_whole(out) as unfinished,
        av.open(as_url(video)) as source,
        av.open(as_url(unfinished), "w", format=form) as target,
    ):
        stream = cast(av.VideoStream, target.add_stream(codec, rate=16))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate, stream.time_base = 400_000, Fraction(1, 16)
        wanted = [second + k / 16 for k in range(16)]
        source.seek(int(second * av.time_base))
        for frame in source.decode(video=0):
            while wanted and (frame.time or 0.0) >= wanted[0] - 1e-6:
                image = frame.to_ndarray(format="rgb24")
                top = (image.shape[0] - image.shape[1] // 2) // 2
                image = cv2.resize(image[top : image.shape[0] - top], (width, height), interpolation=cv2.INTER_AREA)
                picture = av.VideoFrame.from_ndarray(image, format="rgb24")
                picture.pts, picture.time_base = 16 - len(wanted), stream.time_base
                target.mux(stream.encode(picture))
                wanted.pop(0)
            if not wanted:
                break
        target.mux(stream.encode(None))
