"""All families, LoRA and full, on real clips: H.264, MPEG-4 and VP9 in WebM."""

import json

import numpy as np
import pytest

import training
from make_clips import recoded
from motiontune.evaluation.comparison import load_predictions
from real_clips import real_clip


@pytest.fixture(scope="module")
def clips():
    """One file as it was shipped (H.264 with B-frames), and pieces of it with one reference, as MPEG-4 and as VP9."""
    film = real_clip("b.mp4")
    return [film, *(recoded(film, *kind, 48) for kind in (("h264_1", ".mp4"), ("mpeg4", ".avi"), ("vp9", ".webm")))]


@pytest.mark.parametrize("finetuning_type", ["lora", "full"])
@pytest.mark.parametrize("family", training.FAMILIES)
def test_real_clips_train_evaluate_and_predict(family, finetuning_type, clips):
    data = training.dataset([training.sample(training.PROMPT, "Something moves.", videos=[clip]) for clip in clips])
    video = {"video_fps": 6.0, "video_maxlen": 5, "video_max_pixels": 12544, "cutoff_len": 1024}
    with training.logged() as messages:
        out = training.run(
            family,
            **data,
            **video,
            finetuning_type=finetuning_type,
            use_motionvector_crossentropy_loss=True,
            max_steps=4,
            logging_steps=1,
        )
    said = next(message for message in messages if message.startswith("Motion of data set"))
    assert "codec+flow for 3" in said and "blockmatch+flow for 1 (vp9" in said
    sources = json.loads((out / "train_results.json").read_text())
    assert sources["clips_codec+flow"] and sources["clips_blockmatch+flow"] and sources["clips_left_out"] == 0
    steps = [entry for entry in json.loads((out / "trainer_state.json").read_text())["log_history"] if "loss" in entry]
    assert len(steps) == 4
    assert all(np.isfinite([entry["loss"], entry["motion_loss"], entry["ce_loss"]]).all() for entry in steps)
    assert all(0.2 < entry["motion_valid"] < 1 for entry in steps)

    loaded = {"adapter_name_or_path": str(out)} if finetuning_type == "lora" else {"model_name_or_path": str(out)}
    predicted = training.run(
        family,
        **video,
        **loaded,
        finetuning_type=finetuning_type,
        dataset_dir=data["dataset_dir"],
        dataset=None,
        eval_dataset=data["dataset"],
        do_train=None,
        do_predict=True,
        predict_with_generate=True,
        max_new_tokens=4,
        train_on_video_tokens=True,
    )
    predictions = list(load_predictions(predicted / "motion_predictions"))
    assert [prediction.path for prediction in predictions] == [str(clip) for clip in clips]
    *with_vectors, vp9 = (prediction.source for prediction in predictions)
    # block matches win most patches of a clip whose vectors leave much of what moves open
    assert set(with_vectors) <= {"codec+flow", "blockmatch+flow"} and "codec+flow" in with_vectors
    assert vp9 == "blockmatch+flow"
    for prediction in predictions:
        assert np.isfinite(prediction.predicted).all() and prediction.valid[1:].any()
        assert (np.diff(prediction.times[:5]) > 0).all()
    assert len((predicted / "generated_predictions.jsonl").read_text().splitlines()) == len(clips)
