"""LLaMA-Factory's WebUI trains with motiontune's keys out of its box for extra arguments."""

import json
import sys

import pytest

from motiontune.llamafactory import names
from training import PROMPT, REPOSITORY, clips, dataset, fresh_folder, history, sample, start, tiny


KEYS = {"use_motionvector_crossentropy_loss": True, "max_steps": 1, "video_fps": 8.0, "use_cpu": True}
KEYS |= {"preprocessing_num_workers": 1, "save_strategy": "no"}


@pytest.fixture(scope="module")
def page():
    """The page's runner, and a function that fills it in for a tiny model."""
    start()
    gradio = pytest.importorskip("gradio")
    from llamafactory.webui.components import create_top, create_train_tab
    from llamafactory.webui.engine import Engine

    engine = Engine(demo_mode=False, pure_chat=False)
    with gradio.Blocks():
        engine.manager.add_elems("top", create_top())
        engine.manager.add_elems("train", create_train_tab(engine))
    data = dataset([sample(PROMPT, "It stops.", videos=[clip]) for clip in clips()[:2]])

    def filled(output):
        values = {elem: getattr(elem, "value", None) for elem in engine.manager.get_elem_list()}
        entered = {"top.lang": "en", "top.model_name": "Custom", "top.model_path": str(tiny())}
        entered |= {"top.finetuning_type": "lora", "top.template": "qwen2_vl", "top.checkpoint_path": []}
        entered |= {"train.dataset_dir": data["dataset_dir"], "train.dataset": [data["dataset"]]}
        entered |= {
            "train.output_dir": str(output),
            "train.compute_type": "fp32",
            "train.extra_args": json.dumps(KEYS),
        }
        entered |= {"train.logging_steps": 1, "train.batch_size": 2, "train.gradient_accumulation_steps": 1}
        return values | {engine.manager.get_elem_by_id(name): value for name, value in entered.items()}

    return engine.runner, filled


def test_its_names_are_where_they_were(page):
    assert [name.problem() for name in names.WEBUI_NAMES] == [""] * 3


def test_it_shows_and_runs_motiontunes_command(page, monkeypatch):
    from llamafactory.webui import runner as module

    runner, filled = page
    started = []

    class Process:
        returncode = 0

        def __init__(self, words, **options):
            started.append((words, options))

        def communicate(self, timeout):
            return "", ""

    monkeypatch.setattr(module, "Popen", Process)
    output = fresh_folder("webui")
    with names.webui_trains():
        (shown,) = (next(iter(box.values())) for box in runner.preview_train(filled(output)))
        list(runner.run_train(filled(output)))
    assert "motiontune train" in shown and "llamafactory-cli" not in shown
    assert "--use_motionvector_crossentropy_loss True" in shown
    [(words, options)] = started
    assert words[:4] == [sys.executable, "-m", "motiontune", "train"] and options["env"]["LLAMABOARD_ENABLED"] == "1"
    assert "use_motionvector_crossentropy_loss: true" in open(words[4], encoding="utf-8").read()
    assert module.Popen is Process and "llamafactory-cli" in module.gen_cmd({})


@pytest.mark.slow  # it starts LLaMA-Factory once more
def test_a_step_is_trained_from_the_page(page, monkeypatch):
    runner, filled = page
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "src"))
    output = fresh_folder("webui")
    with names.webui_trains():
        boxes = list(runner.run_train(filled(output)))
    last = " ".join(str(value) for value in boxes[-1].values())
    assert "Exit code" not in last, last
    assert history(output)[0]["motion_loss"] > 0 and (output / "motion_head.safetensors").is_file()
