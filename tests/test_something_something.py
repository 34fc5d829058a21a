"""Something-Something V2: its files, what may be wrong with them, and that LLaMA-Factory reads what comes out."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from make_clips import Encoder, encode
from motiontune.commands import prepare as prepare_command
from motiontune.datasets.something_something import PROMPT, prepare
from motiontune.errors import ConfigError, MotiontuneError, OutputError


LABEL = "spinning cube that quickly stops spinning"
ENTRIES = [
    {
        "id": "74225",
        "label": LABEL,
        "template": "Spinning [something] that quickly stops spinning",
        "placeholders": ["cube"],
    },
    {"id": "1", "label": "holding a cup", "template": "Holding [something]", "placeholders": ["a cup"]},
    {"id": "2", "label": "dropping “é”", "template": "Dropping [something]", "placeholders": ["“é”"]},
    {"id": "3", "label": "moving nothing", "template": "Moving nothing", "placeholders": []},
]


def write_webm(path: Path) -> None:
    quick = Encoder("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"})
    encode(path, quick, [np.full((56, 56, 3), 20 * i, np.uint8) for i in range(12)], rate=12)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The data set as it is downloaded: clip 1 is missing, clip 2 is cut short, clip 3 is empty."""
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    write_webm(videos / "74225.webm")
    write_webm(videos / "9.webm")
    (videos / "2.webm").write_bytes((videos / "9.webm").read_bytes()[:40])
    (videos / "3.webm").touch()
    for name, entries in (
        ("train", ENTRIES),
        ("validation", ENTRIES[:1]),
        ("test", [{"id": "9"}]),
        ("labels", {"Holding [something]": "0"}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    return tmp_path


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_splits(raw: Path) -> None:
    videos, out = raw / "20bn-something-something-v2", raw / "out"
    labels = [raw / f"{split}.json" for split in ("train", "validation", "test")]
    report = prepare(labels, videos, out, workers=2)
    sample = read(out / "something_something_train.json")
    assert sample == [
        {
            "messages": [
                {"role": "user", "content": f"<video>{PROMPT}"},
                {"role": "assistant", "content": LABEL},
            ],
            "videos": [str(videos / "74225.webm")],
            "id": "74225",
            "template": "Spinning [something] that quickly stops spinning",
            "placeholders": ["cube"],
        }
    ]
    train, validation, test = report.splits
    assert (train.clips, train.written, train.missing, train.unreadable) == (4, 1, ("1",), ("2", "3"))
    assert (validation.clips, validation.written) == (1, 1) == (test.clips, test.written)
    assert read(out / "something_something_test.json")[0]["messages"][1] == {"role": "assistant", "content": ""}
    skipped = read(out / "skipped_train.json")
    assert [row["id"] for row in skipped] == ["1", "2", "3"]
    assert skipped[0]["reason"] == "missing" and all(row["reason"] for row in skipped)
    assert skipped[2]["video"] == str(videos / "3.webm")
    assert read(out / "skipped_validation.json") == []
    assert set(read(out / "dataset_info.json")) == {f"something_something_{split.split}" for split in report.splits}


def test_no_check_finds_missing_clips_alone(raw: Path) -> None:
    report = prepare([raw / "train.json"], raw / "20bn-something-something-v2", raw / "out", check=False)
    assert report.splits[0].missing == ("1",)
    assert report.splits[0].unreadable == ()
    answers = [row["messages"][1]["content"] for row in read(raw / "out" / "something_something_train.json")]
    assert answers == [LABEL, "dropping “é”", "moving nothing"]


def test_many_clips_in_several_processes_keep_their_order(raw: Path) -> None:
    videos = raw / "20bn-something-something-v2"
    entries = [{"id": i, "label": f"label {i}"} for i in range(1000, 1200)]  # ids as numbers, too
    for entry in entries:
        (videos / f"{entry['id']}.webm").hardlink_to(videos / "9.webm")
    (videos / "1150.webm").unlink()
    (videos / "1170.webm").unlink()
    (videos / "1170.webm").write_bytes(b"not a video")
    (raw / "train.json").write_text(json.dumps(entries))
    report = prepare([raw / "train.json"], videos, raw / "out", workers=3)
    assert report.splits[0].missing == ("1150",)
    assert report.splits[0].unreadable == ("1170",)
    rows = read(raw / "out" / "something_something_train.json")
    assert [row["id"] for row in rows] == [str(i) for i in range(1000, 1200) if i not in (1150, 1170)]
    assert all(row["messages"][1]["content"] == f"label {row['id']}" for row in rows)


def test_other_data_sets_stay(raw: Path) -> None:
    out = raw / "out"
    out.mkdir()
    (out / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    for split in ("validation", "test"):
        prepare([raw / f"{split}.json"], raw / "20bn-something-something-v2", out)
    info = read(out / "dataset_info.json")
    assert set(info) == {"mine", "something_something_validation", "something_something_test"}
    assert info["mine"] == {"file_name": "mine.json"}


def test_damaged_dataset_info_is_kept(raw: Path) -> None:
    out = raw / "out"
    out.mkdir()
    (out / "dataset_info.json").write_text("{")
    with pytest.raises(ConfigError, match="dataset_info.json"):
        prepare([raw / "validation.json"], raw / "20bn-something-something-v2", out)
    assert (out / "dataset_info.json").read_text() == "{"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("something-something-v2-train.json", "train"),
        ("something-something-v2-validation.json", "validation"),
        ("Something_Something_V2_test.json", "test"),
        ("my-few.json", "my_few"),
    ],
)
def test_names_of_newer_downloads(raw: Path, name: str, split: str) -> None:
    (raw / "validation.json").rename(raw / name)
    report = prepare([raw / name], raw / "20bn-something-something-v2", raw / "out")
    assert report.splits[0].dataset == f"something_something_{split}"


def test_original_clip_goes_before_a_copy(raw: Path) -> None:
    videos = raw / "20bn-something-something-v2"
    (videos / "74225.mp4").touch()
    (videos / "1.mp4").write_bytes((videos / "9.webm").read_bytes())
    prepare([raw / "train.json"], videos, raw / "out", check=False)
    names = [Path(row["videos"][0]).name for row in read(raw / "out" / "something_something_train.json")]
    assert names == ["74225.webm", "1.mp4", "2.webm", "3.webm"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"Holding [something]": "0"}', "maps templates to class numbers"),
        ("[]", "no list of clips"),
        ("id;label", "not JSON"),
        ('[{"label": "x"}]', "entry 0 has no id"),
        ('[{"id": "74225", "label": "x"}, {"id": "5"}]', r"entry 1 \(id 5\) has no label"),
        ("[17]", "entry 0 has no id"),
    ],
)
def test_refuses_other_files(raw: Path, content: str, message: str) -> None:
    (raw / "train.json").write_text(content)
    with pytest.raises(ConfigError, match=message) as caught:
        prepare([raw / "train.json"], raw / "20bn-something-something-v2", raw / "out")
    assert "\n" not in str(caught.value)
    assert "train.json" in str(caught.value)


