"""The command line: commands, help, keys and their defaults, configuration files, and how processes are started."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from commands import command, refused
from motiontune import cli
from motiontune.errors import ConfigError, MotiontuneError
from training import BOTH, fresh_folder, history, keys_for, run_command, start, tiny, write_config


PYTHON = sys.executable


@pytest.fixture(scope="module", autouse=True)
def imported():
    start()  # before any test captures the streams that LLaMA-Factory's logger keeps


# ---- what users rely on: a change here is a change of the interface ----

COMMANDS = [
    "init",
    "train",
    "inspect",
    "extract",
    "select",
    "predict",
    "evaluate",
    "view",
    "webui",
    "report",
    "export",
    "prepare",
    "schema",
    "completion",
    "demo",
]

KEYS = {
    "train_on_video_tokens": False,
    "motion_source": "auto",
    "motion_quality": "balanced",
    "motion_min_confidence": 0.8,
    "motion_direction": "past",
    "motion_dir": None,
    "motion_raft_weights": None,
    "motion_cache_dir": None,
    "frame_cache_dir": None,
    "motion_manifest": None,
    "motion_on_error": "auto",
    "fold_video_tokens": True,
    "motion_pictures": 4,
    "use_only_motionvector_loss": False,
    "use_motionvector_crossentropy_loss": False,
    "motion_loss_weight": 1.0,
    "motion_loss_type": "smooth_l1",
    "motion_head": None,
    "motion_head_input": "last_hidden",
    "motion_head_features": "token",
    "motion_head_form": "dense",
    "motion_head_output": "displacement",
    "motion_gradient": "all",
    "motion_head_learning_rate": None,
    "motion_confidence_weighting": False,
    "motion_scale": 1.0,
    "sparse_logits": False,
}


def test_commands_and_keys_are_these():
    from motiontune.llamafactory.arguments import OWN_KEYS

    assert list(cli.COMMANDS) == COMMANDS
    assert OWN_KEYS == KEYS and list(OWN_KEYS) == list(KEYS)


def test_options_names_defaults_and_choices_are_these():
    import cli_options

    assert cli_options.options() == json.loads(cli_options.FILE.read_text("utf-8")), cli_options.__doc__


def test_the_page_of_keys_names_every_key():
    text = (Path(__file__).resolve().parent.parent / "docs" / "keys.md").read_text("utf-8")
    assert not [key for key in KEYS if f"`{key}`" not in text]


# ---- help ----


def test_help_lists_the_commands(capfd):
    code, out, _ = command(capfd, "--help")
    assert code == 0 and all(f"\n  {name} " in out for name in COMMANDS)
    code, _, err = command(capfd)
    assert code == 2 and all(f"\n  {name} " in err for name in COMMANDS)
    code, _, err = command(capfd, "trian")
    assert code == 2 and "invalid choice: 'trian'" in err and "Traceback" not in err
    for name in ("chat", "webchat"):
        code, _, err = command(capfd, name, "cfg.yaml")
        assert code == 2 and err == f"motiontune: {name} is a command of LLaMA-Factory: llamafactory-cli {name}\n"


@pytest.mark.parametrize("arguments", [["train"], ["train", "--help"], ["train", "cfg.yaml", "--help"]])
def test_help_of_train_is_one_screen_of_motiontunes_keys(arguments, capfd):
    code, out, _ = command(capfd, *arguments)
    assert code == 0 and len(out.splitlines()) < 42 and max(map(len, out.splitlines())) < 120
    for key, default in KEYS.items():
        assert re.search(rf"^{key} +{'null' if default is None else str(default).lower()}\. \w", out, re.M), key


def test_all_help_of_train_has_motiontunes_keys_last(capfd):
    code, out, _ = command(capfd, "train", "--help-all")
    assert code == 0
    everything, own = out.split("\nmotiontune's own keys:\n")
    for key, default in KEYS.items():
        assert f"\n  {key}: {'null' if default is None else str(default).lower()}\n      " in own
        assert f"--{key} " in everything
    assert "Train the video tokens to predict the motion of the video." in own
    assert "--finetuning_type {lora,oft,freeze,full}" in everything and "--video_fps VIDEO_FPS" in everything


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "train"])
def test_help_of_the_other_commands(name, capfd):
    code, out, err = command(capfd, name, "--help")
    assert code == 0 and f"motiontune {name}" in out and "Traceback" not in err


# ---- configuration files and arguments ----


def config_file(name, text):
    file = fresh_folder("configs") / name
    file.parent.mkdir()
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bad.yaml", "a: [1\nb: {", "while parsing a flow sequence"),
        ("tab.yaml", "a:\n\tb: 1", "cannot start any token"),
        ("twice.yaml", "max_steps: 1\nmax_steps: 2", "found duplicate key max_steps"),
        ("list.yaml", "- a\n- b", "must be a mapping of keys to values"),
        ("list.json", "[1]", "must be a mapping of keys to values"),
        ("bad.json", "{", "Expecting property name"),
        ("bytes.yaml", b"\x88\x89\x00", "can't decode byte"),
        ("open.yaml", "output_dir: ${nowhere}", "Interpolation key 'nowhere' not found"),
    ],
)
@pytest.mark.parametrize("name_of_command", ["train", "inspect", "export"])
def test_a_file_that_cannot_be_read(name_of_command, name, text, said, capfd):
    file = config_file(name, text)
    message = refused(capfd, name_of_command, file)
    assert message.startswith(f"{file}: ") and said in message


def test_a_file_that_is_not_there(capfd):
    assert refused(capfd, "train", "nowhere.yaml") == "nowhere.yaml: no such file"
    assert refused(capfd, "train", "nowhere.json") == "nowhere.json: no such file"
    assert (
        refused(capfd, "train", "a.txt") == "a.txt: must be a .yaml, .yml or .json file, or arguments as --key value"
    )
    assert refused(capfd, "train", "a=b").startswith("a=b: must be a .yaml")


@pytest.mark.parametrize("override", ["--max_steps=1", "--max_steps", "max_steps"])
def test_what_follows_a_file_is_key_value(override, capfd):
    message = refused(capfd, "train", write_config(keys_for(**BOTH)), override)
    assert message == f"{override!r}: after a file, keys are written as key=value"


def test_unknown_keys_name_the_nearest(capfd):
    file = write_config(keys_for(**BOTH))
    said = "unknown key 'motion_los_weight': did you mean 'motion_loss_weight'?"
    assert refused(capfd, "train", file, "motion_los_weight=2") == said
    assert refused(capfd, "inspect", file, "motion_los_weight=2") == said
    assert refused(capfd, "train", "--motion_los_weight", "2") == said
    assert refused(capfd, "train", "--motion-los-weight=2") == said
    assert refused(capfd, "export", write_config({"exportdir": "x"})) == (
        "unknown key 'exportdir': did you mean 'export_dir'?"
    )


def test_overrides_are_of_their_types(capfd):
    output = fresh_folder()
    file = write_config(keys_for(**BOTH))
    overrides = ["max_steps=1", "use_motionvector_crossentropy_loss=false", "use_only_motionvector_loss=True"]
    overrides += ["motion_loss_weight=0.5", "learning_rate=1e-4", f"output_dir={output}"]
    assert command(capfd, "train", file, *overrides)[0] == 0
    first, _ = history(output)
    assert first["learning_rate"] == 1e-4 and "ce_loss" not in first
    assert first["loss"] == pytest.approx(0.5 * first["motion_loss"])


def test_json_and_plain_arguments_train_as_yaml_does(capfd):
    keys = keys_for(**BOTH, max_steps=1)
    folders = [fresh_folder() for _ in range(3)]
    json_file = config_file("keys.json", json.dumps(keys | {"output_dir": str(folders[0])}))
    yaml_file = config_file("keys.yml", "".join(f"{key}: {json.dumps(value)}\n" for key, value in keys.items()))
    arguments = [part for key, value in keys.items() if key != "output_dir" for part in (f"--{key}", str(value))]
    assert command(capfd, "train", json_file)[0] == 0
    assert command(capfd, "train", yaml_file, f"output_dir={folders[1]}")[0] == 0
    assert command(capfd, "train", *arguments, "--output_dir", folders[2])[0] == 0
    losses = [history(folder)[0]["loss"] for folder in folders]
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.parametrize("key", ["motion_direction", "finetuning_type"])
def test_plain_arguments_of_other_values_are_refused(key, capfd):
    code, _, err = command(capfd, "train", f"--{key}", "x")
    assert code == 2 and "invalid choice: 'x'" in err and "Traceback" not in err


def test_extra_keys_are_allowed_as_by_llamafactory(monkeypatch, capfd):
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "1")
    output = fresh_folder()
    keys = keys_for(**BOTH, max_steps=1, output_dir=str(output), of_my_own=1)
    assert command(capfd, "train", write_config(keys))[0] == 0
    assert history(output)


# ---- export ----


def test_export_says_what_is_wrong(capfd):
    keys = {"model_name_or_path": str(tiny()), "template": "qwen2_vl", "trust_remote_code": True}
    file = write_config(keys)
    assert refused(capfd, "export", file) == "Please specify `export_dir` to save model."
    out = f"export_dir={fresh_folder()}"
    assert "Failed to load tokenizer." in refused(capfd, "export", file, out, "model_name_or_path=/nowhere")
    message = refused(capfd, "export", file, out, "adapter_name_or_path=/nowhere", "finetuning_type=lora")
    assert message == "Can't find 'adapter_config.json' at '/nowhere'"


# ---- how a run is started, and how it ends ----


TORCHRUN = """#!{python}
import json, os, pathlib, sys, time
folder = pathlib.Path(__file__).parent
(folder / "words.json").write_text(json.dumps(sys.argv[1:]))
if os.environ["ENDS"] == "mistake":
    pathlib.Path(os.environ["MOTIONTUNE_MISTAKE"]).write_text("dataset: 'toys' is not there")
