"""Everything that relies on a name of LLaMA-Factory 0.9.5 that it does not offer for extension, one function each.

`check_names` states in one line which name has moved when LLaMA-Factory is another version. It runs when this package
is imported. So LLaMA-Factory is imported inside the functions here, and what other modules import of it is listed too.
"""

import logging as stdlib_logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.errors import INSTALL, mistakes, own_code
from motiontune.training import names as transformers_names
from motiontune.training.names import Name, check


LLAMAFACTORY = "0.9.5"

_PLUGIN_NAMES = (
    ("process_messages", "expands each video by itself", "messages images videos audios processor"),
    ("_validate_messages", "checks messages before it expands them", "messages images videos audios"),
    ("_preprocess_image", "resizes frames", "image"),
    ("_regularize_images", "reads frames that are files", "images"),
    ("_regularize_videos", "reads clips", "videos"),
    ("_get_qwen_video_stream_metadata", "samples frames", "video video_fps video_maxlen"),
    (
        "_get_qwen_video_resize",
        "works out the patch grid",
        "num_frames height width patch_size temporal_patch_size merge_size min_pixels max_pixels",
    ),
    ("_get_video_token_metadata", "counts video tokens", "videos processor"),
)
_SFT_ARGUMENTS = "model_args data_args training_args finetuning_args generating_args callbacks"
COLUMNS = ("prompt", "response", "system", "tools", "images", "videos", "audios")
"""Columns of an aligned data set, which LLaMA-Factory names with `_` in front."""

