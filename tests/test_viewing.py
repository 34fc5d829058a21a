"""Colour wheel, arrows and contact sheets: what a picture shows is where the motion is and where it goes."""

import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from motiontune.drawing.arrows import arrow_length, draw_arrows, pool_patches
from motiontune.drawing.colours import INVALID_GREY, colour_wheel_legend, direction_rgb, flow_to_rgb
from motiontune.drawing.images import save_png
from motiontune.drawing.panels import Panel, comparison_panels
from motiontune.drawing.sheets import (
    SheetRow,
    choose_frames,
    comparison_rows,
    contact_sheet,
    draw_cells,
    frames_on_grid,
    row_length,
)
from motiontune.drawing.text import shorten
from motiontune.files import LIST


PATCH = 14
RED = (255, 0, 0)


def one_arrow(dx, dy, scale=4.0, **options):
    """Draw a single vector in the middle of 5 x 5 black patches, the others invalid, in red."""
    vectors, valid = np.zeros((5, 5, 2), np.float32), np.zeros((5, 5), bool)
    vectors[2, 2], valid[2, 2] = (dx, dy), True
    frame = np.zeros((5 * PATCH, 5 * PATCH, 3), np.uint8)
    return draw_arrows(frame, vectors, valid, PATCH, scale, colour=RED, **options)


def red_pixels(picture):
    """Where a picture is plainly red: y and x in pixels."""
    return np.nonzero((picture[..., 0] > 150) & (picture[..., 1] < 90))


def sheet_row(frames=6, rows=4, cols=6, seed=0, **changes):
    rng = np.random.default_rng(seed)
    valid = np.ones((frames, rows, cols), bool)
    valid[0] = False
    row = SheetRow(
        title="clip",
        frames=rng.integers(0, 255, (frames, rows * PATCH, cols * PATCH, 3), np.uint8),
        vectors=rng.normal(0, 6, (frames, rows, cols, 2)).astype(np.float32),
        valid=valid,
        times=np.arange(frames) / 8,
        patch=PATCH,
    )
    return replace(row, **changes)


# Colours


def test_wheel_is_the_one_of_torchvision():
    torch = pytest.importorskip("torch")
    utils = pytest.importorskip("torchvision.utils")
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 7, (40, 50, 2)).astype(np.float32)
    flow[0, :8] = [[9, 0], [9, 9], [0, 9], [-9, 9], [-9, 0.1], [-9, -9], [0, -9], [9, -9]]
    expected = utils.flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    assert np.abs(flow_to_rgb(flow).astype(int) - expected).max() <= 3


def test_directions_as_everybody_knows_them():
    right, down, left, up = direction_rgb([[1, 0], [0, 1], [-1, 0], [0, -1]]).astype(int)
    assert tuple(right) == RED
    assert down[0] > 200 and down[1] > 200 and down[2] == 0  # yellow
    assert left[0] == 0 and left[1] > 120 and left[2] == 255  # light blue
    assert up[1] == 0 and up[2] == 255  # violet blue


def test_length_is_saturation():
    white, half, full, beyond = flow_to_rgb([[0, 0], [2, 0], [4, 0], [8, 0]], max_magnitude=4).astype(int)
    assert tuple(white) == (255, 255, 255)
    assert tuple(half) == (255, 127, 127)
    assert tuple(full) == RED
    assert tuple(beyond) == (191, 0, 0)


def test_invalid_and_infinite_vectors_are_grey_and_do_not_set_the_scale():
    vectors = np.array([[4.0, 0.0], [1000.0, 0.0], [np.nan, 0.0], [np.inf, 1.0]])
    rgb = flow_to_rgb(vectors, valid=np.array([True, False, True, True]))
    assert tuple(rgb[0]) == RED
    assert (rgb[1:] == INVALID_GREY).all()


def test_still_field_is_white_and_wrong_shapes_are_refused():
    assert (flow_to_rgb(np.zeros((2, 3, 3, 2))) == 255).all()
    for arguments in ({"vectors": np.zeros(3)}, {"vectors": np.zeros((4, 2)), "valid": np.ones(3, bool)}):
        with pytest.raises(ValueError, match="must be"):
            flow_to_rgb(**arguments)
    with pytest.raises(ValueError, match="positive"):
        flow_to_rgb(np.zeros((4, 2)), max_magnitude=0)


