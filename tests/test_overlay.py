"""Films of clips with their motion: which frame shows which motion, how large they are, what is left on errors."""

from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from make_clips import pan_clip
from motiontune.drawing.films import frame_size, motion_between, write_film, write_overlay
from motiontune.drawing.panels import Panel
from motiontune.errors import ClipError
from motiontune.files import LIST
from motiontune.motion.field import MotionField
from motiontune.video.clip import read_clip
from motiontune.video.frames import all_frames
from motiontune.video.reader import FrameReader


CLIP = pan_clip("h264", ".mp4")
READER = FrameReader(fps=2.0)


def clip_and_field(direction="past", valid_frame=1, path=CLIP):
    """A field of which only one sampled frame has vectors, all to the right: red in both ways of showing."""
    clip = READER.read(str(path), False)
    grid = READER.grid_of(clip)
    valid = np.zeros((grid.frames, grid.rows, grid.cols), np.bool_)
    valid[valid_frame] = True
    vectors = np.where(valid[..., None], np.array([12.0, 0.0], np.float32), np.float32(0))
    return clip, grid, MotionField(vectors, valid, clip.times, "model", direction)


def write_all(path, clip, grid, panels, direction="past", text=None):
    """A film of every frame of a clip."""
    size = frame_size(clip.info.width, clip.info.height, len(panels))
    frames = motion_between(all_frames(clip.path, *size), clip.indices, direction)
    return write_overlay(path, frames, clip.info.average_rate, panels, grid.patch, text=text)


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


def red(pictures: np.ndarray) -> np.ndarray:
    """Share of plainly red pixels of each picture."""
    r, g, b = np.moveaxis(pictures.astype(int), -1, 0)
    return ((r - np.maximum(g, b)) > 60).mean(axis=(1, 2))


@pytest.mark.parametrize("show", ["arrows", "colours"])
@pytest.mark.parametrize("direction", ["past", "future"])
def test_a_frame_shows_the_motion_of_the_pair_that_it_lies_in(direction, show, tmp_path):
    clip, grid, field = clip_and_field(direction)
    panels = [Panel("a", field.vectors, field.valid, show), Panel("b", 0 * field.vectors, field.valid & False, show)]
    count = write_all(tmp_path / "film.mp4", clip, grid, panels, direction, "said")
    pictures = frames_of(tmp_path / "film.mp4")
    assert count == len(pictures) == len(read_clip(str(CLIP), fps=1000).frames)
    first, then = clip.indices[:2] if direction == "past" else clip.indices[1:3]
    numbers = np.arange(count)
    shown = (first < numbers) & (numbers <= then) if direction == "past" else (first <= numbers) & (numbers < then)
    height, width = pictures.shape[1:3]
    left, right = (red(pictures[:, 26 : 26 + 240, side]) for side in (slice(0, width // 2), slice(width // 2, None)))
    added = left - right  # the content of both panels is the same
    assert shown.sum() > 3 and (added[shown] > 0.02).all() and (np.abs(added[~shown]) < 0.01).all()


def test_the_size_and_the_text(tmp_path):
    clip, grid, field = clip_and_field()
    panels = [Panel("predicted", field.vectors, field.valid)]
    write_all(tmp_path / "short.mp4", clip, grid, panels, text="said")
    write_all(tmp_path / "none.mp4", clip, grid, panels, text="")
    write_all(tmp_path / "long.mp4", clip, grid, panels, text="word \n\b" * 80)
    short, none, long = (frames_of(tmp_path / f"{name}.mp4")[0] for name in ("short", "none", "long"))
    assert short.shape == none.shape == (26 + 240 + 52, 300, 3)  # a clip of 160 x 128, enlarged
    assert long.shape[0] > short.shape[0]
    assert (short[-50:, :100] > 200).sum() > 30 > (none[-50:, :100] > 200).sum()


def test_no_half_film_is_left(tmp_path):
    clip, grid, field = clip_and_field()
    (tmp_path / "gone.mp4").write_bytes(Path(CLIP).read_bytes()[:2000])
    broken = replace(clip, path=str(tmp_path / "gone.mp4"))
    with pytest.raises(ClipError, match=r"gone\.mp4"):
        write_all(tmp_path / "film.mp4", broken, grid, [Panel("predicted", field.vectors, field.valid)])
    assert [path.name for path in tmp_path.iterdir()] == ["gone.mp4"]


def test_a_film_has_an_even_size_and_at_least_a_picture(tmp_path):
    picture = np.full((51, 65, 3), 90, np.uint8)
    assert write_film(tmp_path / "film.mp4", [picture] * 3, rate=4.0) == 3
    assert frames_of(tmp_path / "film.mp4").shape == (3, 50, 64, 3)
    with pytest.raises(ValueError, match="needs a picture"):
        write_film(tmp_path / "none.mp4", [], rate=4.0)
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4", LIST}