# fmt: off
NAMES = [
    Name("llamafactory.hparams.parser", "_TRAIN_ARGS", "adds its keys to the training arguments"),
    Name("llamafactory.hparams.parser", "_INFER_ARGS", "adds its keys to the export arguments"),
    Name("llamafactory.train.tuner", "get_train_args", "checks its keys together", "args"),
    Name("llamafactory.train.tuner", "get_infer_args", "reads the export arguments", "args"),
    Name("llamafactory.train.tuner", "run_sft", "runs its own workflow when a motion flag is set", _SFT_ARGUMENTS),
    Name("llamafactory.train.tuner", "run_exp", "starts a run", "args callbacks"),
    Name("llamafactory.train.tuner", "export_model", "exports, then copies the motion head", "args"),
    Name("llamafactory.train.trainer_utils", "get_placement_group", "places Ray's workers", "num_workers"),
    Name("llamafactory.train.trainer_utils", "get_ray_remote_config_for_worker", "gives Ray's workers CPUs",
         "placement_group bundle_idx rank world_size master_addr master_port", "num_cpus"),
    Name("llamafactory.train.trainer_utils", "get_ray_head_node_ip", "finds Ray's head node", ""),
    Name("llamafactory.launcher", "launch", "starts torchrun on its own file", "", mentions="__file__"),
    Name("llamafactory.launcher", "subprocess", "starts torchrun itself"),
    Name("llamafactory.train.sft.workflow", "load_model", "makes logits sparse",
         "tokenizer model_args finetuning_args"),
    Name("llamafactory.train.sft.workflow", "eval_logit_processor", "measures accuracy without logits",
         "logits labels"),
    Name("llamafactory.data.loader", "_get_dataset_processor", "checks clips before they are tokenized",
         "data_args stage template tokenizer processor do_generate"),
    Name("llamafactory.data.loader", "_load_single_dataset", "logs the motion source per data set",
         "dataset_attr model_args data_args training_args"),
    *(
        Name(f"llamafactory.data.processor:{processor}", name, use, *more)
        for processor in ("SupervisedDatasetProcessor", "UnsupervisedDatasetProcessor")
        for name, use, *more in (
            ("_encode_data_example", "tokenizes each sample once", " ".join(COLUMNS)),
            ("preprocess_dataset", "leaves samples out", "examples", " ".join(f"_{column}" for column in COLUMNS)),
        )
    ),
    Name("llamafactory.data.processor.processor_utils:DatasetProcessor", "__init__", "looks at clips",
         "template tokenizer processor data_args"),
    *(
        Name(f"llamafactory.data.mm_plugin:{plugin}", *entry)
        for plugin in ("Qwen2VLPlugin", "Qwen3VLPlugin")
        for entry in _PLUGIN_NAMES
    ),
    Name("llamafactory.data.template:Template", "encode_oneturn", "tokenizes a question", "tokenizer messages"),
    Name("llamafactory.data.template:Template", "mm_plugin", "puts its own plugin"),
    Name("llamafactory.data.formatter:Formatter", "slots", "looks for special tokens"),
    Name("llamafactory.train.sft.trainer:CustomSeq2SeqTrainer", "__init__", "trains with motion",
         "finetuning_args processor gen_kwargs", "model_accepts_loss_kwargs"),
    Name("llamafactory.train.sft.trainer:CustomSeq2SeqTrainer", "save_predictions", "writes the predicted text",
         "dataset predict_results skip_special_tokens"),
    Name("llamafactory.train.sft.metric:ComputeSimilarity", "_dump", "reads the scores of each answer",
         "", "score_dict rouge-1 rouge-2 rouge-l bleu-4"),
    Name("llamafactory.train.sft.metric:ComputeSimilarity", "__call__", "scores answers", "eval_preds compute_result"),
    Name("llamafactory.train.sft.metric", "ComputeAccuracy", "measures accuracy", ""),
    # what other modules import
    Name("llamafactory.data", "SFTDataCollatorWith4DAttentionMask", "adds motion to batches",
         "tokenizer model pad_to_multiple_of label_pad_token_id template processor block_diag_attn"
         " attn_implementation compute_dtype neat_packing"),
    Name("llamafactory.data", "TEMPLATES", "checks `template`"),
    Name("llamafactory.data", "get_dataset", "loads data sets",
         "template model_args data_args training_args stage tokenizer processor"),
    Name("llamafactory.data", "get_template_and_fix_tokenizer", "loads the template", "tokenizer data_args"),
    Name("llamafactory.data.mm_plugin", "Qwen2VLPlugin", "reads clips"),
    Name("llamafactory.data.mm_plugin", "Qwen3VLPlugin", "reads clips"),
    Name("llamafactory.data.processor", "SupervisedDatasetProcessor", "checks samples"),
    Name("llamafactory.data.processor.processor_utils", "DatasetProcessor", "checks samples"),
    Name("llamafactory.data.template", "Template", "puts its own plugin"),
    Name("llamafactory.extras", "logging", "logs"),
    Name("llamafactory.extras.logging", "get_logger", "logs", "name"),
    Name("llamafactory.extras.constants", "AttentionFunction", "knows FlashAttention-2 by its name"),
    Name("llamafactory.extras.constants", "DATA_CONFIG", "names dataset_info.json"),
    Name("llamafactory.extras.constants", "IGNORE_INDEX", "reads labels"),
    Name("llamafactory.extras.constants", "VIDEO_PLACEHOLDER", "finds the video in a prompt"),
    Name("llamafactory.extras.misc", "count_parameters", "counts weights", "model"),
    Name("llamafactory.extras.misc", "get_device_count", "starts a process for each device", ""),
    Name("llamafactory.extras.misc", "get_device_name", "places Ray's workers", ""),
    Name("llamafactory.extras.misc", "use_ray", "knows of Ray", ""),
    Name("llamafactory.extras.misc", "calculate_tps", "measures speed", "dataset metrics stage"),
    Name("llamafactory.extras.ploting", "plot_loss", "plots losses", "save_dictionary keys"),
    Name("llamafactory.hparams", "DataArguments", "adds its keys"),
    Name("llamafactory.hparams", "FinetuningArguments", "adds its keys"),
    Name("llamafactory.hparams", "GeneratingArguments", "generates text"),
    Name("llamafactory.hparams", "ModelArguments", "loads the model"),
    Name("llamafactory.hparams", "parser", "adds its keys"),
    Name("llamafactory.hparams.training_args", "TrainingArguments", "trains"),
    Name("llamafactory.hparams.training_args", "RayArguments", "knows all keys"),
    Name("llamafactory.model", "load_config", "loads the model", "model_args"),
    Name("llamafactory.model", "load_model", "loads the model", "tokenizer model_args finetuning_args is_trainable"),
    Name("llamafactory.model", "load_tokenizer", "loads the tokenizer", "model_args"),
    Name("llamafactory", "launcher", "starts torchrun"),
    Name("llamafactory.data", "loader", "loads data sets"),
    Name("llamafactory.train", "tuner", "starts a run"),
    Name("llamafactory.train.sft", "workflow", "makes logits sparse"),
    Name("llamafactory.train.sft.metric", "ComputeSimilarity", "scores answers", "tokenizer"),
    Name("llamafactory.train.sft.trainer", "CustomSeq2SeqTrainer", "trains with motion"),
    Name("llamafactory.train.trainer_utils", "create_modelcard_and_push", "writes the model card",
         "trainer model_args data_args training_args finetuning_args"),
]