def test_legend_shows_each_direction_at_its_place():
    wheel = colour_wheel_legend(101).astype(int)
    assert wheel.shape == (101, 101, 3)
    assert np.abs(wheel[50, 98] - direction_rgb([1, 0])).max() < 20
    assert np.abs(wheel[98, 50] - direction_rgb([0, 1])).max() < 20
    assert (wheel[50, 50] > 245).all() and (wheel[0, 0] == 255).all()


# Arrows


@pytest.mark.parametrize("dx, dy", [(12, 0), (-12, 0), (0, 12), (0, -12), (9, 9), (-9, 9)])
def test_arrow_runs_from_its_patch_along_the_vector(dx, dy):
    ys, xs = red_pixels(one_arrow(dx, dy))
    points = np.stack([xs, ys], axis=-1) + 0.5 - 2.5 * PATCH * 4
    along = points @ np.array([dx, dy]) / np.hypot(dx, dy)
    across = points @ np.array([-dy, dx]) / np.hypot(dx, dy)
    assert along.min() == pytest.approx(0, abs=3)
    assert along.max() == pytest.approx(4 * np.hypot(dx, dy), abs=4)  # thin tip: its last pixels are not plain red
    assert np.abs(across).max() < 12
    widest = along[np.abs(across).argmax()]
    assert widest > along.max() / 2, "the head must be at the far end"


def test_length_factor_and_size_of_the_picture():
    reach = [np.ptp(red_pixels(one_arrow(6, 0, length=length))[1]) for length in (1, 2)]
    assert reach[1] - reach[0] == pytest.approx(24, abs=2)
    assert one_arrow(1, 1, scale=4).shape == (280, 280, 3)
    assert one_arrow(1, 1, scale=0.5).shape == (35, 35, 3)
    assert one_arrow(1, 1).dtype == np.uint8


def test_still_patch_is_a_dot_and_invalid_one_a_cross():
    still = one_arrow(0.3, 0.3)
    assert not red_pixels(still)[0].size
    centre = still[140, 140].astype(int)
    assert centre.min() > 120 and np.ptp(centre) == 0
    cross = still[28, 28].astype(int)  # centre of the invalid patch at the top left
    assert 40 < cross.max() < centre.min() and np.ptp(cross) == 0


def test_frame_is_not_changed_and_shows_below_the_arrows():
    frame = np.full((2 * PATCH, 2 * PATCH, 3), 77, np.uint8)
    picture = draw_arrows(frame, np.full((2, 2, 2), 5.0), np.ones((2, 2), bool), PATCH)
    assert (frame == 77).all()
    assert (picture == 77).all(axis=-1).mean() > 0.3
    assert (picture != 77).any()


def test_wild_predictions_are_drawn_without_wrapping_around():
    picture = one_arrow(1e12, 0)
    ys, xs = red_pixels(picture)
    assert xs.min() >= 135 and xs.max() == 279
    assert np.abs(ys - 140).max() < 6
    assert not red_pixels(one_arrow(np.nan, 0))[0].size


def test_pooling_means_valid_vectors_only():
    vectors = np.arange(3 * 4 * 2, dtype=float).reshape(3, 4, 2)
    valid = np.ones((3, 4), bool)
    valid[0, 0] = valid[2, 2] = valid[2, 3] = False
    vectors[0, 0] = 1e9
    centres, means, mask = pool_patches(vectors, valid, 10, 2)
    np.testing.assert_allclose(means[0, 0], (vectors[0, 1] + vectors[1, 0] + vectors[1, 1]) / 3)
    assert mask.tolist() == [[True, True], [True, False]]
    assert centres.tolist() == [[[10, 10], [30, 10]], [[10, 25], [30, 25]]]


@pytest.mark.parametrize("speed, expected", [(14, 1), (10, 1), (0.6, 8), (5, 3), (200, 0.125), (0.1, 1)])
def test_arrow_length(speed, expected):
    vectors = np.tile([speed, 0.0], (8, 8, 1))
    assert arrow_length(vectors, np.ones((8, 8), bool), spacing=14) == expected


