"""A pretrained encoder: does motion help where the world has been seen already?

The first layers of the encoder that `start.py build` puts into `model`, with its two frames told apart, then a new
projector, and the decoder of `make_tiny` or that of `model`, which can read. All of it is trained.
"""

from pathlib import Path

import numpy as np
import torch
from clips import Studio
from learning import Collator, Setting, load_start
from run import make_tiny
from start import UNSEEN_PHOTOS
from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

from motiontune.model.start import IMAGENET, scale_projector, tell_frames_apart


LAYERS, APART = 4, 2.0


def make_seer(folder: Path, seed: int, setting: Setting, reads: bool = False) -> None:
    """Write the start of a seed, `seer-N` or `pretrained-N`: the projector and a tiny decoder are its own.

    Args:
        folder: of the starts, with `model`.
        seed: of the random weights.
        setting: sizes of the clips.
        reads: with the decoder of `model`.

    Raises:
        SystemExit: if `model` is missing.
    """
    if not (folder / "model" / "config.json").exists():
        raise SystemExit(
            f"{folder / 'model'}: no pretrained start here; make it with `start.py pack` and `start.py build`"
        )
    out = folder / f"{'pretrained' if reads else 'seer'}-{seed}"
    base = folder / "model" if reads else make_tiny(folder, seed)
    decoder, encoder = load_start(base, "cpu"), load_start(folder / "model", "cpu").model.visual
    kernel = encoder.patch_embed.proj.weight
    kernel.data = tell_frames_apart(kernel.data, APART)
    encoder.blocks = encoder.blocks[:LAYERS]
    config = decoder.config
    kept = {"depth": LAYERS, "hidden_size": config.text_config.hidden_size}
    config.vision_config = type(encoder.config)(**(encoder.config.to_dict() | kept))
    torch.manual_seed(seed)
    model = Qwen2VLForConditionalGeneration(config)
    weights = {name: value for name, value in decoder.state_dict().items() if "visual" not in name}
    weights |= {f"model.visual.{n}": value for n, value in encoder.state_dict().items() if "merger.mlp" not in n}
    missing, unknown = model.load_state_dict(weights, strict=False)
    if unknown or any("merger.mlp" not in name for name in missing):
        raise ValueError(f"the start lacks {missing} and has {unknown} too much")
    processor = AutoProcessor.from_pretrained(base)
    for part in (processor.image_processor, processor.video_processor):
        part.image_mean, part.image_std = IMAGENET["image_mean"], IMAGENET["image_std"]
    processor.save_pretrained(out)
    photos = torch.from_numpy(np.load(folder / "photos.npy"))
    studio = Studio(photos, UNSEEN_PHOTOS, setting.side, setting.frames, "cpu")
    clips = Collator(out, setting, "cpu")(studio.render(64, "in_domain", "stills", -1)).inputs
    scale_projector(model, clips["pixel_values_videos"], clips["video_grid_thw"])
    model.save_pretrained(out)
