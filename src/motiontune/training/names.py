"""What motiontune relies on of transformers that transformers does not offer for extension, and how that is checked.

`check_names` fails with one line where a name has moved, or takes other parameters. `llamafactory/names.py` has the
same for LLaMA-Factory.
"""

import functools
import importlib
import importlib.metadata
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motiontune.errors import MotiontuneError


@dataclass(frozen=True)
class Name:
    """A name of another package that motiontune relies on.

    Args:
        where: "package.module", or "package.module:Class".
        name: the name in there.
        use: what motiontune does with it, as the end of the sentence "motiontune ... there".
        parameters: of a function, those that motiontune passes or takes over, in their order, separated by spaces. It
            may have others, which must be optional. None where it is no function, or is not called.
        mentions: of a function, names and texts that its code must hold, separated by spaces: attributes that it sets,
            columns that it reads.
    """

    where: str
    name: str
    use: str
    parameters: str | None = None
    mentions: str = ""

    def problem(self) -> str:
        """What has changed about it, or "" where nothing has."""
        module, _, cls = self.where.partition(":")
        path = f"{self.where.replace(':', '.')}.{self.name}"
        try:
            owner: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name) or "." not in error.name:
                raise  # the package itself, or one that it needs, is not installed
            return f"{path} is gone"
        owner = getattr(owner, cls, None) if cls else owner
        declared = {**getattr(owner, "__annotations__", {}), **getattr(owner, "__dataclass_fields__", {})}
        if not hasattr(owner, self.name) and self.name not in declared:
            return f"{path} is gone"
        found = inspect.unwrap(getattr(owner, self.name, lambda: None))
        if self.parameters is not None:
            signature = inspect.signature(found)
            if not _takes(signature, self.parameters.split()):
                shown = ", ".join(str(each.replace(annotation=each.empty)) for each in signature.parameters.values())
                return f"{path} takes ({shown}), no longer ({', '.join(self.parameters.split())})"
        missing = set(self.mentions.split()) - _mentioned(found.__code__) if self.mentions else set()
        return f"{path} no longer has {', '.join(sorted(missing))}" if missing else ""


def _takes(signature: inspect.Signature, wanted: list[str]) -> bool:
    """Whether a function has the wanted parameters in their order, and no other that must be given."""
    kinds = {name: parameter.kind for name, parameter in signature.parameters.items()}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.default is parameter.empty and kinds[name] not in variadic
    ]
    places = [list(kinds).index(name) for name in wanted if name in kinds]
    return len(places) == len(wanted) and places == sorted(places) and set(required) <= {*wanted, "self"}


def _mentioned(code: CodeType) -> set[str]:
    """Names and texts in a function's code and in the functions inside it."""
    found = set(code.co_names) | {constant for constant in code.co_consts if isinstance(constant, str)}
    # a dictionary with constant keys keeps them in a tuple
    found |= {text for one in code.co_consts if isinstance(one, tuple) for text in one if isinstance(text, str)}
    return found.union(*(_mentioned(inner) for inner in code.co_consts if isinstance(inner, CodeType)))


def check(names: Iterable[Name], package: str, tested: str, remedy: str) -> None:
    """Refuse a version of a package in which a name has moved.

    Args:
        names: of the package.
        package: as pip calls it.
        tested: the version that motiontune was tested with.
        remedy: what to do.

    Raises:
        MotiontuneError: naming the module, the name, the use and the versions, in one line.
    """
    for name in names:
        problem = name.problem()
        if problem:
            found = importlib.metadata.version(package)
            raise MotiontuneError(
                f"{problem}: motiontune {name.use} there. Tested with {package} {tested}, found {found}: {remedy}"
            )