WEBUI_NAMES = [  # apart, as importing them loads gradio
    Name("llamafactory.webui.runner:Runner", "_launch", "trains by its own command from the WebUI", "data do_train",
         "Popen llamafactory-cli train"),
    Name("llamafactory.webui.runner", "gen_cmd", "shows its own command in the WebUI", "args"),
    Name("llamafactory.webui.interface", "run_web_ui", "starts the WebUI", ""),
]
# fmt: on


def check_names() -> None:
    """Refuse a LLaMA-Factory or transformers in which a name has moved that motiontune relies on.

    Raises:
        MotiontuneError: naming the module, the name, the use and the versions, in one line.
    """
    check(NAMES, "llamafactory", LLAMAFACTORY, INSTALL)
    transformers_names.check_names()


def get_logger(name: str) -> Any:
    """Return a logger that prints as LLaMA-Factory's own do (its handler hangs on the name "llamafactory")."""
    from llamafactory.extras import logging

    return logging.get_logger(f"llamafactory.{name}")


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
    """Keep LLaMA-Factory's and motiontune's loggers, and transformers', from printing more than warnings."""
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
    from llamafactory.hparams import parser

    for classes in (parser._TRAIN_ARGS, parser._INFER_ARGS):
        classes[:] = [replacements.get(cls, cls) for cls in classes]


OUTPUT_DIR = "trainer_output"
"""Where a run writes that names no `output_dir`: transformers' default."""


def train_argument_classes() -> list[type]:
    """Return the dataclasses whose fields are the keys of a training YAML."""
    from llamafactory.hparams import parser
    from llamafactory.hparams.training_args import RayArguments

    return [*parser._TRAIN_ARGS, RayArguments]


def export_argument_classes() -> list[type]:
    """Return the dataclasses whose fields are the keys of an export YAML."""
    from llamafactory.hparams import parser

    return list(parser._INFER_ARGS)


