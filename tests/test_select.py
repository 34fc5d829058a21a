"""`motiontune select`: which clips of a manifest are chosen, and the data set that is written."""

import json
from pathlib import Path
from typing import Any

import pytest

from commands import command, refused
from motiontune.cli import run_command
from motiontune.datasets.dataset_info import ENTRY, make_sample, read_clips, write_dataset, write_rows
from motiontune.datasets.selection import MADE_BY, NO_FILE, NOT_IN_DATASET, Wanted, select
from motiontune.errors import ConfigError, OutputError
from motiontune.manifest import ClipFacts, ClipRow, read_manifest, tar_of, write_manifest


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
        ({"codecs": ("VP9",)}, ["both"]),
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
        "moving": entry | {"file_name": "moving.json", "made_by": MADE_BY},
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
    assert "are taken" not in text
    run_command("select", [*arguments, "--draw", "500"])
    assert "--draw 500: fewer were left, and all of them are taken" in capsys.readouterr().out
    for more, message in {
        ("--min-frames", "99"): "none of 6 clips is left",
        ("--min-moving", "0.5", "--max-moving", "0.4"): "--min-moving 0.5 is above --max-moving 0.4",
        ("--draw", "0"): "--draw must be at least 1",
        ("--name", "dataset_info"): "'dataset_info' cannot be a data set's name",
        ("--name", "../a"): "'../a' cannot be a data set's name",
        ("--name", "a,b"): "'a,b' cannot be a data set's name",
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


def test_no_data_set_that_is_read_or_of_another_command_is_written_over(manifest: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    labelled = [make_sample(f"/clips/{name}.mp4", "?", f"a {name}") for name in ("still", "pan", "thing")]
    file = write_dataset(data, "train", labelled)
    for dataset in ((data, "train"), None):
        with pytest.raises(OutputError, match="another data set 'train', which is not known to be this command's"):
            select(manifest, Wanted({"moving": 0.5}), data, "train", dataset)
    assert [one.answer for one in read_clips(data, "train")] == ["a still", "a pan", "a thing"]
    # what this command made is replaced by it, but not while it is read, however it is spelled, and by no other
    select(manifest, Wanted(), data, "mine", (data, "train"))
    assert select(manifest, Wanted({"moving": 0.05}), data, "mine", (data, "train")).samples == 2
    (tmp_path / "link").symlink_to(data)
    for folder in (data, tmp_path / "link"):
        with pytest.raises(OutputError, match="mine.json is an input and would be written over"):
            select(manifest, Wanted({"moving": 0.9}), folder, "mine", (data, "mine"))
    with pytest.raises(OutputError, match="has another data set 'mine'"):
        write_dataset(data, "mine", labelled)
    assert len(read_clips(data, "mine")) == 2 and len(read_clips(data, "train")) == 3
    # an entry that was renamed still has its file
    info = json.loads((data / "dataset_info.json").read_text())
    (data / "dataset_info.json").write_text(json.dumps({"kept": info["mine"]}))
    with pytest.raises(OutputError, match="has the data set 'kept' in mine.json"):
        select(manifest, Wanted(), data, "mine")
    assert file.is_file() and len(read_clips(data, "kept")) == 2


def test_a_page_is_not_written_over_its_manifest(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (manifest / "manifest.parquet").read_bytes()
    assert "is an input and would be written over" in refused(
        capsys, "report", manifest, "--out", manifest / "manifest.parquet"
    )
    assert (manifest / "manifest.parquet").read_bytes() == before


def shard(folder: Path, i: int, n: int, rows: list[ClipRow], settings: dict[str, Any] | None = None) -> None:
    write_manifest(folder / f"manifest-{i:05d}-of-{n:05d}.parquet", rows, settings or {})


@pytest.mark.parametrize("other", ["manifest.parquet", "manifest-00001-of-00003.parquet", "manifest-old.parquet"])
def test_manifests_of_several_runs_are_not_counted_together(
    other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in (1, 2):
        shard(tmp_path / "m", i, 2, ROWS[i : i + 1])
    write_manifest(tmp_path / "m" / other, ROWS[:1], {})
    for arguments in (("select", tmp_path / "m", "--out", tmp_path / "out"), ("report", tmp_path / "m")):
        said = refused(capsys, *arguments)
        assert "has manifests of several runs" in said and other in said and "-of-00002.parquet" in said
    assert select(tmp_path / "m" / other, Wanted(), tmp_path / "out").clips == 1  # which can be named


def test_a_clip_of_two_shards_counts_once(tmp_path: Path) -> None:
    both = clip("both", digest="a")
    shard(tmp_path, 1, 2, [clip("one", digest="b"), both])
    shard(tmp_path, 2, 2, [both, clip("two", digest="c")])
    assert [Path(row["path"]).stem for row in read_manifest(tmp_path, ["path"])] == ["one", "both", "two"]
    assert select(tmp_path, Wanted(), tmp_path / "out").samples == 3
    shard(tmp_path, 2, 2, [clip("both", digest="other")])
    with pytest.raises(ConfigError, match="/clips/both.mp4 is in two shards with different contents"):
        list(read_manifest(tmp_path))
    shard(tmp_path, 2, 2, [clip("two", digest="c")], {"form": "npz"})
    with pytest.raises(ConfigError, match=r"00002.parquet was made with other settings .*\(form\)"):
        list(read_manifest(tmp_path))


def test_a_shard_that_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    m = tmp_path / "m"
    shard(m, 1, 3, ROWS[:2])
    shard(m, 3, 3, [])  # of a run with fewer clips than shards
    missing = "1 of 3 shards are missing: manifest-00002-of-00003.parquet"
    assert f"{m}: {missing}: extract them, or name one file" in refused(capsys, "select", m, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    code, _, err = command(capsys, "report", m)
    assert (code, err) == (0, f"{m}: {missing}\n") and missing in (m / "report.html").read_text("utf-8")
    assert len(ClipFacts(m)) == 0  # training opens what it does not find there
    assert select(m / "manifest-00001-of-00003.parquet", Wanted(), tmp_path / "out").clips == 2
    shard(m, 2, 3, ROWS[2:])
    assert select(m, Wanted(), tmp_path / "out").clips == len(ROWS)
    code, _, err = command(capsys, "report", m)
    assert (code, err) == (0, "")


@pytest.mark.parametrize("name", ["moving", "object", "camera", "px", "valid"])
@pytest.mark.parametrize("end", ["least", "most"])
def test_what_was_not_measured_is_neither_above_nor_below(end: str, name: str, tmp_path: Path) -> None:
    """A clip without a vector, and one whose camera cannot be told; where nothing moves, the camera does not."""
    unknown = ClipRow("/clips/unknown.mp4", codec="h264", source="flow", frames=8)
    rows = [unknown, clip("few", 0.5, None), clip("still", 0.0, None), clip("known", 0.5, 0.5)]
    write_manifest(tmp_path / "m.parquet", rows, {})
    bound = 2.0 if name == "px" else float(end == "most")  # which all that is known keeps
    found = select(tmp_path / "m.parquet", Wanted(**{end: {name: bound}}), tmp_path / "out")
    told = {"object": ["still", "known"], "camera": ["still", "known"]}.get(name, ["few", "still", "known"])
    if (end, name) == ("least", "camera"):
        told.remove("still")
    assert [Path(one.path).stem for one in read_clips(tmp_path / "out", "selected")] == told
    assert found.left_out[f"{name} not known"] == 4 - len({*told, "still"})


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "80"])
def test_bounds_that_cannot_be_are_refused(value: str, manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--min-moving", "--max-camera", "--max-object", "--min-valid"):
        said = refused(capsys, "select", manifest, "--out", manifest / "out", option, value)
        assert f"{option} must be a share from 0 to 1, not {value}" in said
    if value != "80":
        for option in ("--min-px", "--max-frames"):
            said = refused(capsys, "select", manifest, "--out", manifest / "out", option, value)
            assert f"{option} must be a number, 0 or more, not {value}" in said
    assert not (manifest / "out").exists()


def test_a_drawing_that_leaves_parts_empty_is_refused(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--draw 2 leaves some of the 3 parts of --balance moving without a clip"):
        select(manifest, Wanted(draw=2, balance="moving"), tmp_path / "out")
    parts = select(manifest, Wanted(draw=3, balance="moving"), tmp_path / "out").parts
    assert [drawn for _, drawn in parts.values()] == [1, 1, 1]


def test_samples_keep_all_that_they_name(manifest: Path, tmp_path: Path) -> None:
    """A list of frames is no clip of a manifest; other files keep their place where the data set goes elsewhere."""
    data = tmp_path / "data"
    sample = {**make_sample("/clips/thing.mp4", "<image><audio><video>?", "!"), "text": "a\u2028b\x85c"}
    rows = [
        sample | {"images": ["pic.jpg"], "audios": ["no.wav"]},
        sample | {"videos": ["/clips/thing.mp4", ["f1.jpg", "f2.jpg"]]},
        sample | {"videos": []},
        make_sample("/clips/bad.mp4", "?", "!"),
    ]
    columns = {**ENTRY["columns"], "images": "images", "audios": "audios"}
    data.mkdir()
    (data / "pic.jpg").write_bytes(b"a picture")
    (data / "all.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    info = {"all": ENTRY | {"columns": columns, "file_name": "all.jsonl"}}
    (data / "dataset_info.json").write_text(json.dumps(info))
    found = select(manifest, Wanted(), tmp_path / "out", "some", (data, "all"))
    written = json.loads((tmp_path / "out" / "some.json").read_text("utf-8"))
    assert written == [rows[0] | {"images": [str(data / "pic.jpg")]}]
    assert dict(found.samples_left_out) == {
        "with frames in the place of a clip": 1,
        "without a clip": 1,
        "with a clip that is not chosen": 1,
    }
    assert "- samples without a clip" in found.table()


def test_a_data_set_is_named_as_in_a_yaml(manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "data", "train", [make_sample("/clips/thing.mp4", "?", "!")])
    arguments = ["select", manifest, "--out", tmp_path / "out", "--dataset-dir", tmp_path / "data"]
    code, out, _ = command(capsys, *arguments, "--dataset", " train ", "--codec", "vp9, h264")
    assert code == 0 and "samples written" in out
    assert "--dataset 'train, m' must name one data set" in refused(capsys, *arguments, "--dataset", "train, m")
    several = ["extract", "--out", tmp_path / "motion", "--dataset-dir", tmp_path / "data", "--dataset", "train, no"]
    assert refused(capsys, *several).startswith("dataset: 'no' is not in ")


@pytest.mark.parametrize(
    ("path", "tar"),
    [
        ("/a::b/c.mp4", ""),
        ("/a::b/s.tar::c.mp4", "/a::b/s.tar"),
        ("s3://b/s.tar::x::y.mp4", "s3://b/s.tar"),
        ("/s.tar", ""),
    ],
)
def test_which_names_are_of_a_tar(path: str, tar: str) -> None:
    assert tar_of(path) == tar
