"""Every name of motiontune, and of LLaMA-Factory behind it, that this kit leans on."""

from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_template_and_fix_tokenizer
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

from motiontune.commands.export import export
from motiontune.llamafactory.install import get_train_args, install, run_exp
from motiontune.llamafactory.trainer import MotionTrainer
from motiontune.model.families import family_of
from motiontune.model.forward import MotionObjective, attach_head
from motiontune.model.head import MotionHead, MotionHeadConfig
from motiontune.model.sparse_logits import use_sparse_logits
from motiontune.model.tiny import build_tiny
from motiontune.model.wrappers import base_of
from motiontune.runs.folder import PREDICTIONS_FOLDER
from motiontune.training.batch import MOTION_TENSORS


__all__ = [
    "MOTION_TENSORS",
    "PREDICTIONS_FOLDER",
    "CustomSeq2SeqTrainer",
    "MotionHead",
    "MotionHeadConfig",
    "MotionObjective",
    "MotionTrainer",
    "SFTDataCollatorWith4DAttentionMask",
    "attach_head",
    "base_of",
    "build_tiny",
    "export",
    "get_template_and_fix_tokenizer",
    "get_train_args",
    "install",
    "language_model_of",
    "load_model",
    "load_tokenizer",
    "run_exp",
    "use_sparse_logits",
]


def language_model_of(base):
    """The decoder of a transformers model."""
    return family_of(base.config).language_model_of(base)