def test_most_arrows_are_no_stubs_where_a_few_are_long():
    vectors = np.tile([2.0, 0.0], (8, 8, 1))
    vectors[0] *= 5  # an eighth moves by 10 px, and arrows lie 28 px apart
    length = arrow_length(vectors, np.ones((8, 8), bool), spacing=28)
    assert length == 4  # to scale, most would be 2 px long


def test_arrows_refuse_what_does_not_fit():
    frame, vectors, valid = np.zeros((28, 28, 3), np.uint8), np.zeros((2, 2, 2)), np.ones((2, 2), bool)
    for wrong in ((frame[:-1], vectors, valid, 14), (frame, vectors[:1], valid, 14), (frame, vectors, valid, 16)):
        with pytest.raises(ValueError, match="patches of|must be"):
            draw_arrows(*wrong)
    with pytest.raises(ValueError, match="positive"):
        draw_arrows(frame, vectors, valid, 14, scale=0)


# Contact sheets


def test_frames_on_grid_resize_and_pad():
    frames = np.random.default_rng(0).integers(0, 255, (3, 90, 160, 3), np.uint8)
    sized = frames_on_grid(frames, 4, 56, 112, padding=1)
    assert sized.shape == (4, 56, 112, 3) and sized.dtype == np.uint8
    np.testing.assert_array_equal(sized[3], sized[2])
    np.testing.assert_array_equal(sized[0], cv2.resize(frames[0], (112, 56), interpolation=cv2.INTER_AREA))
    np.testing.assert_array_equal(frames_on_grid(sized, 4, 56, 112), sized)


@pytest.mark.parametrize("count", [0, 2, 5])
def test_frames_that_belong_to_another_grid(count):
    with pytest.raises(ValueError, match="do not fit"):
        frames_on_grid(np.zeros((count, 56, 56, 3), np.uint8), 4, 56, 56, padding=1)


def test_choice_of_frames():
    valid = np.ones((16, 2, 2), bool)
    valid[0] = valid[15] = False
    assert choose_frames(valid[:6], 8) == [0, 1, 2, 3, 4, 5]
    chosen = choose_frames(valid, 8)
    assert chosen == [1, 3, 5, 7, 8, 10, 12, 14]
    assert choose_frames(np.zeros((16, 2, 2), bool), 4) == [0, 5, 10, 15]
    valid[3:] = False
    assert choose_frames(valid, 8) == [1, 2]


def test_cells_are_the_frames_with_their_arrows():
    row = sheet_row(valid=np.zeros((6, 4, 6), bool), vectors=np.zeros((6, 4, 6, 2), np.float32))
    plain = draw_cells(row, columns=3)
    drawn = draw_cells(sheet_row(), columns=3)
    assert [cell.time for cell in drawn] == [0.125, 0.375, 0.625]
    assert [cell.image.shape for cell in plain] == [(4 * PATCH * 3, 6 * PATCH * 3, 3)] * 3  # a whole factor
    assert all((one.image != other.image).any() for one, other in zip(plain[1:], drawn[1:], strict=True))
    assert {cell.image.shape[1] for cell in draw_cells(sheet_row(rows=4, cols=40), cell_width=240)} == {240}


def test_rows_that_are_compared_share_their_length():
    row = sheet_row(vectors=np.full((6, 4, 6, 2), 1.0, np.float32))
    assert row_length(row) > 1
    assert row_length(replace(row, length=1.0)) == 1


def test_sheet_of_clips_of_all_shapes():
    rows = [
        sheet_row(),
        sheet_row(frames=2, rows=20, cols=2, seed=1),
        sheet_row(frames=12, rows=2, cols=30, title="/a/long/path" * 60),
        sheet_row(title=""),
    ]
    sheet = contact_sheet(rows, columns=4)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3
    margin = np.concatenate([sheet[:, :18].reshape(-1, 3), sheet[:, -18:].reshape(-1, 3)])
    assert (margin == 255).all(), "text or a frame runs into the margin"
    one = contact_sheet(rows[:1], columns=1)
    assert one.shape[1] < sheet.shape[1]
    for wrong in (([], 4), (rows, 0)):
        with pytest.raises(ValueError, match="needs rows"):
            contact_sheet(*wrong)


