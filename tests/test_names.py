"""The names of LLaMA-Factory and transformers that are relied on: all there, and missed with a readable message."""

import ast
import importlib
import importlib.util
import inspect
import pickle
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from motiontune.errors import MotiontuneError
from motiontune.training import names as transformers_names
from motiontune.training.names import Name, check
from motiontune.viewer.server import NAMES as GRADIO_NAMES


SOURCE = Path(transformers_names.__file__).resolve().parent.parent


def names() -> list[Name]:
    from motiontune.llamafactory.names import NAMES

    return NAMES


def owner_of(entry: Name) -> Any:
    module, _, cls = entry.where.partition(":")
    owner = importlib.import_module(module)
    return getattr(owner, cls) if cls else owner


def refusal() -> str:
    from motiontune.llamafactory.names import check_names

    with pytest.raises(MotiontuneError) as caught:
        check_names()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_name_is_there() -> None:
    from motiontune.llamafactory.names import check_names

    check_names()
    for listed in (names(), transformers_names.NAMES):
        assert len({(entry.where, entry.name) for entry in listed}) == len(listed)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("_TRAIN_ARGS", "llamafactory.hparams.parser._TRAIN_ARGS"),
        ("run_sft", "llamafactory.train.tuner.run_sft"),
        ("eval_logit_processor", "llamafactory.train.sft.workflow.eval_logit_processor"),
        (
            "_encode_data_example",
            "llamafactory.data.processor.SupervisedDatasetProcessor._encode_data_example",
        ),
        ("_get_qwen_video_resize", "llamafactory.data.mm_plugin.Qwen2VLPlugin._get_qwen_video_resize"),
    ],
)
def test_a_name_that_is_gone_is_named_with_its_use(name: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = next(entry for entry in names() if entry.name == name)
    monkeypatch.delattr(owner_of(entry), name)
    message = refusal()
    assert message.startswith(f"{where} is gone: motiontune {entry.use} there. Tested with llamafactory 0.9.5, found ")
    assert message.endswith("pip install 'motiontune[llamafactory]'")


def test_a_module_that_is_gone_is_named_too() -> None:
    moved = Name("llamafactory.data.somewhere_else", "loader", "loads data sets")
    with pytest.raises(MotiontuneError, match=r"^llamafactory\.data\.somewhere_else\.loader is gone: motiontune "):
        check([moved], "llamafactory", "0.9.5", "")
    with pytest.raises(ModuleNotFoundError):  # not installed at all: the command line names the extra to install
        check([Name("not_installed_at_all.data", "loader", "loads")], "llamafactory", "0.9.5", "")


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        (lambda dataset_attr, model_args, data_args, training_args: None, True),
        (lambda dataset_attr, model_args, data_args, training_args, more=0, **rest: None, True),
        (lambda dataset_attr, model_args, data_args: None, False),
        (lambda dataset_attr, data_args, model_args, training_args: None, False),
        (lambda dataset_attr, model_args, data_args, training_args, more: None, False),
        (lambda attr, model_args, data_args, training_args: None, False),
        (lambda *args, **kwargs: None, False),
    ],
)
def test_parameters_that_have_moved_are_named(change: Any, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.data import loader

    from motiontune.llamafactory.names import check_names

    monkeypatch.setattr(loader, "_load_single_dataset", change)
    if fits:
        check_names()
        return
    message = refusal()
    shown = str(inspect.signature(change))
    assert message.startswith(
        f"llamafactory.data.loader._load_single_dataset takes {shown}, no longer "
        f"(dataset_attr, model_args, data_args, training_args): motiontune logs the motion source per data set there."
    )


def test_attributes_and_columns_that_have_moved_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.data.processor import SupervisedDatasetProcessor
    from llamafactory.train.sft.metric import ComputeSimilarity

    def preprocess_dataset(self: Any, examples: Any) -> Any:
        return [examples[f"{name}"] for name in ("_prompt", "_response", "_system", "_tools", "_images", "_videos")]

    monkeypatch.setattr(SupervisedDatasetProcessor, "preprocess_dataset", preprocess_dataset)
    assert (
        "SupervisedDatasetProcessor.preprocess_dataset no longer has _audios: motiontune leaves samples" in refusal()
    )
    monkeypatch.undo()
    monkeypatch.setattr(ComputeSimilarity, "_dump", lambda self: None)
    assert "ComputeSimilarity._dump no longer has bleu-4, rouge-1, rouge-2, rouge-l, score_dict: " in refusal()


def test_a_transformers_that_has_moved_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import PreTrainedModel, Trainer

    transformers_names.check_names.cache_clear()
    monkeypatch.setattr(Trainer, "_load_from_checkpoint", lambda self, checkpoint: None)
    message = refusal()
    assert message.startswith("transformers.Trainer._load_from_checkpoint takes (self, checkpoint), no longer (resu")
    assert f"Tested with transformers {transformers_names.TRANSFORMERS}, found " in message
    monkeypatch.undo()
    monkeypatch.delattr(PreTrainedModel, "_keys_to_ignore_on_save")
    monkeypatch.setattr(PreTrainedModel, "__annotations__", {})
    assert refusal().startswith("transformers.PreTrainedModel._keys_to_ignore_on_save is gone: ")
    monkeypatch.undo()
    transformers_names.check_names()


def test_what_is_imported_of_llamafactory_is_listed() -> None:
    """So that no module fails with a traceback at its top, before anything could be checked."""
    from motiontune.llamafactory.names import WEBUI_NAMES

    listed = {(entry.where, entry.name) for entry in [*names(), *WEBUI_NAMES]}
    imported: dict[tuple[str, str], Path] = {}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "llamafactory":
                imported |= {(node.module or "", alias.name): file for alias in node.names}
    assert len(imported) > 20
    assert not {key: file.name for key, file in imported.items() if key not in listed}


def test_scores_of_answers_are_llamafactorys() -> None:
    import numpy as np

    from motiontune.llamafactory.names import similarity_scores

    class Words:
        pad_token_id = 0

        def batch_decode(self, rows: Any, **_: Any) -> list[str]:
            return [" ".join("abcdefgh"[number - 1] for number in row if number) for row in rows]

    one, other = np.array([[1, 2, 3, 4], [1, 2, 3, 4]]), np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    scores = similarity_scores(Words(), one, other)
    assert scores.keys() == {"bleu-4", "rouge-1", "rouge-2", "rouge-l"}
    assert scores["rouge-l"] == [100, 0] and scores["bleu-4"][0] == 100 > scores["bleu-4"][1]


def test_no_module_beside_the_launcher_hides_another() -> None:
    """A script's own folder comes first on the path, and torchrun starts the launcher as a script."""
    beside = [file.stem for file in (SOURCE / "llamafactory").glob("*.py") if file.stem != "__init__"]
    assert "launcher" in beside
    assert not set(beside) & set(sys.stdlib_module_names)
    elsewhere = [path for path in sys.path if path and Path(path).resolve() != SOURCE / "llamafactory"]
    finder = importlib.machinery.PathFinder
    assert not [name for name in beside if finder.find_spec(name, [p for p in elsewhere if "site-packages" in p])]


def test_gradio_has_what_the_page_in_the_browser_sets() -> None:
    assert [name.problem() for name in GRADIO_NAMES] == [""]


def test_installing_twice_changes_nothing() -> None:
    from llamafactory.hparams import parser
    from llamafactory.train import tuner

    from motiontune.llamafactory.install import install

    install()
    before = [*parser._TRAIN_ARGS, *parser._INFER_ARGS, tuner.run_sft, tuner.run_exp, tuner.get_train_args]
    install()
    assert [*parser._TRAIN_ARGS, *parser._INFER_ARGS, tuner.run_sft, tuner.run_exp, tuner.get_train_args] == before


def test_a_fault_of_ours_is_no_mistake_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    from llamafactory.data import loader

    from motiontune.llamafactory.names import dataset_hooks, loading_data

    def fail(*args: Any) -> Any:
        raise ValueError("a row is not right")

    class Attr:
        dataset_name = "toy"

    def nothing(*args: Any) -> None:
        pass

    with pytest.raises(MotiontuneError, match="^the data sets cannot be loaded: a row is not right$"):
        monkeypatch.setattr(loader, "_load_single_dataset", fail)
        with loading_data(), dataset_hooks(lambda processor: processor, nothing, nothing, nothing):
            loader._load_single_dataset(Attr)
    with pytest.raises(ValueError, match="a row is not right"), loading_data():
        with dataset_hooks(lambda processor: processor, nothing, nothing, fail):
            loader._load_single_dataset(Attr)
    monkeypatch.setattr(loader, "_load_single_dataset", lambda *args: [])
    with pytest.raises(ValueError, match="a row is not right") as caught:
        with loading_data(), dataset_hooks(lambda processor: processor, fail, nothing, nothing):
            loader._load_single_dataset(Attr)
    assert any("motiontune's own code" in note for note in pickle.loads(pickle.dumps(caught.value)).__notes__)


def test_of_jiebas_warning_and_of_no_other_nothing_is_shown():
    text = "pkg_resources is deprecated as an API. See https://setuptools.pypa.io"
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        importlib.reload(importlib.import_module("motiontune.llamafactory"))
        for module in ("jieba._compat", "other"):
            warnings.warn_explicit(text, UserWarning, f"{module}.py", 1, module)
    assert [warning.filename for warning in shown] == ["other.py"]
