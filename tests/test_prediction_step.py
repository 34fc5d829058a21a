"""`prediction_step` returns text and motion of a batch, whoever calls it."""

import numpy as np
import pytest
import torch

import training
from motiontune.evaluation.comparison import MotionComparison, load_predictions


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("family", training.FAMILIES)
def test_prediction_step_returns_the_text_and_the_motion_of_each_video(family, beams, monkeypatch):
    training.start()
    from motiontune.llamafactory.trainer import MotionTrainer

    data = training.toy(4)
    trained = training.run(family, **data, use_motionvector_crossentropy_loss=True, learning_rate=1e-2)
    returned = []
    predict = MotionTrainer.predict

    def both(self, dataset, **kwargs):
        """Call the step by hand on the first batch, then predict as ever."""
        batch = next(iter(self.get_test_dataloader(dataset)))
        self._gen_kwargs = {key: value for key, value in kwargs.items() if key != "metric_key_prefix"}
        returned.append(self.prediction_step(self.model.eval(), batch, prediction_loss_only=False))
        return predict(self, dataset, **kwargs)

    monkeypatch.setattr(MotionTrainer, "predict", both)
    out = training.run(
        family,
        model_name_or_path=str(trained),
        dataset_dir=data["dataset_dir"],
        eval_dataset=data["dataset"],
        do_predict=True,
        predict_with_generate=True,
        num_beams=beams,
        max_new_tokens=3,
        train_on_video_tokens=True,
    )
    [(_, (tokens, motion), labels)] = returned
    assert tokens.dtype == torch.int64 and len(tokens) == len(labels) == len(motion) == 2
    written = list(load_predictions(out / "motion_predictions"))
    assert len(written) == 4
    for mine, theirs in zip(motion, written[:2], strict=True):
        assert isinstance(mine, MotionComparison)
        assert mine.predicted.any() and mine.path == theirs.path and mine.grid == theirs.grid
        np.testing.assert_allclose(mine.predicted, theirs.predicted, atol=1e-5)
        np.testing.assert_array_equal(mine.target, theirs.target)
