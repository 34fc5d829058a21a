"""Motion at a model's video tokens: the head, how it gets into a model, and how it is found again.

head = MotionHeadConfig.for_model(model.config, processor)
attach_head(model, head)                     # model(**batch, motion_targets=..., motion_mask=...).loss
model.save_pretrained(folder)                # writes the head, too

attach_head(model, load_head(folder))        # later, on the model that was loaded from the folder
"""

from motiontune.model.families import FAMILIES, family_of, patching_of
from motiontune.model.forward import MotionObjective, MotionOutput, attach_head, captured_motion
from motiontune.model.head import MotionHead, MotionHeadConfig, load_head, save_head


__all__ = [
    "FAMILIES",
    "MotionHead",
    "MotionHeadConfig",
    "MotionObjective",
    "MotionOutput",
    "attach_head",
    "captured_motion",
    "family_of",
    "load_head",
    "patching_of",
    "save_head",
]
