"""README's commands, in their order, in an empty folder: with a tiny model, and clips in place of the data set's."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from commands import command
from training import CAPTIONS, clips, results, start, tiny


ROOT = Path(__file__).resolve().parent.parent
MODEL = "Qwen/Qwen2-VL-7B-Instruct"
HERE = "bf16=false use_cpu=true preprocessing_num_workers=1 dataloader_num_workers=0".split()
"""What a machine without a GPU, and with few cores, needs of `train` and `inspect`."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with what Something-Something's site hands out, and a clip of one's own."""
    start()
    videos = tmp_path / "20bn-something-something-v2"
    videos.mkdir()
    for number, clip in enumerate(clips()):
        shutil.copy(clip, videos / f"{number}{clip.suffix}")
    rows = [{"id": str(number), "label": text} for number, text in enumerate(CAPTIONS)]
    (tmp_path / "train.json").write_text(json.dumps(rows))
    (tmp_path / "validation.json").write_text(json.dumps(rows[:2]))
    shutil.copy(clips()[0], tmp_path / "clip.mp4")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)


def commands():
    lines = "".join(block for block in blocks("bash") if "motiontune init" in block).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("motiontune ")]


def test_the_commands_follow_each_other(folder, capfd):
    story = commands()
    assert [words[0] for words in story] == ["prepare", "init", "inspect", "train", "report", "train", "export"]
    for words in story:
        words += HERE if words[0] in ("inspect", "train") else []
        code, out, err = command(capfd, *words)
        assert code == 0, f"{words}\n{out[-2000:]}{err[-4000:]}"
        if words[0] == "init":
            assert "motiontune train examples/qwen2vl_lora_motion.yaml" in out
            for file in (folder / "examples").glob("*.yaml"):
                file.write_text(file.read_text().replace(MODEL, str(tiny())))
    saved = folder / "saves/qwen2_vl-7b"
    assert (saved / "ssv2-motion/report.html").is_file() and (saved / "merged/motion_head.safetensors").is_file()
    assert results(saved / "ssv2-motion/predict", "predict")["predict_epe"] > 0
    scope = {}
    (code,) = (block for block in blocks("python") if "MotionModel" in block)
    exec(code, scope)  # with the model that the commands have trained
    assert scope["motion"].vectors.shape[-1] == 2 and isinstance(scope["prediction"].text, str)


def test_init_writes_over_nothing_of_others(tmp_path, capfd):
    (tmp_path / "qwen2vl_predict.yaml").write_text("mine")
    code, _, err = command(capfd, "init", tmp_path)
    assert code == 2 and "qwen2vl_predict.yaml" in err
    assert [file.name for file in tmp_path.iterdir()] == ["qwen2vl_predict.yaml"]
    code, out, _ = command(capfd, "init", tmp_path / "new")
    assert code == 0 and "LoRA on motion + answer text" in out
    for name in (
        "qwen2vl_predict.yaml",
        "plain_trainer.py",
        "motion_of_a_clip.ipynb",
        "train_predict_look.ipynb",
        "engines/zero2.json",
        "lmms_eval/motion_questions/_common_yaml",
    ):
        assert (tmp_path / "new" / name).read_text() == (ROOT / "examples" / name).read_text()
