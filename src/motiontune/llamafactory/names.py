"""Everything that leans on a name of LLaMA-Factory 0.9.5 that it does not offer for extension, one function each.

`check_names` says which name has moved when LLaMA-Factory is another version.
"""

import logging as stdlib_logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from llamafactory import launcher
from llamafactory.data import loader as data_loader
from llamafactory.data.mm_plugin import Qwen2VLPlugin, Qwen3VLPlugin
from llamafactory.data.processor import SupervisedDatasetProcessor, UnsupervisedDatasetProcessor
from llamafactory.extras import logging
from llamafactory.hparams import parser
from llamafactory.train import tuner
from llamafactory.train.sft import workflow as sft_workflow
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer
from numpy.typing import NDArray
from transformers.integrations import TensorBoardCallback, WandbCallback, rewrite_logs

from motiontune.errors import MotiontuneError


# (module or class, name, what motiontune does with it)
NAMES: list[tuple[Any, str, str]] = [
    (parser, "_TRAIN_ARGS", "adds its keys to the training arguments"),
    (parser, "_INFER_ARGS", "adds its keys to the export arguments"),
    (tuner, "get_train_args", "checks its keys together"),
    (tuner, "get_infer_args", "reads the export arguments"),
    (tuner, "run_sft", "runs its own workflow when a motion flag is set"),
    (tuner, "run_exp", "starts a run"),
    (tuner, "export_model", "exports, then copies the motion head"),
    (launcher, "launch", "starts torchrun on its own file"),
    (sft_workflow, "load_model", "makes logits sparse"),
    (sft_workflow, "eval_logit_processor", "measures accuracy without logits"),
    (data_loader, "_get_dataset_processor", "checks clips before they are tokenized"),
    (data_loader, "_load_single_dataset", "says the motion source per data set"),
    (SupervisedDatasetProcessor, "_encode_data_example", "tokenizes each sample once"),
    (UnsupervisedDatasetProcessor, "_encode_data_example", "tokenizes each sample once"),
    *(
        (plugin, name, use)
        for plugin in (Qwen2VLPlugin, Qwen3VLPlugin)
        for name, use in (
            ("process_messages", "expands each video by itself"),
            ("_validate_messages", "checks messages before it expands them"),
            ("_preprocess_image", "resizes frames"),
            ("_regularize_images", "reads frames that are files"),
            ("_regularize_videos", "reads clips"),
            ("_get_qwen_video_stream_metadata", "samples frames"),
            ("_get_qwen_video_resize", "works out the patch grid"),
            ("_get_video_token_metadata", "counts video tokens"),
        )
    ),
    (CustomSeq2SeqTrainer, "_get_num_items_in_batch", "counts motion targets"),
    (CustomSeq2SeqTrainer, "_save", "saves the motion head"),
    (CustomSeq2SeqTrainer, "_load_from_checkpoint", "restores the motion head"),
    (CustomSeq2SeqTrainer, "_load_best_model", "restores the motion head"),
]


def check_names() -> None:
    """Fail with a readable message when LLaMA-Factory has moved a name that motiontune leans on.

    Raises:
        MotiontuneError: naming the module, the name and the use.
    """
    for owner, name, use in NAMES:
        if not hasattr(owner, name):
            where = f"{owner.__module__}.{owner.__name__}" if isinstance(owner, type) else owner.__name__
            raise MotiontuneError(
                f"{where}.{name} is gone: motiontune {use} there. "
                f"Install the LLaMA-Factory that motiontune was tested with: pip install 'motiontune[llamafactory]'"
            )


def get_logger(name: str) -> Any:
    """Return a logger that prints as LLaMA-Factory's own do (its handler hangs on the name "llamafactory")."""
    return logging.get_logger(f"llamafactory.{name}")


