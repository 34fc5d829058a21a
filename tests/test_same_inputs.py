"""Training and evaluation show a model the same: token ids, positions, times and pixels of one clip."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import transformers
import yaml
from accelerate import init_empty_weights

import motiontune as mt
from motiontune.model.head import MotionHeadConfig
from motiontune.motion.options import MotionOptions
from motiontune.training.plain import MotionCollator
from motiontune.training.settings import TargetSettings
from training import family_param, tiny, write_clip


ADAPTERS = Path(__file__).parents[1] / "examples" / "lmms_eval"
QUESTION, ANSWER = "Which way does the object move: left or right?", "right"
FPS, MOST = 4.0, 8
QUICK = [family_param(family) for family in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")]


def adapter(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{name}_utils", ADAPTERS / name / "utils.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(clip: Path) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"<video>{QUESTION}"}, {"role": "assistant", "content": ANSWER}]
    return {"messages": messages, "videos": [str(clip)], "options": ["left", "right"], "task": "which_way_4"}


def positions(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Time, row and column of each token, int64 [3, B, S]; what the model itself makes of a batch."""
    ids = batch["input_ids"]
    kinds = 2 * (ids == model.config.video_token_id).int()
    more = {"second_per_grid_ts": batch["second_per_grid_ts"]} if "second_per_grid_ts" in batch else {}
    found, _ = model.model.get_rope_index(
        ids,
        mm_token_type_ids=kinds,
        video_grid_thw=batch["video_grid_thw"],
        attention_mask=torch.ones_like(ids),
        **more,
    )
    return found


@pytest.mark.parametrize("family", QUICK)
def test_training_and_evaluation_see_the_same(family: str, tmp_path: Path) -> None:
    from llamafactory.extras.constants import IGNORE_INDEX

    from motiontune.llamafactory.collator import MotionDataCollator
    from motiontune.llamafactory.reader import ModelReader

    folder = tiny(family)
    path = write_clip(tmp_path / "clip.mp4", frames=16, fps=8)
    reader = ModelReader(str(folder), FPS, MOST)
    template, processor = reader.template, reader.processor
    tokenizer = reader.tokenizer_module["tokenizer"]
    with init_empty_weights():
        model = transformers.AutoModelForImageTextToText.from_config(reader.config)

    # training: LLaMA-Factory's encoding and collator
    messages = row(path)["messages"]
    messages = template.mm_plugin.process_messages(messages, [], [str(path)], [], processor)
    asked, answered = template.encode_oneturn(tokenizer, messages)
    feature = {"input_ids": asked + answered, "attention_mask": [1] * len(asked + answered)}
    feature |= {"labels": [IGNORE_INDEX] * len(asked) + answered, "images": None, "audios": None}
    feature["videos"] = [reader.read(str(path), False)]
    collator = MotionDataCollator(template=template, model=model, **reader.tokenizer_module)
    trained = collator.inputs([feature])
    end = len(asked)

    # evaluation: the adapter's messages, the processor's own template, and frames with their times
    clip = mt.read_clip(str(path), FPS, MOST)
    (message,) = adapter("motion_questions").doc_to_messages(row(path))
    content = [{"type": "video"} if part["type"] == "video" else part for part in message["content"]]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    metadata = {"total_num_frames": 16, "fps": 8.0, "duration": 2.0, "frames_indices": clip.indices.tolist()}
    evaluated = processor(
        text=[text], videos=[clip.frames], video_metadata=[metadata], do_sample_frames=False, return_tensors="pt"
    )
    # and motiontune's own way without LLaMA-Factory
    settings = TargetSettings(_head(model), MotionOptions("none"))
    plain = MotionCollator(processor, settings, FPS, MOST).prompt(clip, QUESTION)

    assert len(clip.frames) == 8
    for other in (evaluated, plain):
        assert tokenizer.decode(other["input_ids"][0]) == tokenizer.decode(asked)
        assert other["input_ids"][0].tolist() == asked
        assert torch.equal(other["video_grid_thw"], trained["video_grid_thw"])
        torch.testing.assert_close(other["pixel_values_videos"], trained["pixel_values_videos"], atol=1e-5, rtol=1e-5)
        if "second_per_grid_ts" in trained:
            assert list(map(float, other["second_per_grid_ts"])) == list(map(float, trained["second_per_grid_ts"]))
        assert torch.equal(positions(model, other), trained["position_ids"][-3:, :, :end])
    # and times that differ would show
    late = dict(metadata, fps=4.0, duration=4.0)
    other = processor(
        text=[text], videos=[clip.frames], video_metadata=[late], do_sample_frames=False, return_tensors="pt"
    )
    if family == "qwen3_vl":
        assert other["input_ids"][0].tolist() != asked
    elif family == "qwen2_5_vl":
        assert float(other["second_per_grid_ts"][0]) == 2 * float(trained["second_per_grid_ts"][0])


def _head(model: Any) -> MotionHeadConfig:
    vision = model.config.vision_config
    sizes = {"merge": vision.spatial_merge_size, "temporal_patch": vision.temporal_patch_size}
    return MotionHeadConfig(hidden_size=32, patch=vision.patch_size, **sizes)


def test_the_adapters_score_what_models_write(tmp_path: Path) -> None:
    questions, real = adapter("motion_questions"), adapter("realbench")
    doc = row(tmp_path / "clip.mp4")
    assert questions.doc_to_text(doc) == QUESTION and questions.doc_to_target(doc) == ANSWER
    for text, right in (
        ("right", 1.0),
        ("Right.", 1.0),
        ("It moves right, not left", 1.0),
        ("left", 0.0),
        ("up", 0.0),
    ):
        found = questions.process_results(doc, [text])
        assert found["accuracy"] == found["which_way_4"] == right and found["speed"] is None
    assert questions.answer_of("upright", ["right"]) is None
    compass = ["north", "northeast", "counterclockwise", "clockwise"]
    assert questions.answer_of("northeast", compass) == "northeast"
    assert questions.answer_of("Counterclockwise", compass) == "counterclockwise"
    assert questions.mean([1.0, None, 0.0]) == 0.5
    turns = [{"from": "human", "value": "<image>\nWhich direction? A. Right, B. Left"}, {"from": "gpt", "value": "B"}]
    doc = {"video": "a.mp4", "conversations": turns}
    assert real.doc_to_text(doc) == "Which direction? A. Right, B. Left"
    assert [real.process_results(doc, [text])["accuracy"] for text in ("B", "(B) Left", "A", "")] == [1, 1, 0, 0]


@pytest.mark.parametrize("file", sorted(ADAPTERS.rglob("*_yaml")) + sorted(ADAPTERS.rglob("*.yaml")))
def test_the_tasks_name_functions_that_there_are(file: Path) -> None:
    class Loader(yaml.SafeLoader):
        """Reads `!function utils.name`."""

    Loader.add_constructor("!function", lambda loader, node: f"!{loader.construct_scalar(node)}")
    text = yaml.load(file.read_text(), Loader)  # noqa: S506
    utils = adapter(file.parent.name)
    named = [name.removeprefix("!utils.") for name in json.dumps(text).split('"') if name.startswith("!utils.")]
    assert all(callable(getattr(utils, name)) for name in named)
    if "dataset_kwargs" in text:
        assert list(text["dataset_kwargs"]["data_files"]) == ["test"]
    else:
        assert {m["metric"] for m in text["metric_list"]} == {"accuracy", *utils.TASKS}