def replace_in_tuner(**functions: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Replace functions that `llamafactory.train.tuner` calls by name; return the originals."""
    from llamafactory.train import tuner

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
    from llamafactory.train.sft import workflow as sft_workflow

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


@contextmanager
def torchrun_by(run: Callable[[list[str], dict[str, str]], None]) -> Iterator[None]:
    """While LLaMA-Factory's launcher runs: let `run` start torchrun, with a file and arguments of its own.

    The launcher would start its own file, and cuts its line, with the user's arguments in it, at every space.

    Args:
        run: called with torchrun and its options, such as `["torchrun", "--nnodes", "1"]`, and the environment.
    """
    from llamafactory import launcher

    file = "FILE"

    class _Subprocess:
        @staticmethod
        def run(words: list[str], env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
            run(words[: words.index(file)], env)
            return subprocess.CompletedProcess(words, 0)

    before = launcher.__file__, launcher.subprocess
    launcher.__file__, launcher.subprocess = file, _Subprocess
    try:
        yield
    finally:
        launcher.__file__, launcher.subprocess = before


@contextmanager
def webui_trains() -> Iterator[None]:
    """Let the WebUI run, and show, `motiontune train` in place of `llamafactory-cli train`, which has not the keys."""
    import llamafactory.webui.runner as runner

    start, show = runner.Popen, runner.gen_cmd

    def popen(words: list[str], **options: Any) -> Any:
        name, *rest = words
        ours = [sys.executable, "-m", "motiontune", *rest, "--verbose"] if name == "llamafactory-cli" else words
        return start(ours, **options)

    runner.Popen, runner.gen_cmd = popen, lambda args: show(args).replace("llamafactory-cli", "motiontune")
    try:
        yield
    finally:
        runner.Popen, runner.gen_cmd = start, show


def run_webui() -> None:
    """Serve LLaMA-Factory's WebUI until Ctrl+C.

    Raises:
        MotiontuneError: as `check_names`.
    """
    check(WEBUI_NAMES, "llamafactory", LLAMAFACTORY, INSTALL)
    from llamafactory.webui.interface import run_web_ui

    with webui_trains():
        run_web_ui()


@contextmanager
def loading_data() -> Iterator[None]:
    """Turn what LLaMA-Factory and `datasets` raise about the user's data sets into one line."""
    from datasets.exceptions import DatasetsError
    from llamafactory.extras.constants import DATA_CONFIG

    errors = (OSError, ValueError, RuntimeError, StopIteration, DatasetsError)
    with (
        mistakes("the data sets cannot be loaded", *errors),
        mistakes(f"a data set lacks a column that {DATA_CONFIG} names", KeyError),
    ):
        yield


@contextmanager
def dataset_hooks(
    wrap_processor: Callable[[Any], Any],
    after_loading: Callable[[Any, Any], None],
    after_tokenizing: Callable[[str, Any, Any], None],
    after_failing: Callable[[Any], None],
) -> Iterator[None]:
    """While data sets are loaded: wrap the processor that tokenizes samples, and look at each aligned data set.

    Args:
        wrap_processor: called with the `DatasetProcessor`, returns the one to use.
        after_loading: called with the `DatasetAttr` and the aligned data set, whose `_videos` column has the paths.
        after_tokenizing: called with "train" or "eval", and the data set before and after it was tokenized.
        after_failing: called with the `DatasetAttr` of one that cannot be loaded; may raise what says more.
    """
    from llamafactory.data import loader as data_loader

    names = "_get_dataset_processor", "_load_single_dataset", "_get_preprocessed_dataset"
    originals = {name: getattr(data_loader, name) for name in names}
    make_processor, load_single, tokenize = originals.values()

    def _get_dataset_processor(*args: Any, **kwargs: Any) -> Any:
        return wrap_processor(make_processor(*args, **kwargs))

    def _load_single_dataset(dataset_attr: Any, *args: Any, **kwargs: Any) -> Any:
        with mistakes(f"data set {dataset_attr.dataset_name}: a row is not as described", TypeError, AttributeError):
            try:
                dataset = load_single(dataset_attr, *args, **kwargs)
            except Exception:
                with own_code():
                    after_failing(dataset_attr)
                raise
        with own_code():
            after_loading(dataset_attr, dataset)
        return dataset

    def _get_preprocessed_dataset(dataset: Any, *args: Any, is_eval: bool = False, **kwargs: Any) -> Any:
        tokenized = tokenize(dataset, *args, is_eval=is_eval, **kwargs)
        if dataset is not None:
            after_tokenizing("eval" if is_eval else "train", dataset, tokenized)
        return tokenized

    replacements = _get_dataset_processor, _load_single_dataset, _get_preprocessed_dataset
    for name, replacement in zip(names, replacements, strict=True):
        setattr(data_loader, name, replacement)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(data_loader, name, original)


def sample_of(examples: dict[str, list[Any]], index: int) -> dict[str, Any]:
    """One sample of an aligned data set, as `_encode_data_example` takes it: `_prompt`, `_response` and so on."""
    sample = {column: examples[f"_{column}"][index] for column in COLUMNS}
    return sample | {media: sample[media] or [] for media in ("images", "videos", "audios")}


def encode_sample(processor: Any, sample: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Tokenize a sample of `sample_of` as a processor's class does: input ids and labels."""
    encoded: tuple[list[int], list[int]] = type(processor)._encode_data_example(processor, **sample)
    return encoded


def take_encoded(processor: Any, encoded: dict[int, tuple[list[int], list[int]]]) -> None:
    """Let a processor take what was encoded before, by the `id` of its prompt, so that no sample is encoded twice."""
    processor._encode_data_example = lambda prompt, **rest: encoded[id(prompt)]


def videos_of(sample: dict[str, Any]) -> list[Any]:
    """The videos of a row of an aligned data set: paths, or lists of frames."""
    return sample["_videos"] or []


def special_tokens_of(template: Any, added: Iterable[str]) -> set[str]:
    """Which of a tokenizer's added tokens a template writes around messages.

    Args:
        template: LLaMA-Factory's, whose formatters keep what they write in `slots`.
        added: the tokens to look for.
    """
    formatters = (template.format_user, template.format_assistant, template.format_system)
    text = "".join(slot for formatter in formatters for slot in formatter.slots if isinstance(slot, str))
    return {token for token in added if token in text}


def similarity_scores(
    tokenizer: Any, predictions: NDArray[np.int64], labels: NDArray[np.int64]
) -> dict[str, list[float]]:
    """LLaMA-Factory's BLEU-4, ROUGE-1, ROUGE-2 and ROUGE-L of each answer, 0 to 100.

    Its `ComputeSimilarity` returns means. The scores of each answer are in `score_dict`, until they are asked for.

    Args:
        tokenizer: anything with `pad_token_id` and `batch_decode`.
        predictions: int64 [n, S].
        labels: int64 [n, S'].
    """
    from llamafactory.train.sft.metric import ComputeSimilarity
    from transformers import EvalPrediction

    metric = ComputeSimilarity(tokenizer)
    metric(EvalPrediction(predictions=predictions, label_ids=labels), compute_result=False)
    return {name: list(scores) for name, scores in metric.score_dict.items()}
