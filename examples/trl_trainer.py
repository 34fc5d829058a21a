"""Train a Qwen-VL on text and motion with TRL's SFTTrainer, here with LoRA.

    python examples/trl_trainer.py Qwen/Qwen2-VL-2B-Instruct saves/trl samples.json

samples.json is a list of {"video": ..., "question": ..., "answer": ...}. The folder gets the adapter, and the motion
head beside it, as each checkpoint does.
"""

import json
import sys

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl import SFTConfig, SFTTrainer

from motiontune import training as mt


class MotionSFTTrainer(mt.MotionTrainerMixin, SFTTrainer):
    """TRL's SFTTrainer, with motion."""


def train(model_name: str, folder: str, samples: list[dict[str, str]], **arguments) -> MotionSFTTrainer:
    """Train on samples of a clip, a question and an answer; save adapter and head."""
    processor = AutoProcessor.from_pretrained(model_name)
    model = AutoModelForImageTextToText.from_pretrained(model_name)
    # the adapter comes before the head, and so not from SFTTrainer's `peft_config`
    model = get_peft_model(model, LoraConfig(r=8, target_modules=["q_proj", "v_proj"]))
    settings = mt.MotionSettings(loss_weight=1.0, with_text=True)
    targets = mt.attach_motion(model, processor, settings, fps=4.0, max_frames=16)
    # the collator makes the batches, and TRL prepares nothing; "nll": no forward of its own in place of the model's
    own = {"remove_unused_columns": False, "dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}
    own |= {"loss_type": "nll", "learning_rate": 1e-4, "report_to": "none"}
    own["bf16"] = torch.cuda.is_available()  # TRL's default needs a GPU
    trainer = MotionSFTTrainer(
        model=model,
        args=SFTConfig(folder, **own | arguments),
        train_dataset=Dataset.from_list(samples),
        data_collator=mt.MotionCollator(processor, targets),
        processing_class=processor,
        motion=settings,
    )
    trainer.train()
    trainer.save_model()
    return trainer


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    model_name, folder, file = sys.argv[1:]
    with open(file, encoding="utf-8") as lines:
        samples = json.load(lines)
    trainer = train(model_name, folder, samples, num_train_epochs=1, logging_steps=10)

    model = mt.load_motion_model(folder)  # the adapter names its model
    first = samples[0]
    text, motion = mt.predict(model, trainer.data_collator, first["video"], first["question"], max_new_tokens=32)
    print(text)
    print(motion.vectors.shape, "pixels per frame:", motion.vectors[motion.valid].mean(0))


if __name__ == "__main__":
    main()
