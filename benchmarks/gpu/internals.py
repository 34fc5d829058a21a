"""Every name of motiontune, and of LLaMA-Factory behind it, that this kit leans on."""

from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_template_and_fix_tokenizer
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

from motiontune.llamafactory.export import export
from motiontune.llamafactory.install import get_train_args, install, run_exp
from motiontune.llamafactory.trainer import MOTION_TENSORS, MotionTrainer
from motiontune.model.compat import base_of, language_model_of
from motiontune.model.head import MotionHead, MotionHeadConfig
from motiontune.model.motion_model import MotionObjective, attach_head
from motiontune.model.sparse_logits import use_sparse_logits
from motiontune.model.tiny import build_tiny
from motiontune.run_folder import PREDICTIONS_FOLDER


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
