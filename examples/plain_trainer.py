"""Train a Qwen-VL on text and motion with plain transformers: its own processor, no LLaMA-Factory.

    python examples/plain_trainer.py Qwen/Qwen2-VL-2B-Instruct saves/plain samples.json

samples.json is a list of {"video": ..., "question": ..., "answer": ...}. The folder gets the model, and the
motion head beside it.
"""

import json
import sys

from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

from motiontune import training as mt


class MotionTrainer(mt.MotionTrainerMixin, Trainer):
    """transformers' Trainer, with motion."""


def train(
    model_name: str, folder: str, samples: list[dict[str, str]], fps: float = 4.0, **arguments
) -> mt.MotionCollator:
    """Train on samples of a clip, a question and an answer, and save model and head."""
    processor = AutoProcessor.from_pretrained(model_name)
    model = AutoModelForImageTextToText.from_pretrained(model_name)
    settings = mt.MotionSettings(loss_weight=1.0, with_text=True)
    targets = mt.attach_motion(model, processor, settings, direction="past")
    collator = mt.MotionCollator(processor, targets, fps=fps, max_frames=16)
    trainer = MotionTrainer(
        model=model,
        args=TrainingArguments(folder, learning_rate=1e-5, report_to="none", remove_unused_columns=False, **arguments),
        train_dataset=samples,
        data_collator=collator,
        processing_class=processor,
        motion=settings,
    )
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    return collator


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    model_name, folder, file = sys.argv[1:]
    with open(file, encoding="utf-8") as lines:
        samples = json.load(lines)
    collator = train(model_name, folder, samples, num_train_epochs=1, logging_steps=10)

    model = mt.load_motion_model(folder)
    first = samples[0]
    text, motion = mt.predict(model, collator, first["video"], first["question"], max_new_tokens=32)
    print(text)
    print(motion.vectors.shape, "pixels per frame:", motion.vectors[motion.valid].mean(0))


if __name__ == "__main__":
    main()
