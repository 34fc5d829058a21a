"""What users import from motiontune itself: found, light to import, and shown in a notebook without drowning it."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import motiontune
from make_clips import pan_clip
from motiontune import Clip, MotionField, MotionOptions, VideoGrid, motion_of, read_clip


PATH = str(pan_clip("h264", ".mp4"))


def python(code: str) -> str:
    """Run code in a process that has imported nothing, and return what it printed."""
    source = str(Path(motiontune.__file__).parents[1])
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": source}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_each_public_name_is_the_thing_in_its_room():
    light = [name for name in motiontune.__all__ if not name.startswith(("MotionModel", "__"))]
    for name in light:
        thing = getattr(motiontune, name)
        assert getattr(importlib.import_module(thing.__module__), name) is thing
    assert set(motiontune.__all__) <= set(dir(motiontune))
    assert {"Clip", "read_clip", "VideoGrid", "MotionField", "motion_of", "MotionModel", "MotionPrediction"} <= set(
        motiontune.__all__
    )
    with pytest.raises(AttributeError, match="no attribute 'Motion'"):
        _ = motiontune.Motion


def test_editors_see_the_same_names_as_users():
    """What is imported for type checkers alone is what is loaded on use."""
    source = Path(motiontune.__file__).read_text("utf-8")
    for name, module in motiontune._PLACES.items():
        assert f"    from motiontune.{module} import {name} as {name}\n" in source
    assert {*motiontune._PLACES, "__version__"} == set(motiontune.__all__)


def test_importing_motiontune_loads_nothing_until_a_name_is_used():
    found = python(
        "import sys, motiontune\n"
        "heavy = {'numpy', 'torch', 'cv2', 'av', 'llamafactory', 'importlib.metadata'}\n"
        "print(heavy & set(sys.modules) or 'nothing', motiontune.__version__)\n"
        "from motiontune import Clip, MotionField, VideoGrid, motion_of, read_clip\n"
        "print('torch' in sys.modules, 'llamafactory' in sys.modules)"
    )
    first, then = found.splitlines()
    assert first.split()[0] == "nothing" and first.split()[1][0].isdigit()
    assert then == "False False"


def test_importing_takes_less_than_a_tenth_of_a_second():
    """In processor time, which other load on the machine does not change much; the fastest of three."""
    code = "import time; start = time.process_time(); import motiontune; print(time.process_time() - start)"
    assert min(float(python(code)) for _ in range(3)) < 0.1


def test_drawing_imports_no_other_room():
    found = python(
        "import importlib, pkgutil, sys, motiontune.drawing as drawing\n"
        "for module in pkgutil.iter_modules(drawing.__path__):\n"
        "    importlib.import_module(f'motiontune.drawing.{module.name}')\n"
        "print(*sorted(name for name in sys.modules if name.startswith('motiontune.')))"
    ).split()
    assert "motiontune.drawing.films" in found
    assert {name for name in found if not name.startswith("motiontune.drawing")} <= {
        "motiontune.errors",
        "motiontune.files",
    }


def test_the_viewer_never_imports_llamafactory():
    """Not even for type checkers: it knows a model by a protocol."""
    for file in Path(motiontune.__file__).parent.joinpath("viewer").glob("*.py"):
        assert "motiontune.llamafactory" not in file.read_text("utf-8"), file


def test_the_motion_of_a_clip_in_three_lines():
    clip = read_clip(PATH, fps=7.0, with_vectors=True)
    field = motion_of(clip)
    assert field.vectors.shape == (len(clip.frames), 10, 12, 2) and field.vectors.dtype == np.float32
    assert field.source == "codec+flow"
    grid = VideoGrid.for_size(*clip.frames.shape[:3])
    assert (grid.height, grid.width, grid.temporal_patch) == (140, 168, 1)  # 128 x 160 in whole tokens of 28 px
    np.testing.assert_array_equal(field.vectors, motion_of(clip, grid).vectors)
    assert motion_of(clip, options=MotionOptions("flow")).source == "flow"


def test_the_grid_of_a_size():
    assert VideoGrid.for_size(3, 1, 70) == VideoGrid(3, 2, 4, temporal_patch=1)  # at least one token, 2.5 to the even
    assert VideoGrid.for_size(3, 64, 32, patch=16, merge=1) == VideoGrid(3, 4, 2, 16, 1, 1)


def pixels(png: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image[..., ::-1]


def test_a_field_and_a_clip_show_themselves():
    clip = read_clip(PATH, fps=7.0, with_vectors=True)
    field = motion_of(clip)
    count, share = len(clip.frames), round(100 * field.valid[1:].mean())
    assert repr(field) == f"MotionField({count} frames of 10 x 12 patches, codec+flow, past, {share}% valid)"
    assert repr(clip).endswith(f", {count} frames of 160x128 px to {clip.times[-1]:.2f} s, h264, with vectors)")
    assert repr(clip).startswith(f"Clip({PATH!r}")
    still = MotionField(0 * field.vectors, field.valid, field.times, "x")
    colours = [np.ptp(pixels(one._repr_png_())[40:-70].astype(int), axis=-1).mean() for one in (field, still)]
    assert colours[0] > 10 * colours[1]
    shown = pixels(clip._repr_png_())
    plain = pixels(Clip(clip.path, 0 * clip.frames, clip.times, clip.indices, clip.info)._repr_png_())
    assert shown.shape == plain.shape and (plain[100, 30:200] == 0).all() and (shown[100, 30:200] > 0).any()


def test_a_field_is_drawn_on_frames_of_any_size():
    clip = read_clip(PATH, fps=7.0, with_vectors=True)
    grid = VideoGrid.for_size(*clip.frames.shape[:3])
    field = motion_of(clip, grid)
    drawn, black = (np.asarray(field.plot(frames, patch=grid.patch)) for frames in (clip.frames, 0 * clip.frames))
    assert drawn.shape == black.shape and 0.3 < (drawn != black).any(axis=-1).mean() < 1
    sized = np.stack([cv2.resize(frame, (grid.width, grid.height)) for frame in 0 * clip.frames])
    np.testing.assert_array_equal(np.asarray(field.plot(sized)), black)  # of the grid's size, the patch is known
    with pytest.raises(ValueError, match="frames do not fit"):
        field.plot(clip.frames[:-1])