if os.environ["ENDS"] == "never":
    print("started", flush=True)
    time.sleep(60)
sys.exit({{"well": 0, "mistake": 1, "fault": 3}}[os.environ["ENDS"]])
"""


@pytest.fixture
def torchrun(monkeypatch):
    """A program in the place of torchrun; the folder that it writes its arguments to."""
    folder = fresh_folder()
    folder.mkdir(parents=True)
    (folder / "torchrun").write_text(TORCHRUN.format(python=sys.executable))
    (folder / "torchrun").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))  # beside which torchrun is looked for
    for name, value in {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "MASTER_PORT": "29511", "ENDS": "well"}.items():
        monkeypatch.setenv(name, value)
    return folder


def test_torchrun_starts_motiontunes_own_file(torchrun, monkeypatch, capfd):
    from motiontune.llamafactory import launcher

    file = write_config(keys_for(**BOTH, output_dir=str(fresh_folder() / "a folder")))
    file = file.rename(file.with_name("of a user.yaml"))
    assert command(capfd, "train", file, "max_steps=1", "run_name=one two")[0] == 0
    words = json.loads((torchrun / "words.json").read_text())
    assert "--nproc_per_node" in words and words[-4:] == [
        launcher.__file__,
        str(file),
        "max_steps=1",
        "run_name=one two",
    ]
    for name in ("FORCE_TORCHRUN", "NPROC_PER_NODE"):  # of two nodes with one GPU, or none, each starts one process
        monkeypatch.delenv(name)
    monkeypatch.setenv("NNODES", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert command(capfd, "train", file)[0] == 0
    words = json.loads((torchrun / "words.json").read_text())
    assert words[words.index("--nnodes") + 1] == "2" and words[words.index("--nproc_per_node") + 1] == "1"
    # a mistake that one of its processes found is the last that is shown
    monkeypatch.setenv("ENDS", "mistake")
    assert refused(capfd, "train", file) == "dataset: 'toys' is not there"
    monkeypatch.setenv("ENDS", "fault")
    assert command(capfd, "train", file)[0] == 3
    # a mistake shows before any process is started
    (torchrun / "words.json").unlink()
    assert refused(capfd, "train", file, "motion_los=1").startswith("unknown key 'motion_los'")
    monkeypatch.setenv("NNODES", "1:2")
    assert refused(capfd, "train", file) == (
        "NNODES must be a number above 0, and is '1:2': for a number that may change set RDZV_ID, MIN_NNODES and "
        "MAX_NNODES"
    )
    assert not (torchrun / "words.json").exists()


def test_torchrun_ends_with_the_process_that_started_it(torchrun, monkeypatch, capfd):
    from motiontune.llamafactory import launcher

    monkeypatch.setenv("ENDS", "never")
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    started = time.monotonic()
    with pytest.raises(subprocess.CalledProcessError) as ended:
        launcher._torchrun([str(torchrun / "torchrun")], dict(os.environ))
    assert ended.value.returncode == -signal.SIGTERM and time.monotonic() - started < 30


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell a process that its parent has died")
def test_torchrun_ends_where_the_process_that_started_it_is_killed(torchrun, monkeypatch):
    monkeypatch.setenv("ENDS", "never")
    code = (
        "import os, sys\nfrom motiontune.llamafactory import launcher\n"
        "launcher._torchrun([sys.argv[1]], dict(os.environ))"
    )
    process = subprocess.Popen([PYTHON, "-c", code, str(torchrun / "torchrun")])
    while not (children := psutil.Process(process.pid).children()):
        time.sleep(0.05)
    while not (torchrun / "words.json").exists():  # it is torchrun's by now
        time.sleep(0.05)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_failed_torchrun_ends_with_its_exit_code(monkeypatch):
    def failed():
        raise subprocess.CalledProcessError(3, "torchrun")

    with pytest.raises(SystemExit) as stopped:
        cli.exit_with_message(failed)
    assert stopped.value.code == 3


def fail_with(error):
    def run():
        raise error

    return run


def test_mistakes_end_in_one_line_and_code_2(capsys, monkeypatch):
    with pytest.raises(SystemExit) as stopped:
        cli.exit_with_message(fail_with(MotiontuneError("what is wrong")))
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "motiontune: what is wrong\n"
    monkeypatch.setenv("LLAMAFACTORY_VERBOSITY", "DEBUG")
    with pytest.raises(SystemExit):
        cli.exit_with_message(fail_with(ConfigError("what is wrong")))
    assert capsys.readouterr().err.startswith("Traceback")


def test_who_stops_a_run_is_told_where_it_goes_on(capsys):
    for stop, said in (
        (KeyboardInterrupt(), "stopped"),
        (KeyboardInterrupt("it goes on from here"), "stopped; it goes on"),
    ):
        with pytest.raises(SystemExit) as stopped:
            cli.exit_with_message(fail_with(stop))
        assert stopped.value.code == 130 and capsys.readouterr().err.startswith(f"motiontune: {said}")


def test_output_that_nobody_reads_to_its_end_is_no_fault():
    code = "from motiontune.errors import exit_with_message as run; run(lambda: [print(i) for i in range(99999)])"
    process = subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 141 and not process.stderr.read()


def test_bugs_keep_their_traceback():
    for error in (
        ValueError("a bug"),
        BrokenPipeError("a bug"),
        RuntimeError("a bug"),
        ImportError("a bug", name="numpy"),
    ):
        with pytest.raises(type(error), match="a bug"):
            cli.exit_with_message(fail_with(error))


def test_without_llamafactory_the_way_to_install_it_is_said(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.exit_with_message(fail_with(ModuleNotFoundError("No module named 'llamafactory'", name="llamafactory")))
    assert stopped.value.code == 2
    assert "install it with: pip install 'motiontune[llamafactory]'" in capsys.readouterr().err


def test_ctrl_c_ends_with_code_130():
    with pytest.raises(SystemExit) as stopped:
        cli.exit_with_message(fail_with(KeyboardInterrupt()))
    assert stopped.value.code == 130


def test_help_is_quick_and_needs_no_llamafactory():
    code = "import sys; sys.argv = ['motiontune', '--help']\n"
    code += "try:\n    from motiontune.cli import main; main()\n"
    code += "finally:\n    assert not {'llamafactory', 'torch'} & set(sys.modules)"
    assert "commands:" in run_command("-c", code).stdout


def test_help_of_no_command_but_those_that_list_llamafactorys_keys_loads_it():
    """And one command imports no other's module."""
    code = """
import sys, contextlib, io
from motiontune import cli
for name in cli.COMMANDS:
    if name in ("train", "export"):
        continue
    before = {module for module in sys.modules if module.startswith("motiontune.commands.")}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        cli.run_command(name, ["--help"])
    new = {module for module in sys.modules if module.startswith("motiontune.commands.")} - before
    assert new <= {f"motiontune.commands.{name}", "motiontune.commands.options"}, new
    assert not {"llamafactory", "torch", "transformers"} & set(sys.modules), name
"""
    run_command("-c", code)


