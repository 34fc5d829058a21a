"""Every file in `examples/` runs, with a tiny model and a few clips in place of the real ones."""

import functools
import re
from pathlib import Path

import pytest

from commands import command
from motiontune.datasets.dataset_info import make_sample, write_dataset
from motiontune.runs.configuration import read_config
from training import ALL_FAMILIES, CAPTIONS, clips, fresh_folder, history, results, start, tiny, weights


EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
FILES = sorted(file.name for file in EXAMPLES.glob("*.yaml"))
GROUPS = ["### model", "### method", "### dataset", "### output", "### train", "### eval", "### export"]
TRAINING = [name for name in FILES if "predict" not in name and "export" not in name]


@pytest.fixture(scope="module", autouse=True)
def imported():
    start()


@functools.cache
def dataset_dir():
    folder = fresh_folder("ssv2")
    pairs = list(zip(clips(), CAPTIONS, strict=True))
    for name in ("something_something_train", "something_something_validation"):
        samples = [make_sample(str(clip), "Explain the action happening the video.", text) for clip, text in pairs]
        write_dataset(folder, name, samples)
    return folder


def family_of(name):
    return next(family for family in ALL_FAMILIES if name.startswith(family.replace("_vl", "vl") + "_"))


def run_example(capfd, name, **overrides):
    """Run an example, small; returns its output folder."""
    output = fresh_folder("example")
    keys = {"model_name_or_path": tiny(family_of(name)), "dataset_dir": dataset_dir(), "output_dir": output}
    keys |= {"bf16": "false", "use_cpu": "true", "preprocessing_num_workers": 1, "dataloader_num_workers": 0}
    keys |= {"per_device_eval_batch_size": 2} | ({"val_size": 2} if name in TRAINING else {}) | overrides
    code, _, err = command(capfd, "train", EXAMPLES / name, *(f"{key}={value}" for key, value in keys.items()))
    assert code == 0, err[-4000:]
    return output


@functools.cache
def _trained():
    return {}


def train_example(capfd, name):
    if name not in _trained():
        steps = {"max_steps": 2, "eval_steps": 2, "gradient_accumulation_steps": 1, "logging_steps": 1}
        _trained()[name] = run_example(capfd, name, **steps)
    return _trained()[name]


@pytest.mark.parametrize("name", TRAINING)
def test_training_examples_train(name, capfd):
    folder = train_example(capfd, name)
    first = history(folder)[0]
    assert first["motion_loss"] > 0 and ("ce_loss" in first) == ("only_motion" not in name)
    assert first["epe"] == first["epe_zero_motion"] > 0  # the head starts at zero
    assert next(entry["eval_epe"] for entry in history(folder) if "eval_epe" in entry) > 0  # on the held-out clips
    assert weights(folder)["motion_head.weight"].any()
    assert (folder / "training_motion_loss.png").is_file()  # plot_loss


def test_the_prediction_example_predicts_text_and_motion(capfd):
    adapter = train_example(capfd, "qwen2vl_lora_motion.yaml")
    folder = run_example(capfd, "qwen2vl_predict.yaml", adapter_name_or_path=adapter, max_new_tokens=4)
    assert len((folder / "generated_predictions.jsonl").read_text("utf-8").splitlines()) == len(clips())
    assert len(list((folder / "motion_predictions").glob("*.npz"))) == len(clips())
    assert results(folder, "predict")["predict_epe"] > 0


def test_the_export_example_exports_model_and_head(capfd):
    adapter, merged = train_example(capfd, "qwen2vl_lora_motion.yaml"), fresh_folder("merged")
    keys = [f"model_name_or_path={tiny()}", f"adapter_name_or_path={adapter}", f"export_dir={merged}"]
    code, out, err = command(capfd, "export", EXAMPLES / "qwen2vl_export.yaml", *keys)
    assert code == 0, err[-4000:]
    *_, last = out.splitlines()
    assert f"{merged} holds the merged model and its motion head." in out and str(merged) in last
    assert f'AutoModelForImageTextToText.from_pretrained("{merged}")' in out and "[INFO" not in out
    assert {"motion_head.safetensors", "motion_head_config.json", "config.json"} <= {f.name for f in merged.iterdir()}


@pytest.mark.parametrize("name", [name for name in FILES if "export" not in name])
def test_inspect_looks_at_every_example(name, capfd):
    keys = [
        f"model_name_or_path={tiny(family_of(name))}",
        f"dataset_dir={dataset_dir()}",
        "preprocessing_num_workers=1",
    ]
    out = fresh_folder("pictures")
    code, said, err = command(capfd, "inspect", EXAMPLES / name, *keys, "--out", out)
    assert code == 0, err[-4000:]
    assert "learns motion" in said and (out / "sample_0.png").is_file()


@pytest.mark.parametrize("name", FILES)
def test_examples_are_written_as_llamafactorys(name):
    from motiontune.llamafactory import names
    from motiontune.llamafactory.config import check_keys, clean_values
    from motiontune.llamafactory.install import install

    install()
    classes = names.export_argument_classes() if "export" in name else names.train_argument_classes()
    keys = read_config([str(EXAMPLES / name)])
    check_keys(keys, classes)
    assert clean_values(keys, classes) == keys
    first, *lines = (EXAMPLES / name).read_text("utf-8").splitlines()
    assert re.fullmatch("# .+", first)  # what `motiontune init` prints of it
    assert [line for line in lines if line.startswith("###")] == [group for group in GROUPS if group in lines]
    for line in lines:  # what is commented out is a key, too
        if match := re.match(r"# (\w+): ", line):
            check_keys({match[1]: None}, classes)
    assert not any(isinstance(value, str) and value.startswith("/") for value in keys.values())


def test_the_table_lists_every_example():
    listed = re.findall(
        r"^\| `([^`]+)` \|.*`motiontune (\w+) examples/\1`", (EXAMPLES / "README.md").read_text(), re.M
    )
    assert sorted(name for name, _ in listed) == FILES
    assert all(verb == ("export" if "export" in name else "train") for name, verb in listed)


def test_the_readmes_own_yaml_is_an_example():

    text = (EXAMPLES.parent / "README.md").read_text("utf-8")
    file = fresh_folder("readme").with_suffix(".yaml")
    file.write_text(text.split("```yaml\n")[2].split("```")[0], "utf-8")
    keys, example = read_config([str(file)]), read_config([str(EXAMPLES / "qwen2vl_lora_motion.yaml")])
    same = set(keys) - {"output_dir"}
    assert {key: keys[key] for key in same} == {key: example.get(key) for key in same}
