"""Motion for ms-swift 4: `swift sft` with this file learns the motion of a sample's videos beside its answer.

    FPS=4 FPS_MAX_FRAMES=16 MOTION_LOSS_WEIGHT=1 swift sft --external_plugins examples/ms_swift_plugin.py \
        --model Qwen/Qwen2-VL-2B-Instruct --dataset samples.jsonl --output_dir saves/swift

A line of samples.jsonl is as ever in ms-swift:

    {"messages": [{"role": "user", "content": "<video>What happens?"}, {"role": "assistant", "content": "It stops."}],
     "videos": ["clip.webm"]}

The log has `motion_loss` and `ce_loss`, and each checkpoint the motion head beside the adapter or the model. Clips are
read by motiontune, so that frames and motion come out of one decode, and resized by ms-swift.
"""

import os

import torch
from PIL import Image
from qwen_vl_utils import vision_process
from swift.template import TEMPLATE_MAPPING
from swift.trainers import Seq2SeqTrainer, TrainerFactory

from motiontune import read_clip
from motiontune import training as mt


SETTINGS = mt.MotionSettings(loss_weight=float(os.environ.get("MOTION_LOSS_WEIGHT", "1")))
MOTION = ("motion_targets", "motion_mask")


class MotionTemplate:
    """Stands before ms-swift's template of a model, and puts the motion into its batches."""

    motion = None  # the targets' settings, once there is a head

    def init_processor(self, processor):
        super().init_processor(processor)
        if processor is not None:  # ms-swift has the numbers of Qwen's own vocabulary
            self.image_token_id, self.video_token_id = self.config.image_token_id, self.config.video_token_id

    def replace_tag(self, media_type, index, inputs):
        if media_type == "video":
            fps, most = vision_process.FPS, vision_process.FPS_MAX_FRAMES  # as the variables set them
            clip = read_clip(inputs.videos[index], fps, most, with_vectors=True)
            vars(inputs).setdefault("motion_clips", []).append(clip)
            inputs.videos[index] = [Image.fromarray(frame) for frame in clip.frames]
        return super().replace_tag(media_type, index, inputs)

    def _encode(self, inputs):
        encoded = super()._encode(inputs)
        if self.motion is not None and self.is_training:
            clips = vars(inputs).get("motion_clips", [])
            encoded.update(mt.motion_inputs(clips, encoded, self.processor, self.motion))
        return encoded

    def _data_collator_mm_data(self, batch):
        together = super()._data_collator_mm_data(batch)
        if "motion_mask" in batch[0]:
            together.update({name: torch.cat([row[name] for row in batch]) for name in MOTION})
        return together

    def _post_encode(self, model, inputs):
        return inputs  # the model's own forward sees the video, and calls the head

    def compute_sft_loss(self, model, inputs, num_items_in_batch=None, trainer=None):
        outputs = super().compute_sft_loss(model, inputs, num_items_in_batch, trainer)
        parts = trainer.custom_metrics["train" if model.training else "eval"]
        if "motion_mask" in inputs:
            parts["motion_loss"].update(outputs.motion_sum.detach() / inputs["motion_mask"].sum().clamp(min=1))
            parts["ce_loss"].update(outputs.ce_sum.detach() / (inputs["labels"][:, 1:] != -100).sum().clamp(min=1))
        return outputs


class MotionTrainer(Seq2SeqTrainer):
    """ms-swift's trainer, of a model that gets a motion head: after the adapter, and before the optimizer."""

    def __init__(self, model, args, template, **kwargs):
        template.motion = mt.attach_motion(
            model, template.processor, SETTINGS, fps=vision_process.FPS, max_frames=vision_process.FPS_MAX_FRAMES
        )
        args.use_logits_to_keep = False  # the head reads all positions
        super().__init__(model=model, args=args, template=template, **kwargs)


for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"):
    meta = TEMPLATE_MAPPING[name]
    meta.template_cls = type(f"Motion{meta.template_cls.__name__}", (MotionTemplate, meta.template_cls), {})
TrainerFactory.TRAINER_MAPPING["causal_lm"] = f"{MotionTrainer.__module__}.{MotionTrainer.__name__}"