@pytest.mark.parametrize("name", ["predict", "evaluate", "view"])
def test_the_old_name_of_compare_with_works_with_one_line_of_notice(name, capsys):
    needed = {"predict": ["a.mp4", "--model", "m"], "evaluate": ["--dataset", "d", "--model", "m"], "view": []}[name]
    for words, source in (([], "auto"), (["--compare-with", "flow"], "flow")):
        assert cli.parser_of(name).parse_args([*needed, *words]).compare_with == source
    assert capsys.readouterr().err == ""
    assert cli.parser_of(name).parse_args([*needed, "--target", "codec"]).compare_with == "codec"
    assert capsys.readouterr().err == "--target is called --compare-with now; the old name still works\n"
    assert "--target" not in cli.parser_of(name).format_help()


def test_a_process_of_its_own_ends_in_one_line():
    config = write_config(keys_for(**BOTH, dataset="toyy"))
    result = run_command("-m", "motiontune.cli", "train", str(config), check=False)
    assert result.returncode == 2
    assert result.stderr.rstrip().splitlines()[-1].startswith("motiontune: dataset: 'toyy' is not in ")
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_torchrun_trains_in_two_processes_and_ends_in_one_line():
    output = fresh_folder()
    keys = keys_for(**BOTH, max_steps=1, output_dir=str(output), per_device_train_batch_size=1)
    env = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2"}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    run_command("-m", "motiontune.cli", "train", str(write_config(keys)), env=env)
    assert history(output)[0]["motion_loss"] > 0
    result = run_command(
        "-m", "motiontune.cli", "train", str(write_config(keys_for(**BOTH, dataset="toyy"))), env=env, check=False
    )
    assert result.returncode == 2
    assert result.stderr.rstrip().splitlines()[-1].startswith("motiontune: dataset: 'toyy' is not in ")
