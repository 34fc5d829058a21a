"""Reading clips ourselves changes no pixel: our batches are LLaMA-Factory's own, tensor by tensor."""

import copy
import itertools

import av
import pytest
import torch
from transformers import AutoModelForImageTextToText

from make_clips import Encoder, encode
from real_clips import real_clip
from training import (
    BOTH,
    FAMILIES,
    PROMPT,
    clips,
    dataset,
    fresh_folder,
    keys_for,
    sample,
    session_folder,
    start,
    tiny,
    write_clip,
)


SMALL = {"video_max_pixels": 64 * 64, "video_fps": 1.0, "video_maxlen": 6}


def batches(family, samples, generate=False, **keys):
    """The batch of the samples, as LLaMA-Factory and as motiontune make it, each with its own template and tokens."""
    start()
    from llamafactory.data import SFTDataCollatorWith4DAttentionMask, get_dataset, get_template_and_fix_tokenizer
    from llamafactory.model import load_tokenizer

    from motiontune.llamafactory.collator import MotionDataCollator
    from motiontune.llamafactory.install import get_train_args, install
    from motiontune.llamafactory.plugin import with_motion
    from motiontune.llamafactory.workflow import head_config, load_datasets, target_settings

    install()
    keys = keys_for(family, **dataset(samples), **BOTH, **keys)
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(keys)
    tokenizer_module = load_tokenizer(model_args)
    plain = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
    ours = with_motion(plain, data_args.template)
    model = AutoModelForImageTextToText.from_pretrained(tiny(family))
    common = {"model": None if generate else model, "pad_to_multiple_of": 8, **tokenizer_module}
    head = head_config(model.config, tokenizer_module["processor"], data_args, finetuning_args)
    made = []
    for template in (plain, ours):
        if template is plain:
            module = get_dataset(plain, model_args, data_args, training_args, "sft", **tokenizer_module)
            collator = SFTDataCollatorWith4DAttentionMask(template=plain, **common)
        else:
            module = load_datasets(ours, model_args, data_args, training_args, tokenizer_module)
            motion = target_settings(head, data_args, finetuning_args)
            collator = MotionDataCollator(template=ours, motion=motion, **common)
        made.append(collator([copy.deepcopy(feature) for feature in module["train_dataset"]]))
    return made


def assert_identical(plain, ours, has_video=True):
    plain = dict(plain)
    plain.pop("video_metadata", None)  # in the text already
    assert ("pixel_values_videos" in plain) == has_video
    for key, value in plain.items():
        if torch.is_tensor(value):
            assert value.dtype == ours[key].dtype and torch.equal(value, ours[key]), key
        else:
            assert value == (ours[key].tolist() if torch.is_tensor(ours[key]) else ours[key]), key
    more = {key for key in ours if key not in plain}
    assert more <= {"motion_targets", "motion_mask", "motion_videos", "motion_skipped", "mm_token_type_ids"}
    assert ours["motion_skipped"] == {}


def first_frames(name, codec, count=40):
    """The first frames of a real clip, encoded once more."""
    path = session_folder() / f"{codec}-{name}"
    if not path.exists():
        with av.open(str(real_clip("b.mp4"))) as source:
            encode(path, Encoder(codec), itertools.islice(source.decode(video=0), count), rate=30)
    return path


CLIPS = {
    "a.mp4": lambda: real_clip("a.mp4"),
    "b.mp4": lambda: real_clip("b.mp4"),
    "world.mp4": lambda: real_clip("world.mp4"),
    "b.avi": lambda: real_clip("b.avi"),  # its header counts one frame more than there are
    "mpeg4.avi": lambda: first_frames("again.avi", "mpeg4"),
    "mpeg4.mp4": lambda: first_frames("again.mp4", "mpeg4"),
    "mpeg2.mov": lambda: first_frames("again.mov", "mpeg2video"),
}


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("name", CLIPS)
def test_a_batch_is_llamafactorys_own(name, family):
    video = sample(PROMPT, "It stops.", videos=[CLIPS[name]()])
    # b.avi lacks its last frame: with an odd number of frames LLaMA-Factory itself fails
    for number in (6,) if name in ("a.mp4", "b.avi") else (6, 5):
        plain, ours = batches(family, [video], **{**SMALL, "video_fps": 4.0, "video_maxlen": number})
        assert plain["video_grid_thw"][0, 0] == 3
        assert_identical(plain, ours)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mixed_batch_is_llamafactorys_own(family):
    """Clips of several lengths, or lists of images as videos, an image and text; to train and to generate from."""
    frames = frame_files()
    others = [
        sample("<image>Describe.", "It stops.", "And then?", "It moves.", images=[frames[0]]),
        sample("What happens?", "It stops."),
    ]
    files = [sample(PROMPT, "It stops.", videos=[clip]) for clip in clips() if clip.suffix != ".webm"]
    lists = [sample(PROMPT, "Spinning.", videos=[frames]), sample(PROMPT, "Spinning.", videos=[frames[:3]])]
    for samples in (files + others, lists + others):
        assert_identical(*batches(family, samples))
    plain, ours = batches(family, files + others, generate=True)
    assert_identical(plain, ours)
    assert "mm_token_type_ids" not in plain and "mm_token_type_ids" in ours


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_text_is_llamafactorys_own(family):
    assert_identical(*batches(family, [sample("What happens?", "It stops.")] * 2), has_video=False)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pixels", [(16 * 16, 40 * 40), (90 * 90, 128 * 128)], ids=["smaller", "larger"])
def test_both_resizes_are_llamafactorys_own(pixels, family):
    low, high = pixels
    wide = write_clip(fresh_folder("clip").with_suffix(".mp4"), frames=8, size=56)
    samples = [sample(PROMPT, "It stops.", videos=[wide])]
    assert_identical(*batches(family, samples, video_min_pixels=low, video_max_pixels=high))


def frame_files():
    """The frames of a clip as picture files."""
    folder = session_folder() / "frames"
    folder.mkdir(exist_ok=True)
    with av.open(str(clips()[0])) as container:
        files = [folder / f"{number}.png" for number in range(6)]
        for file, frame in zip(files, container.decode(video=0), strict=False):
            frame.to_image().save(file)
    return files


def test_webm_is_sampled_over_the_whole_clip():
    """Its header counts no frames: LLaMA-Factory takes the first `video_maxlen` of them."""
    family, webm = "qwen2_vl", next(clip for clip in clips() if clip.suffix == ".webm")  # 12 frames, 8 per second
    plain, ours = batches(family, [sample(PROMPT, "It stops.", videos=[webm])], video_fps=4.0, video_maxlen=4)
    assert torch.equal(plain["video_grid_thw"], ours["video_grid_thw"])
    assert not torch.equal(plain["pixel_values_videos"], ours["pixel_values_videos"])
    (record,) = ours["motion_videos"]
    assert record.times == pytest.approx([0, 3 / 8, 7 / 8, 11 / 8], abs=2e-3)

    # the same frames as a list of images
    with av.open(str(webm)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    files = [session_folder() / f"webm-{index}.png" for index in (0, 3, 7, 11)]
    for file, index in zip(files, (0, 3, 7, 11), strict=True):
        frames[index].save(file)
    _, listed = batches(family, [sample(PROMPT, "It stops.", videos=[files])], video_fps=4.0, video_maxlen=4)
    assert torch.equal(listed["pixel_values_videos"], ours["pixel_values_videos"])