def test_title_and_times_are_written_clear_of_the_frames():
    black = sheet_row(frames=2, valid=np.zeros((2, 4, 6), bool), vectors=np.zeros((2, 4, 6, 2), np.float32))
    black = replace(black, frames=np.zeros_like(black.frames), title="")
    named = replace(black, title="Ågj clip (1)")
    changed = (contact_sheet([black]) != contact_sheet([named])).any(axis=(1, 2))
    frame_rows = (contact_sheet([black]) < 40).all(axis=-1).sum(axis=1) > 200
    assert changed.any() and not (changed & frame_rows).any()
    later = (contact_sheet([black]) != contact_sheet([replace(black, times=black.times + 1)])).any(axis=(1, 2))
    assert later.any() and not (later & frame_rows).any()
    assert np.flatnonzero(later).min() > np.flatnonzero(frame_rows).max()


def test_long_titles_keep_both_ends():
    short = shorten("data/" + "x" * 500 + "/74225.webm", 17, 300)
    assert short.startswith("data/") and short.endswith("74225.webm") and "…" in short and len(short) < 60
    assert shorten("short", 17, 300) == "short"
    assert "\n" not in shorten("two\nlines", 17, 300)


def test_png_is_rgb_and_whole(tmp_path):
    image = np.zeros((5, 7, 3), np.uint8)
    image[..., 0] = 200
    path = save_png(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(cv2.imread(str(path))[..., ::-1], image)
    assert {item.name for item in path.parent.iterdir()} == {"a.png", LIST}


def test_rows_of_frames_of_any_size_and_rows_that_do_not_fit():
    row = sheet_row()
    arrays = row.vectors, row.valid, row.times
    assert SheetRow.of("clip", row.frames, *arrays).patch == PATCH
    resized = SheetRow.of("clip", row.frames[:-1, ::2, ::2], *arrays, PATCH, padding=1)
    assert resized.frames.shape == row.frames.shape and (resized.frames[-1] == resized.frames[-2]).all()
    with pytest.raises(ValueError, match="5 frames do not fit a grid of 6"):
        SheetRow.of("clip", row.frames[:-1], *arrays, PATCH)
    for changes in (
        {"times": row.times[1:]},
        {"vectors": row.vectors[1:]},
        {"frames": row.frames[:, 1:]},
        {"patch": 16},
    ):
        with pytest.raises(ValueError, match="must be"):
            replace(row, **changes)


def test_a_prediction_stands_between_its_target_and_its_error():
    row = sheet_row(vectors=np.full((6, 4, 6, 2), 2.0, np.float32))
    target, valid = row.vectors * np.float32(0.25), row.valid & (np.arange(6) < 4)
    panels = comparison_panels(row.vectors, row.valid, target, valid, target_title="flow", error=True)
    assert [panel.title for panel in panels] == ["flow", "predicted", "error, 0 to 2.1 px"]  # 1.5 in x and in y
    assert panels[2].show == "heat" and (panels[2].valid == valid).all()
    np.testing.assert_allclose(panels[2].vectors, np.where(valid[..., None], [1.5, 1.5], 0))
    assert [panel.title for panel in comparison_panels(row.vectors, row.valid, error=True)] == ["predicted"]
    rows = comparison_rows("a", row.frames, row.times, panels[:2], PATCH)
    assert [one.title for one in rows] == ["a · flow", "a · predicted"]
    assert rows[0].length == rows[1].length == row_length(replace(rows[0], length=None)) != row_length(row)
    with pytest.raises(ValueError, match="a · bare: has no motion"):
        comparison_rows("a", row.frames, row.times, [Panel("bare")], PATCH)
    with pytest.raises(ValueError, match="must be"):
        Panel("b", row.vectors)


def test_viewing_is_light_to_import():
    code = (
        "import sys, motiontune.runs.page, motiontune.drawing.sheets, motiontune.drawing.films;"
        "print([name for name in ('matplotlib', 'torch', 'transformers', 'llamafactory') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