def test_refuses_wrong_folders_and_files(raw: Path) -> None:
    videos = raw / "20bn-something-something-v2"
    with pytest.raises(ConfigError, match="did you mean .*20bn-something-something-v2"):
        prepare([raw / "train.json"], raw, raw / "out")
    with pytest.raises(ConfigError, match="cannot be listed"):
        prepare([raw / "train.json"], raw / "nowhere", raw / "out")
    with pytest.raises(ConfigError, match="cannot be read"):
        prepare([raw / "trian.json"], videos, raw / "out")
    with pytest.raises(ConfigError, match="second file of the train split"):
        prepare([raw / "train.json", raw / "train.json"], videos, raw / "out")
    assert not (raw / "out").exists()


def run(*argv: str) -> None:
    parser = argparse.ArgumentParser()
    prepare_command.add_arguments(parser)
    prepare_command.run(parser.parse_args(["something-something", *argv]))


def test_labels_are_not_written_over(raw: Path) -> None:
    """A data set has the form of a split's file, without the labels."""
    videos = raw / "20bn-something-something-v2"
    prepare([raw / "train.json"], videos, raw / "out")
    made = raw / "out" / "something_something_train.json"
    before = made.read_bytes()
    with pytest.raises(OutputError, match="something_something_train.json is an input and would be written over"):
        prepare([made], videos, raw / "out")
    assert made.read_bytes() == before


def test_command(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos, out = str(raw / "20bn-something-something-v2"), str(raw / "out")
    labels = [str(raw / f"{split}.json") for split in ("train", "validation", "test")]
    run("--labels", *labels, "--videos", videos, "--out", out, "--prompt", "What?", "--workers", "2")
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["split", "clips", "written", "missing", "unreadable"]
    assert said[1].split() == ["train", "4", "1", "1", "2"]
    assert f"dataset_dir: {out}" in said
    assert "dataset: something_something_train" in said
    assert "eval_dataset: something_something_validation" in said
    sample = read(raw / "out" / "something_something_train.json")[0]
    assert sample["messages"][0]["content"] == "<video>What?"
    with pytest.raises(MotiontuneError, match="--workers"):
        run("--labels", *labels, "--videos", videos, "--out", out, "--workers", "0")


def test_split_without_any_clip(raw: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos, out = str(raw / "20bn-something-something-v2"), str(raw / "out")
    (raw / "test.json").write_text('[{"id": "404"}]')
    run("--labels", str(raw / "train.json"), str(raw / "test.json"), "--videos", videos, "--out", out)
    assert "No data set was written for test" in capsys.readouterr().out
    assert set(read(raw / "out" / "dataset_info.json")) == {"something_something_train"}


def test_llamafactory_reads_it(raw: Path) -> None:
    """Train and test splits through LLaMA-Factory's loader and converter, from `dataset_dir: out` alone."""
    pytest.importorskip("llamafactory")
    from llamafactory.data.loader import _get_merged_dataset
    from llamafactory.hparams import get_train_args

    out, videos = raw / "out", raw / "20bn-something-something-v2"
    prepare([raw / "train.json", raw / "test.json"], videos, out)
    names = ["something_something_train", "something_something_test"]
    args = {"model_name_or_path": "x", "dataset_dir": str(out), "output_dir": str(raw / "run"), "template": "qwen2_vl"}
    args |= {"stage": "sft", "do_train": True, "dataset": ",".join(names), "use_cpu": True, "report_to": "none"}
    model_args, data_args, training_args, *_ = get_train_args(args)
    train, test = _get_merged_dataset(names, model_args, data_args, training_args, "sft", return_dict=True).values()
    assert train[0]["_videos"] == [str(videos / "74225.webm")]
    assert train[0]["_prompt"] == [{"role": "user", "content": f"<video>{PROMPT}"}]
    assert train[0]["_response"] == [{"role": "assistant", "content": LABEL}]
    assert test[0]["_response"] == [{"role": "assistant", "content": ""}]
