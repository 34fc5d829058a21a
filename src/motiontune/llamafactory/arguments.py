"""motiontune's keys, added to LLaMA-Factory's data and fine-tuning arguments."""

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from llamafactory.hparams import DataArguments, FinetuningArguments, ModelArguments
from llamafactory.hparams.training_args import TrainingArguments

from motiontune.errors import ConfigError
from motiontune.llamafactory.names import get_logger
from motiontune.model.forward import MOTION_GRADIENTS, check_gradient
from motiontune.model.losses import MOTION_LOSS_TYPES
from motiontune.motion.field import DIRECTIONS, Direction
from motiontune.motion.options import QUALITIES, MotionOptions
from motiontune.motion.sources import check_source
from motiontune.targets import HeadForm
from motiontune.training.checkpoints import resumable


logger = get_logger(__name__)

SCALES = (1e-6, 1e6)
"""Of `motion_scale`: with less or more, a pixel's displacement or its square leaves float32."""


def _check_choice(key: str, value: str, choices: "tuple[str, ...]") -> None:
    if value not in choices:
        raise ConfigError(f"{key}: {value!r} is none of {', '.join(choices)}")


@dataclass
class MotionDataArguments(DataArguments):
    r"""LLaMA-Factory's data arguments, and where the motion of the video tokens comes from."""

    train_on_video_tokens: bool = field(
        default=False,
        metadata={"help": "Train the video tokens to predict the motion of the video. A motion loss switches it on."},
    )
    motion_source: str = field(
        default="auto",
        metadata={
            "help": (
                "Where motion comes from. auto: codec+flow where the bitstream has usable vectors, joined by a block "
                "match where these leave much of a pair of frames open, else blockmatch+flow. codec: the bitstream's "
                "vectors. blockmatch: an encoder's motion search on the resized frames. codec+flow, blockmatch+flow: "
                "these and optical flow, the more probable vector of each patch. flow: optical flow alone. raft: a "
                "network, which is slow and best extracted beforehand. file: computed beforehand, see "
                "motion_dir. FILE.py:FUNCTION: a function of your own."
            )
        },
    )
    motion_quality: Literal["fast", "balanced", "best"] = field(
        default="balanced",
        metadata={
            "help": "How much time block matching and optical flow may take where motion_source has them. fast "
            "matches blocks at half size, best is slowest and most exact."
        },
    )
    motion_min_confidence: float = field(
        default=MotionOptions.min_confidence,
        metadata={"help": "A vector is a target where its confidence, from 0 to 1, is above this."},
    )
    motion_direction: Direction = field(
        default="past",
        metadata={
            "help": (
                "Which motion the video tokens must predict: since the previous sampled frame (past) or to the next "
                "one (future)."
            )
        },
    )
    motion_dir: str | None = field(
        default=None,
        metadata={
            "help": "With `motion_source: file`: the folder of the motion files. By default they lie beside each clip."
        },
    )
    motion_raft_weights: str | None = field(
        default=None,
        metadata={
            "help": (
                "With `motion_source: raft`: the file with the weights of torchvision's raft_large or raft_small. "
                "By default torchvision downloads those of raft_large."
            )
        },
    )
    motion_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Keep the motion of clips in this folder, so that it is computed once. By default it is not kept."
        },
    )
    frame_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": (
                "Keep the resized frames of clips in this folder, so that they are decoded once. The folder grows "
                "large. By default they are not kept."
            )
        },
    )
    motion_manifest: str | None = field(
        default=None,
        metadata={
            "help": (
                "A manifest of `motiontune extract` (a file, or its folder): tokenization takes frames, sizes and "
                "times of clips from it, and opens only those that it lacks or that have changed since. By default "
                "it opens all."
            )
        },
    )
    motion_on_error: Literal["auto", "raise", "skip"] = field(
        default="auto",
        metadata={
            "help": (
                "What happens with a clip that cannot be used. raise: the run stops. skip: the clip is left out and "
                "counted. auto: raise before training starts, skip during it."
            )
        },
    )
    fold_video_tokens: bool = field(
        default=True,
        metadata={
            "help": (
                "With `predict_with_generate`: in the prompts of generated_predictions.jsonl, a run of "
                "`<|video_pad|>` is written once, with its number: `<|video_pad|> x 700`."
            )
        },
    )
    motion_pictures: int = field(
        default=4,
        metadata={
            "help": (
                "At each evaluation, draw target and predicted motion of this many samples, the first ones. The "
                "pictures go to motion_pictures/ in the output folder, and to TensorBoard and W&B where `report_to` "
                "names them."
            )
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_source(self.motion_source)
        _check_choice("motion_quality", self.motion_quality, QUALITIES)
        if not 0 <= self.motion_min_confidence < 1:
            raise ConfigError(f"motion_min_confidence: {self.motion_min_confidence} must be 0 or more and below 1")
        _check_choice("motion_direction", self.motion_direction, DIRECTIONS)
        _check_choice("motion_on_error", self.motion_on_error, ("auto", "raise", "skip"))
        if self.motion_pictures < 0:
            raise ConfigError(f"motion_pictures: {self.motion_pictures} must be 0 or more")


@dataclass
class MotionFinetuningArguments(FinetuningArguments):
    r"""LLaMA-Factory's fine-tuning arguments, and the motion loss and its head."""

    use_only_motionvector_loss: bool = field(
        default=False,
        metadata={"help": "Train on the motion at the video tokens alone; the answer's text is not learned."},
    )
    use_motionvector_crossentropy_loss: bool = field(
        default=False,
        metadata={"help": "Train on the motion at the video tokens and on the answer's text."},
    )
    motion_loss_weight: float = field(
        default=1.0,
        metadata={
            "help": (
                "Weight of the motion loss beside the cross-entropy. With 0 the run is a control: text is trained "
                "exactly as by LLaMA-Factory, and the motion head stays at zero."
            )
        },
    )
    motion_loss_type: Literal["smooth_l1", "l1", "l2", "epe"] = field(
        default="smooth_l1",
        metadata={
            "help": (
                "The motion loss. smooth_l1, l1 and l2 compare each number. epe is the end-point error of each "
                "vector, smooth at zero (Charbonnier)."
            )
        },
    )
    motion_head: Literal["deltadirect"] | None = field(
        default=None,
        metadata={
            "help": (
                "A known form of the motion head and its loss; a key that is given beside it stands. deltadirect: "
                "one direction per temporal step from differences of the projector's output (arXiv 2605.22823)."
            )
        },
    )
    motion_head_input: str = field(
        default="last_hidden",
        metadata={
            "help": (
                "Hidden states that the motion head reads. last_hidden: after the final norm. layer:K: output of "
                "decoder layer K, counted from 1. projector: the vision encoder's output as it enters the decoder. "
                "encoder: what the projector reads."
            )
        },
    )
    motion_head_features: Literal["token", "delta"] = field(
        default="token",
        metadata={
            "help": (
                "What the motion head reads of them. token: the hidden state of a video token. delta: its difference "
                "to the one at the same place one temporal step before; a clip's first step has no target then."
            )
        },
    )
    motion_head_form: Literal["dense", "pooled"] = field(
        default="dense",
        metadata={
            "help": (
                "dense: each video token predicts the vectors of its patches. pooled: the mean over the tokens of a "
                "temporal step predicts one vector, the mean over the patches that move by more than 1 pixel."
            )
        },
    )
    motion_head_output: Literal["displacement", "direction"] = field(
        default="displacement",
        metadata={
            "help": (
                "displacement: vectors in pixels, see motion_scale. direction: unit vectors; what moves by 1 pixel or "
                "less has no target. Only dense displacements can be written and drawn."
            )
        },
    )
    motion_gradient: Literal["all", "head", "projector"] = field(
        default="all",
        metadata={
            "help": (
                "Which weights the motion loss trains, of those that are not frozen. all: the head and what lies "
                "below motion_head_input. head: the head alone, a linear probe. projector: the head and the "
                "projector, with `motion_head_input: projector`."
            )
        },
    )
    motion_head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate of the motion head. By default it is 10 times `learning_rate`."},
    )
    motion_confidence_weighting: bool = field(
        default=False,
        metadata={"help": "Weight the motion loss of each vector by its confidence. By default all count alike."},
    )
    motion_scale: float = field(
        default=1.0,
        metadata={
            "help": "Targets are displacements in pixels of the resized frame, divided by (patch size * motion_scale)."
        },
    )

    sparse_logits: bool = field(
        default=False,
        metadata={
            "help": (
                "Train text without motion as LLaMA-Factory does, but compute logits only where a token is labelled: "
                "the same weights for less time and memory. A motion loss always does so."
            )
        },
    )

    @property
    def use_motion_loss(self) -> bool:
        r"""Whether the run trains the motion head."""
        return self.use_only_motionvector_loss or self.use_motionvector_crossentropy_loss

    @property
    def trains_motion(self) -> bool:
        r"""Whether motion has a weight in the loss; else the loss is LLaMA-Factory's."""
        return self.use_motion_loss and self.motion_loss_weight > 0

    @property
    def head_form(self) -> HeadForm:
        r"""The form of the motion head."""
        names = ("features", "form", "output")
        return HeadForm(**{name: getattr(self, f"motion_head_{name}") for name in names})

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_choice("motion_loss_type", self.motion_loss_type, MOTION_LOSS_TYPES)
        _check_choice("motion_gradient", self.motion_gradient, MOTION_GRADIENTS)
        check_gradient(self.motion_gradient, self.motion_head_input)
        if self.head_form.output == "direction" and self.motion_scale != 1:
            raise ConfigError(
                "motion_scale is of displacements, `motion_head_output: direction` has none: leave it out"
            )
        if self.use_only_motionvector_loss and self.use_motionvector_crossentropy_loss:
            raise ConfigError(
                "use_only_motionvector_loss and use_motionvector_crossentropy_loss are both true: choose one"
            )
        if not 0 <= self.motion_loss_weight < math.inf:
            raise ConfigError(f"motion_loss_weight: {self.motion_loss_weight} must be 0 or more")
        low, high = SCALES
        if not low <= self.motion_scale <= high:
            raise ConfigError(f"motion_scale: {self.motion_scale} must be from {low:g} to {high:g}")
        rate = self.motion_head_learning_rate
        if rate is not None and not 0 <= rate < math.inf:
            raise ConfigError(f"motion_head_learning_rate: {rate} must be 0 or more")
        if self.use_only_motionvector_loss:
            flag = "use_only_motionvector_loss"
        elif self.use_motionvector_crossentropy_loss:
            flag = "use_motionvector_crossentropy_loss"
        elif self.sparse_logits:
            flag = "sparse_logits"
        else:
            return
        if self.stage != "sft":
            raise ConfigError(f"{flag} needs `stage: sft`, not {self.stage}")
        if self.use_only_motionvector_loss and self.motion_loss_weight == 0:
            raise ConfigError("use_only_motionvector_loss with `motion_loss_weight: 0` trains nothing")
        others = "use_dft_loss use_asft_loss use_eaft_loss use_mca use_hyper_parallel".split()
        if self.use_motion_loss:
            others += ["use_badam"] + ["galore_layerwise"] * self.use_galore + ["apollo_layerwise"] * self.use_apollo
        for other in others:
            if getattr(self, other):
                raise ConfigError(f"{flag} cannot be combined with {other}")


_OWN_FIELDS = {
    field.name: field
    for cls, parent in ((MotionDataArguments, DataArguments), (MotionFinetuningArguments, FinetuningArguments))
    for field in fields(cls)
    if field.name not in {theirs.name for theirs in fields(parent)}
}
OWN_KEYS = {name: field.default for name, field in _OWN_FIELDS.items()}
"""motiontune's keys and their defaults."""
RENAMED_KEYS = {"motion_target": "motion_direction"}
"""Old names that still work, and the names that keys have now."""
GONE_KEYS = {
    "group_by_length": "`train_sampling_strategy: group_by_length`",
    "no_cuda": "`use_cpu: true`",
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "adafactor": "`optim: adafactor`",
    "dispatch_batches": "`accelerator_config: {dispatch_batches: ...}`",
    "split_batches": "`accelerator_config: {split_batches: ...}`",
    "include_inputs_for_metrics": "`include_for_metrics: [inputs]`",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "torchdynamo": "torch_compile_backend",
    "save_safetensors": "nothing: weights are always saved as safetensors",
}
"""Keys of earlier versions of transformers, and what there is for them in 5."""

MOTION_FLAGS = ("train_on_video_tokens", "use_only_motionvector_loss", "use_motionvector_crossentropy_loss")
"""The keys that switch motion on."""

PRESETS: dict[str, dict[str, Any]] = {
    "deltadirect": {
        "motion_head_input": "projector",
        "motion_head_features": "delta",
        "motion_head_form": "pooled",
        "motion_head_output": "direction",
        "motion_loss_type": "l2",
        "motion_loss_weight": 1.0,
        "motion_gradient": "projector",
        "freeze_multi_modal_projector": False,  # LLaMA-Factory's; frozen, the head would learn alone
    }
}
"""The keys that each value of `motion_head` stands for."""


def help_of(key: str) -> str:
    """The help of one of motiontune's keys."""
    return str(_OWN_FIELDS[key].metadata["help"])


REPLACEMENTS = ("use_unsloth", "mixture_of_depths", "shift_attn", "use_kt")
_REPLACES = "replaces the model's forward"


def check_replacements(given: Mapping[str, Any]) -> None:
    """Refuse what replaces the model's forward before LLaMA-Factory asks to install it.

    Args:
        given: the keys that the user gave.

    Raises:
        ConfigError: naming the key.
    """

    def on(key: str) -> bool:
        return given.get(key) not in (None, False) and str(given[key]).lower() != "false"

    for flag in filter(on, (*MOTION_FLAGS, "sparse_logits")):
        for key in filter(on, REPLACEMENTS):
            raise ConfigError(f"{key} {_REPLACES}, which {flag} needs: leave it out")


def check_together(
    model_args: ModelArguments,
    data_args: MotionDataArguments,
    training_args: TrainingArguments,
    finetuning_args: MotionFinetuningArguments,
    given: Collection[str],
) -> None:
    """Check what one group of arguments cannot see of the others, and switch on what a loss implies.

    `resume_from_checkpoint` becomes the checkpoint that the run goes on from.

    Args:
        model_args: LLaMA-Factory's.
        data_args: with motiontune's keys.
        training_args: LLaMA-Factory's.
        finetuning_args: with motiontune's keys.
        given: the keys that the user gave.

    Raises:
        ConfigError: in one line, naming the keys.
    """
    if finetuning_args.use_motion_loss and not data_args.train_on_video_tokens:
        data_args.train_on_video_tokens = True
        logger.info_rank0("The motion loss needs motion at the video tokens: `train_on_video_tokens` is now true.")
    what = "the motion head" if data_args.train_on_video_tokens else "sparse_logits"
    if data_args.train_on_video_tokens or finetuning_args.sparse_logits:
        for key in REPLACEMENTS:
            if getattr(model_args, key):
                raise ConfigError(f"{key} {_REPLACES}, which {what} needs: leave it out")
        if training_args.use_liger_kernel:
            raise ConfigError(
                f"use_liger_kernel replaces the model's forward, which {what} needs: use `enable_liger_kernel: true`"
            )
    if finetuning_args.sparse_logits and not finetuning_args.trains_motion and training_args.label_smoothing_factor:
        raise ConfigError("label_smoothing_factor needs the logits of all positions: leave it or sparse_logits out")
    if not data_args.train_on_video_tokens:
        if idle := [key for key in given if key.startswith(("motion_head", "motion_loss", "motion_gradient"))]:
            logger.info_rank0(f"No motion flag is on: without effect are {', '.join(sorted(idle))}.")
        return
    if finetuning_args.stage != "sft":
        raise ConfigError(f"train_on_video_tokens needs `stage: sft`, not {finetuning_args.stage}")
    if training_args.do_train and not finetuning_args.use_motion_loss:
        raise ConfigError(
            "train_on_video_tokens needs a loss: use_motionvector_crossentropy_loss (motion and text) "
            "or use_only_motionvector_loss (motion alone)"
        )
    if not (training_args.do_train or training_args.do_eval or training_args.do_predict):
        raise ConfigError("there is nothing to do: set do_train, do_eval or do_predict")
    if data_args.packing and not data_args.neat_packing:
        raise ConfigError("packing lets samples see each other's motion: use `neat_packing: true` instead")
    if data_args.neat_packing and training_args.predict_with_generate:  # `generate` takes no 4D mask
        raise ConfigError("neat_packing does not go together with predict_with_generate: predict in a run of its own")
    if data_args.train_on_prompt:
        raise ConfigError("train_on_prompt puts cross-entropy on every video token, which is no text: leave it out")
    dispatches = training_args.accelerator_config.dispatch_batches is not False
    if data_args.streaming and (dispatches or training_args.dataloader_num_workers < 1):
        raise ConfigError(
            "streaming needs `accelerator_config: {dispatch_batches: false}` and dataloader_num_workers of 1 or more"
        )
    if not 0 <= training_args.label_smoothing_factor <= 1:
        raise ConfigError(f"label_smoothing_factor: {training_args.label_smoothing_factor} must be from 0 to 1")
    if not 0 < model_args.video_fps < math.inf:
        raise ConfigError(f"video_fps: {model_args.video_fps} must be positive and finite")
    if model_args.video_maxlen < 2:
        raise ConfigError(f"video_maxlen: {model_args.video_maxlen} leaves no motion: sample 2 frames or more")
    if data_args.motion_dir is not None:
        if data_args.motion_source != "file":
            raise ConfigError(f"motion_dir is only read with `motion_source: file`, not {data_args.motion_source}")
        if not os.path.isdir(data_args.motion_dir):
            raise ConfigError(f"motion_dir: {data_args.motion_dir} is no folder")
    if data_args.motion_raft_weights is not None and data_args.motion_source != "raft":
        raise ConfigError(
            f"motion_raft_weights is only read with `motion_source: raft`, not {data_args.motion_source}"
        )
    evaluates = training_args.eval_strategy != "no" and training_args.metric_for_best_model is not None
    if finetuning_args.early_stopping_steps is not None and not evaluates:
        raise ConfigError("early_stopping_steps needs metric_for_best_model, and an eval_strategy that measures it")
    metric = (training_args.metric_for_best_model or "").removeprefix("eval_")
    if "greater_is_better" not in given and re.search("(^|_)epe(_|$)", metric):
        training_args.greater_is_better = False
    if training_args.do_train:  # LLaMA-Factory has put the last checkpoint there, where none was asked for
        wanted = training_args.resume_from_checkpoint
        wanted = True if "resume_from_checkpoint" not in given and wanted is not None else wanted
        found = resumable(training_args.output_dir, wanted, logger.warning_rank0)
        training_args.resume_from_checkpoint = found
