"""Video tokens have their frame's place in time, their row and their column: transformers 5.3 to 5.5 lost them."""

import pytest
import torch
import transformers

from motiontune.errors import ConfigError
from motiontune.model import wrappers
from motiontune.model.families import FAMILIES
from motiontune.model.wrappers import check_positions
from training import FAMILIES as TESTED
from training import tiny


TEXT, FRAMES, ROWS, COLS = 5, 3, 2, 4  # tokens


@pytest.mark.parametrize("family", TESTED)
def test_a_video_token_is_numbered_by_time_row_and_column(family: str) -> None:
    model = transformers.AutoModelForImageTextToText.from_pretrained(tiny(family))
    config, merge = model.config, model.config.vision_config.spatial_merge_size
    video = [config.video_token_id] * (ROWS * COLS)
    if FAMILIES[family].timestamps:  # text between the frames, which tells their time
        parts, between = [[1, *video] for _ in range(FRAMES)], 1
    else:
        parts, between = [video for _ in range(FRAMES)], 0
    ids = torch.tensor([[1] * TEXT + [token for part in parts for token in part] + [1, 1]])
    thw = torch.tensor([[FRAMES, ROWS * merge, COLS * merge]])
    kinds = 2 * (ids == config.video_token_id).int()
    positions, _ = model.model.get_rope_index(ids, mm_token_type_ids=kinds, video_grid_thw=thw)
    time, row, col = positions[:, 0, ids[0] == config.video_token_id].view(3, FRAMES, ROWS, COLS)
    assert (time == time[:, :1, :1]).all() and (time[:, 0, 0].diff() > 0).all()
    first = row[:, :1, :1]
    assert torch.equal(row - first, torch.arange(ROWS).view(1, ROWS, 1).expand(FRAMES, ROWS, COLS))
    assert torch.equal(col - first, torch.arange(COLS).view(1, 1, COLS).expand(FRAMES, ROWS, COLS))
    assert (first.flatten() == TEXT).all() or between


@pytest.mark.parametrize("version", ["5.3.0", "5.5.4"])
def test_versions_that_number_frames_wrongly_are_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check_positions()
    monkeypatch.setattr(wrappers.transformers, "__version__", version)  # the very object that is asked
    with pytest.raises(ConfigError, match="same position in time: pip install"):
        check_positions()