TRANSFORMERS = "5.6.0"
_TRAINER = "transformers:Trainer"
NAMES = [
    Name(_TRAINER, "__init__", "sets `model_accepts_loss_kwargs`", mentions="model_accepts_loss_kwargs"),
    Name(_TRAINER, "_get_num_items_in_batch", "counts motion targets", "batch_samples device"),
    Name(_TRAINER, "compute_loss", "computes the loss", "model inputs return_outputs num_items_in_batch"),
    Name(_TRAINER, "log", "adds its losses", "logs start_time"),
    Name(_TRAINER, "create_accelerator_and_postprocess", "names what is wrong with an engine's keys", ""),
    Name(_TRAINER, "create_optimizer", "gives the head a learning rate", ""),
    Name(_TRAINER, "get_optimizer_cls_and_kwargs", "looks for the optimizer's package", "args"),
    Name(_TRAINER, "_prepare_inputs", "moves batches to the device", "inputs"),
    Name(_TRAINER, "compute_loss_context_manager", "evaluates in the run's precision", ""),
    Name(_TRAINER, "prediction_step", "predicts motion", "model inputs prediction_loss_only ignore_keys"),
    Name(_TRAINER, "evaluation_loop", "adds its metrics", "dataloader description metric_key_prefix"),
    Name(_TRAINER, "save_model", "gathers the motion head", "output_dir _internal_call"),
    Name(_TRAINER, "_save_checkpoint", "lists a checkpoint's files", "model trial"),
    Name(_TRAINER, "_get_output_dir", "lists a checkpoint's files", "trial"),
    Name(
        _TRAINER,
        "_prepare_for_training",
        "restores the motion head before FSDP wraps it",
        "max_steps train_dataloader resume_from_checkpoint",
    ),
    Name(_TRAINER, "_evaluate", "goes on without a metric", "trial ignore_keys_for_eval skip_scheduler"),
    Name(_TRAINER, "_determine_best_metric", "knows metrics that were not measured", "metrics trial"),
    Name(_TRAINER, "_load_from_checkpoint", "restores the motion head", "resume_from_checkpoint model"),
    Name(_TRAINER, "_load_best_model", "restores the motion head", ""),
    Name("transformers:PreTrainedModel", "_keys_to_ignore_on_save", "keeps the head out of the model's own file"),
    Name("transformers:PreTrainedModel", "_from_config", "builds another vision encoder", "config kwargs"),
    Name("transformers:PreTrainedConfig", "_attn_implementation", "masks packed samples as the attention needs it"),
    Name(
        "transformers:PreTrainedTokenizerBase",
        "__getattr__",
        "ends answers at special tokens",
        "key",
        "extra_special_tokens _ids",
    ),
    Name(
        "transformers.trainer_utils",
        "sort_checkpoints",
        "keeps folders that are no checkpoints",
        "output_dir checkpoint_prefix use_mtime best_model_checkpoint",
    ),
    Name("transformers.trainer", "sort_checkpoints", "keeps folders that are no checkpoints"),
    Name("transformers.trainer_utils", "rotate_checkpoints", "keeps such folders", mentions="sort_checkpoints"),
    Name("transformers.integrations", "rewrite_logs", "names its pictures as the metrics", "d"),
    Name("transformers.integrations:TensorBoardCallback", "__init__", "shows pictures", mentions="tb_writer"),
    Name("transformers.integrations:WandbCallback", "__init__", "shows pictures", mentions="_wandb"),
]


@functools.cache
def check_names() -> None:
    """Refuse a transformers in which a name has moved that motiontune relies on.

    Raises:
        MotiontuneError: as `check`.
    """
    check(NAMES, "transformers", TRANSFORMERS, f"pip install transformers=={TRANSFORMERS}")


@functools.cache
def keep_other_folders() -> None:
    """From here on, let the Trainer take those folders alone for checkpoints that one has saved to its end.

    With `save_total_limit` it removes old ones, and would take each `checkpoint-*` for one, such as a user's
    `checkpoint-best`.
    """
    from transformers import trainer, trainer_utils

    from motiontune.training.checkpoints import is_checkpoint  # torch, which who checks names alone goes without

    original = trainer_utils.sort_checkpoints

    @functools.wraps(original)
    def sort_checkpoints(*args: Any, **kwargs: Any) -> list[str]:
        return [path for path in original(*args, **kwargs) if is_checkpoint(Path(path))]

    trainer.sort_checkpoints = trainer_utils.sort_checkpoints = sort_checkpoints


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
    from transformers.integrations import TensorBoardCallback, WandbCallback, rewrite_logs

    (name,) = rewrite_logs({name: None})
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_image(name, picture, step, dataformats="HWC")
            callback.tb_writer.flush()
        elif isinstance(callback, WandbCallback) and callback._wandb is not None:
            callback._wandb.log({name: callback._wandb.Image(picture), "train/global_step": step})
