"""Without extras: what needs none works, and what needs one names it in one line. Imports no torch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blocking import without
from make_clips import Encoder, encode


SOURCE = Path(__file__).resolve().parent.parent / "src"
NEED = {
    "train": ["cfg.yaml"],
    "inspect": ["cfg.yaml"],
    "export": ["cfg.yaml"],
    "predict": ["clip.mp4", "--model", "nowhere"],
    "evaluate": ["--model", "nowhere", "--dataset", "none"],
    "view": ["."],
    "webui": [],
    "demo": [],
}
BLOCK = without("llamafactory", "gradio", "peft", "trl", "datasets")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    picture = np.kron(noise, np.ones((8, 8, 1), np.uint8))
    pictures = [np.ascontiguousarray(np.roll(picture, 2 * step, 1)) for step in range(12)]
    return encode(tmp_path_factory.mktemp("core") / "clip.mp4", Encoder("libx264", {}), pictures, 12)


def run(code, folder):
    code = f"import sys\nsys.path.insert(0, {str(SOURCE)!r})\n{BLOCK}\n{code}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300)


def cli(words):
    return f"sys.argv = ['motiontune', *{words!r}]; from motiontune.cli import main; main()"


def test_extract_writes_motion_and_a_film_to_look_at(clip, tmp_path):
    done = run(cli(["extract", str(clip), "--out", "motion", "--preview"]), tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"clip.npz", "clip.motion.png"} <= {file.name for file in (tmp_path / "motion").iterdir()}
    assert any(file.suffix == ".mp4" for file in (tmp_path / "motion").iterdir())


def test_names_of_the_package_work_or_name_the_extra(clip, tmp_path):
    done = run(
        f"import motiontune as m; print(m.motion_of(m.read_clip({str(clip)!r}, fps=6)).vectors.shape, m.__version__)\n"
        "from motiontune import MotionModel",
        tmp_path,
    )
    assert done.stdout.startswith("(")
    last = done.stderr.strip().splitlines()[-1]
    assert (
        done.returncode == 1 and last.startswith("ImportError: ") and "pip install 'motiontune[llamafactory]'" in last
    )


@pytest.mark.parametrize("name", NEED)
def test_a_command_names_the_extra_that_it_needs(name, tmp_path):
    (tmp_path / "cfg.yaml").write_text("model_name_or_path: nowhere\nstage: sft\ntrain_on_video_tokens: true\n")
    done = run(cli([name, *NEED[name]]), tmp_path)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert last.startswith("motiontune: ") and "pip install 'motiontune[llamafactory]'" in last
