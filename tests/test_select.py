"""`motiontune select`: which clips of a manifest are chosen, and the data set that is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from motiontune.cli import run_command
from motiontune.datasets.dataset_info import make_sample, read_clips, write_dataset, write_rows
from motiontune.datasets.selection import NO_FILE, NOT_IN_DATASET, Wanted, select
from motiontune.errors import ConfigError, OutputError
from motiontune.manifest import ClipRow, write_manifest


pytest.importorskip("pyarrow")


def clip(name: str, moving: float = 0.5, camera: float | None = 0.0, **more: Any) -> ClipRow:
    about: dict[str, Any] = {"codec": "h264", "source": "codec+flow", "frames": 8, "valid_share": 0.9, "mean_px": 2.0}
    return ClipRow(f"/clips/{name}.mp4", moving_share=moving, camera_share=camera, **about | more)


ROWS = [
    clip("still", 0.0, None, mean_px=0.1),
    clip("pan", 1.0, 1.0, mean_px=6.0),
    clip("thing", 0.1, 0.0),
    clip("both", 1.0, 0.7, codec="vp9", source="blockmatch+flow"),
    ClipRow("/clips/bad.mp4", failure="clip", error="cannot be read"),
    ClipRow("s3://bucket/far.mp4", moving_share=1.0, camera_share=0.0, mean_px=3.0, valid_share=1.0, frames=8),
]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "m" / "manifest.parquet", ROWS, {})
    return tmp_path / "m"


def chosen(manifest: Path, out: Path, **wanted: Any) -> list[str]:
    select(manifest, Wanted(**wanted), out)
    return [Path(one.path).stem for one in read_clips(out, "selected")]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        ({}, ["still", "pan", "thing", "both"]),
        ({"least": {"moving": 0.05}}, ["pan", "thing", "both"]),
        ({"most": {"camera": 0.8}}, ["still", "thing", "both"]),
        ({"least": {"moving": 0.05}, "most": {"camera": 0.8}}, ["thing", "both"]),
        ({"least": {"camera": 0.0}}, ["pan", "thing", "both"]),
        ({"least": {"object": 0.2}}, ["both"]),
        ({"codecs": ("vp9",)}, ["both"]),
        ({"most": {"px": 2.0}}, ["still", "thing", "both"]),
    ],
)
def test_what_is_chosen(wanted: dict[str, Any], names: list[str], manifest: Path, tmp_path: Path) -> None:
    assert chosen(manifest, tmp_path / "out", **wanted) == names


def test_samples_of_a_data_set_keep_their_form(manifest: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    rows = [{"ask": "<video>Q", "say": f"A {k}", "films": [f"/clips/{name}.mp4"]} for k, name in enumerate("xy")]
    rows += [{"ask": "<video>Q", "say": "moves", "films": ["/clips/thing.mp4"]}]
    rows += [{"ask": "<video><video>Q", "say": "two", "films": ["/clips/thing.mp4", "/clips/still.mp4"]}]
    entry = {"file_name": "mine.json", "columns": {"prompt": "ask", "response": "say", "videos": "films"}}
    write_rows(data / "mine.json", rows)
    (data / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    found = select(manifest, Wanted({"moving": 0.05}), data, "moving", (data, "mine"))
    assert (found.clips, found.chosen, found.samples) == (6, 1, 1)
    assert dict(found.left_out) == {"moving below 0.05": 1, "failed: clip": 1, NO_FILE: 1, NOT_IN_DATASET: 2}
    assert [one.answer for one in read_clips(data, "moving")] == ["moves"]
    assert json.loads((data / "dataset_info.json").read_text()) == {
        "mine": entry,
        "moving": entry | {"file_name": "moving.json"},
    }
    with pytest.raises(OutputError, match="has another data set 'mine'"):
        select(manifest, Wanted(), data, "mine")
    drawn = select(manifest, Wanted(draw=2), data, "drawn", (data, "mine"))
    assert (drawn.chosen, drawn.samples) == (2, 2)  # both of the data set's: of other clips none is drawn


def test_drawings(tmp_path: Path) -> None:
    rows = [clip(f"{k:03d}", 0.05 if k < 80 else 0.55 if k < 95 else 0.95) for k in range(100)]
    write_manifest(tmp_path / "m.parquet", rows, {})
    write_manifest(tmp_path / "r.parquet", rows[::-1], {})

    def draw(manifest: str, **wanted: Any) -> set[str]:
        return set(chosen(tmp_path / manifest, tmp_path / "out", **wanted))

    drawn = draw("m.parquet", draw=30, seed=1)
    assert len(drawn) == 30 and drawn == draw("r.parquet", draw=30, seed=1) != draw("m.parquet", draw=30, seed=2)
    assert draw("m.parquet", draw=10, seed=1) < drawn
    found = select(tmp_path / "m.parquet", Wanted(draw=30, balance="moving"), tmp_path / "out")
    # the smallest part has 5: the others share what it lacks
    assert found.parts == {
        "moving 0.0 to 0.1": (80, 12),
        "moving 0.5 to 0.6": (15, 13),
        "moving 0.9 to 1.0": (5, 5),
    }
    assert found.left_out["not drawn"] == 70
    assert select(tmp_path / "m.parquet", Wanted(draw=500, balance="px"), tmp_path / "out").chosen == 100


def test_the_command(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(manifest), "--out", str(tmp_path / "out")]
    run_command("select", [*arguments, "--min-moving", "0.05", "--max-camera", "0.8", "--draw", "1", "--seed", "2"])
    words = capsys.readouterr().out.split()
    text = " ".join(words)
    assert "clips in the manifest 6" in text and "- camera above 0.8 1" in text and "dataset: selected" in text
    for more, message in {
        ("--min-moving", "2"): "none of 6 clips is left",
        ("--min-moving", "0.5", "--max-moving", "0.4"): "--min-moving 0.5 is above --max-moving 0.4",
        ("--draw", "0"): "--draw must be at least 1",
        ("--balance", "px"): "add --draw N",
    }.items():
        with pytest.raises(ConfigError, match=message):
            run_command("select", [*arguments, *more])
    with pytest.raises(ConfigError, match="is no manifest"):
        run_command("select", [str(tmp_path / "nothing"), "--out", str(tmp_path / "out")])
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ConfigError, match="cannot be read as a manifest"):
        run_command("select", [str(tmp_path / "torn.parquet"), "--out", str(tmp_path / "out")])
    write_dataset(tmp_path / "data", "other", [make_sample("/clips/unknown.mp4", "?", "!")])
    with pytest.raises(ConfigError, match="not in the data set 4"):
        run_command("select", [*arguments, "--dataset", "other", "--dataset-dir", str(tmp_path / "data")])