def log_picture(callbacks: list[Any], name: str, picture: NDArray[np.uint8], step: int) -> None:
    """Give a picture to TensorBoard and W&B, where the Trainer writes to them.

    transformers 5.6 has no event for pictures, so its callbacks' own writers are used: `TensorBoardCallback.tb_writer`
    and `WandbCallback._wandb`, which the first `on_log` opens. W&B's step is that of the metrics, as the callback
    defines it.

    Args:
        callbacks: the Trainer's, after it has logged something.
        name: such as "eval_motion", which is shown beside "eval_loss".
        picture: uint8 [h, w, 3], RGB.
        step: of the optimizer.
    """
    (name,) = rewrite_logs({name: None})
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_image(name, picture, step, dataformats="HWC")
            callback.tb_writer.flush()
        elif isinstance(callback, WandbCallback) and callback._wandb is not None:
            callback._wandb.log({name: callback._wandb.Image(picture), "train/global_step": step})


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing each configuration that LLaMA-Factory has it read."""
    before = os.environ.get("LLAMAFACTORY_VERBOSITY")
    os.environ["LLAMAFACTORY_VERBOSITY"] = "WARN"
    try:
        yield
    finally:
        if before is None:
            del os.environ["LLAMAFACTORY_VERBOSITY"]
        else:
            os.environ["LLAMAFACTORY_VERBOSITY"] = before


@contextmanager
def quiet_loggers() -> Iterator[None]:
    """Keep LLaMA-Factory's and motiontune's loggers, and transformers', from saying more than warnings."""
    root = stdlib_logging.getLogger("llamafactory")
    before = root.level
    root.setLevel(stdlib_logging.WARNING)
    try:
        with quiet_transformers():
            yield
    finally:
        root.setLevel(before)


def add_arguments(replacements: dict[type, type]) -> None:
    """Make LLaMA-Factory parse subclasses of its argument classes."""
    for classes in (parser._TRAIN_ARGS, parser._INFER_ARGS):
        classes[:] = [replacements.get(cls, cls) for cls in classes]


def train_argument_classes() -> list[type]:
    """Return the dataclasses whose fields are the keys of a training YAML."""
    from llamafactory.hparams.training_args import RayArguments

    return [*parser._TRAIN_ARGS, RayArguments]


def export_argument_classes() -> list[type]:
    """Return the dataclasses whose fields are the keys of an export YAML."""
    return list(parser._INFER_ARGS)


def replace_in_tuner(**functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Replace functions that `llamafactory.train.tuner` calls by name; return the originals."""
    originals = {name: getattr(tuner, name) for name in functions}
    for name, function in functions.items():
        setattr(tuner, name, function)
    return originals


@contextmanager
def sft_hooks(after_loading: Callable[[Any], None]) -> Iterator[None]:
    """While LLaMA-Factory's SFT workflow runs: change the model, whose forward gives token ids in place of logits.

    Args:
        after_loading: called with the model.
    """
    originals = sft_workflow.load_model, sft_workflow.eval_logit_processor

    def load_model(*args: Any, **kwargs: Any) -> Any:
        model = originals[0](*args, **kwargs)
        after_loading(model)
        return model

    sft_workflow.load_model, sft_workflow.eval_logit_processor = load_model, lambda token_ids, labels: token_ids
    try:
        yield
    finally:
        sft_workflow.load_model, sft_workflow.eval_logit_processor = originals


def point_launcher_at(file: str) -> None:
    """Make torchrun start `file` in each process: LLaMA-Factory's launcher names its own file."""
    launcher.__file__ = file


@contextmanager
def dataset_hooks(wrap_processor: Callable[[Any], Any], after_loading: Callable[[Any, Any], None]) -> Iterator[None]:
    """While data sets are loaded: wrap the processor that tokenizes samples, and look at each aligned data set.

    Args:
        wrap_processor: called with the `DatasetProcessor`, returns the one to use.
        after_loading: called with the `DatasetAttr` and the aligned data set, whose `_videos` column has the paths.
    """
    make_processor, load_single = data_loader._get_dataset_processor, data_loader._load_single_dataset

    def _get_dataset_processor(*args: Any, **kwargs: Any) -> Any:
        return wrap_processor(make_processor(*args, **kwargs))

    def _load_single_dataset(dataset_attr: Any, *args: Any, **kwargs: Any) -> Any:
        dataset = load_single(dataset_attr, *args, **kwargs)
        after_loading(dataset_attr, dataset)
        return dataset

    data_loader._get_dataset_processor, data_loader._load_single_dataset = _get_dataset_processor, _load_single_dataset
    try:
        yield
    finally:
        data_loader._get_dataset_processor, data_loader._load_single_dataset = make_processor, load_single
