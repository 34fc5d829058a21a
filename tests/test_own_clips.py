"""docs/data.md: what it shows is a data set."""

import re
from pathlib import Path

from motiontune.datasets.dataset_info import read_clips


PAGE = Path(__file__).parents[1] / "docs" / "data.md"


def test_the_data_set_of_the_documentation_is_read(tmp_path: Path) -> None:
    samples, info = re.findall(r"```json\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    (tmp_path / "clips.json").write_text(samples)
    (tmp_path / "dataset_info.json").write_text(info)
    first, second = read_clips(tmp_path, "clips")
    assert first.path == str(tmp_path / "videos/0001.webm") and "falls" in second.answer
