"""What train and evaluate print: a page, with all else in a log, and errors in full where they always were."""

import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from commands import command, refused_run
from motiontune.errors import ConfigError, OutputError
from motiontune.terminal import LAST_LINES, ON_PAGE, Terminal, current, is_verbose, take_verbose
from training import BOTH, keys_for, run_command, write_config


def test_what_is_printed_goes_to_the_log_and_what_is_shown_to_both(tmp_path, capsys):
    logger = logging.getLogger("llamafactory.somewhere")
    printing = logging.StreamHandler(sys.stdout)
    logging.getLogger("another").addHandler(printing)
    with Terminal("train.log") as terminal:
        assert current() is terminal
        print("early noise")
        terminal.keep(tmp_path / "out")
        sys.stderr.write("10%\r20%\rdone\n")
        sys.stderr.write("30%\r")
        logging.getLogger("another").error("noise of a logger")
        logger.warning("look here")
        logger.error("and %s", "here")
        logger.setLevel(logging.INFO)
        logger.info("hidden")
        logger.info("a table", **ON_PAGE)
        terminal.show("the page")
    assert current() is None and printing.stream is sys.stdout
    out, err = capsys.readouterr()
    assert out == "warning: look here\nerror: and here\na table\nthe page\n" and not err
    log = (tmp_path / "out" / "train.log").read_text()
    assert all(text in log for text in ("early noise", "done\n", "noise of a logger", "look here", "the page"))
    assert "%" not in log
    with Terminal("train.log") as terminal:
        print("the next run")
        terminal.keep(tmp_path / "out")
    both = (tmp_path / "out" / "train.log").read_text()
    assert both.startswith(log) and "the next run" in both
    logging.getLogger("another").removeHandler(printing)


def test_an_error_is_seen_where_it_always_was(capsys):
    stdout = sys.stdout
    with pytest.raises(ZeroDivisionError), Terminal("train.log"):
        print("\n".join(f"line {number}" for number in range(100)))
        raise ZeroDivisionError
    assert sys.stdout is stdout
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == LAST_LINES and lines[-1] == "line 99"  # what came before it, too
    with pytest.raises(SystemExit), Terminal("train.log"):
        print("error: invalid choice", file=sys.stderr)
        sys.exit(2)
    assert capsys.readouterr().err == "error: invalid choice\n"
    with pytest.raises(ConfigError), Terminal("train.log"):
        print("noise")
        raise ConfigError("a user's mistake")
    assert capsys.readouterr() == ("", "")


def test_a_log_of_others_is_not_written_to(tmp_path):
    (tmp_path / "train.log").write_text("mine")
    with Terminal("train.log") as terminal, pytest.raises(OutputError, match=r"train\.log"):
        terminal.keep(tmp_path)
    assert (tmp_path / "train.log").read_text() == "mine"


def test_verbose_changes_nothing(monkeypatch, capsys):
    monkeypatch.setenv("MOTIONTUNE_VERBOSE", "")
    assert not is_verbose() and take_verbose(["a.yaml", "--verbose"]) == ["a.yaml"] and is_verbose()
    monkeypatch.delenv("MOTIONTUNE_VERBOSE")
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "INFO")
    assert is_verbose()
    with Terminal("train.log", quiet=False) as terminal:
        print("all of it")
        terminal.show("nothing")
        assert current() is None
    assert capsys.readouterr().out == "all of it\n"


def test_a_run_is_a_page(capfd):
    keys = keys_for(**BOTH, max_steps=20, val_size=0.2, eval_strategy="steps", eval_steps=10, disable_tqdm=None)
    code, out, err = command(capfd, "train", write_config(keys))
    assert code == 0, err[-4000:]
    lines = out.splitlines()
    assert len(lines) <= 70 and max(map(len, lines)) <= 170 and not err
    folder = Path(keys["output_dir"])
    for text in (
        "motion (smooth_l1, weight 1) + text",
        "every 10 steps",
        "held out, motion of",
        "no motion",
        "train.log",
    ):
        assert text in out
    assert len(re.findall(r"^\d+ of 20 ", out, re.M)) == 20 and len(re.findall("^step .*held out", out, re.M)) == 2
    log = (folder / "train.log").read_text()
    assert "input_ids" in log and "***** train metrics" in log and "20 of 20" in log
    assert "input_ids" not in out
    code, out, _ = command(
        capfd, "train", write_config(keys | {"max_steps": 1, "output_dir": str(folder / "again")}), "--verbose"
    )
    os.environ.pop("MOTIONTUNE_VERBOSE")
    assert code == 0 and "input_ids" in out and not (folder / "again" / "train.log").exists()


def test_a_mistake_is_one_line_and_leaves_no_log(capfd):
    keys = {**BOTH, "model_name_or_path": "/nowhere/at/all"}
    assert "/nowhere/at/all" in refused_run(capfd, **keys)


def test_a_log_in_the_way_is_named_at_the_start(capfd, tmp_path):
    (tmp_path / "train.log").write_text("mine")
    assert "train.log is no log of motiontune's" in refused_run(capfd, **BOTH, output_dir=str(tmp_path))


def test_the_first_line_comes_at_once():
    path = os.pathsep.join([str(Path(__file__).parents[1] / "src"), os.environ.get("PYTHONPATH", "")])
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "motiontune", "train", "nowhere.yaml"],
        env={**os.environ, "PYTHONPATH": path},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        first = process.stderr.readline()
        waited = time.monotonic() - begun
    finally:
        process.kill()
        process.communicate()
    assert first.startswith(b"motiontune train: loading torch")
    modules = run_command("-X", "importtime", "-c", "import motiontune.cli").stderr
    assert not [name for name in ("torch", "numpy", "cv2", "av") if re.search(rf"\| +{name}$", modules, re.M)]
    assert waited < 5, waited  # 0.2 s on an idle machine


def test_weights_that_zero3_has_parted_are_counted():
    """Each process holds an empty tensor that knows how many numbers it stands for."""
    from motiontune.llamafactory.page import settings_table
    from motiontune.model.head import MotionHeadConfig

    model = torch.nn.Linear(1, 1, bias=False)
    model.weight = torch.nn.Parameter(torch.empty(0))
    model.weight.ds_numel = 1234
    model.config = SimpleNamespace(model_type="qwen2_vl")
    keys = {"do_train": False, "bf16": True, "fp16": False, "device": "cpu", "output_dir": "out"}
    data_args, head = SimpleNamespace(motion_source="auto"), MotionHeadConfig(8, 14, 2, 2)
    shown = settings_table(model, head, data_args, SimpleNamespace(**keys), None, {})
    assert "qwen2_vl, 1,234 weights" in shown
