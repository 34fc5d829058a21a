"""What training will see, printed and drawn, without training and without the model's weights."""

import io
import sys
from contextlib import redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import init_empty_weights
from llamafactory.extras.constants import IGNORE_INDEX
from transformers import AutoModelForImageTextToText

from motiontune.compiled import compile_all
from motiontune.drawing.images import save_png
from motiontune.drawing.sheets import SheetRow, contact_sheet
from motiontune.errors import ConfigError
from motiontune.files import claim
from motiontune.llamafactory.collator import MotionDataCollator
from motiontune.llamafactory.install import get_train_args, install, sample_as_trained
from motiontune.llamafactory.names import quiet_transformers
from motiontune.llamafactory.workflow import head_config, load_datasets, load_processor, target_settings
from motiontune.motion.field import MotionField
from motiontune.tables import shorten_middle, text_table
from motiontune.targets import from_tokens, tokens_to_vectors
from motiontune.training.batch import VideoRecord


MEANING = {
    "input_ids": "token ids; the video's place is taken by <|video_pad|>",
    "attention_mask": "1 where there is a token; packed: per pair of positions, 0 where one sees the other",
    "labels": "the token to predict at the position before; -100 is not supervised by text",
    "position_ids": "text, time, row, column position of each token",
    "rope_deltas": "shift between positions and token numbers, for generation",
    "pixel_values_videos": "normalised patches of the resized frames; a row has channels * time * patch * patch",
    "video_grid_thw": "per video: temporal patches, patch rows, patch columns",
    "pixel_values": "normalised patches of the images",
    "image_grid_thw": "per image: 1, patch rows, patch columns",
    "second_per_grid_ts": "seconds per temporal patch",
    "motion_targets": "x, y of each patch of a video token, or as motion_head_form and _output have it",
    "motion_mask": "where motion_targets is a target",
    "motion_weights": "how much each target counts: its vector's confidence",
    "motion_videos": "per video: clip, grid, times, source",
    "motion_skipped": "rows of samples that could not be used, and why",
}


def inspect(args: dict[str, Any], out: str | Path, samples: int = 2) -> None:
    """Print every variable of one training batch and save a picture of its motion targets.

    Args:
        args: the keys of a training YAML.
        out: folder for `sample_N.png`.
        samples: how many samples of the data set the batch has.

    Raises:
        MotiontuneError: on a mistake in the configuration or the data.
    """
    claim(out, [_picture(out, row) for row in range(samples)])
    install()
    with quiet_transformers():
        model_args, data_args, training_args, finetuning_args, _ = get_train_args(_to_look_at(args, str(out), samples))
        if not args.get("do_train"):
            sample_as_trained(model_args, args)
        config, tokenizer_module, template = load_processor(model_args, data_args)
        tokenizer, processor = tokenizer_module["tokenizer"], tokenizer_module["processor"]
        head = head_config(config, processor, data_args, finetuning_args)
        if data_args.motion_source != "file":
            compile_all(lambda line: print(line, file=sys.stderr, flush=True))
        with redirect_stdout(io.StringIO()):  # LLaMA-Factory prints an example, here comes a better one
            arguments = template, model_args, data_args, training_args, tokenizer_module
            module = load_datasets(*arguments, motion_without_answer=finetuning_args.trains_motion)
            dataset = module["train_dataset"]
    with init_empty_weights():
        model = AutoModelForImageTextToText.from_config(config)  # only its position numbering is used
    collator = MotionDataCollator(
        template=template,
        model=model,
        pad_to_multiple_of=8,
        label_pad_token_id=IGNORE_INDEX,
        block_diag_attn=model_args.block_diag_attn,
        neat_packing=data_args.neat_packing,
        compute_dtype=model_args.compute_dtype or torch.float32,
        motion=target_settings(head, data_args, finetuning_args),
        **tokenizer_module,
    )
    features = [sample for sample, _ in zip(dataset, range(samples), strict=False)]
    if not features:
        raise ConfigError("the data set is empty")
    videos = [feature.get("videos") or [] for feature in features]
    batch = collator(list(features))

    print(f"\nOne batch of {_count(features, 'sample')}\n")
    print(text_table([("name", "shape", "dtype", "range", "meaning"), *_variables(batch)], rule=True))
    sizes = [head.rows(record.grid) for record in batch["motion_videos"]]
    targets, masks = batch["motion_targets"].split(sizes), batch["motion_mask"].split(sizes)
    for row in range(len(features)):
        print(f"\nSample {row}: {_count(videos[row], 'video')}")
        print(
            _runs(
                batch["input_ids"][row],
                batch["labels"][row],
                tokenizer,
                collator.video_token_id,
                finetuning_args.use_only_motionvector_loss,
            )
        )
        rows = []
        mine = [(*parts,) for parts in zip(batch["motion_videos"], targets, masks, strict=True) if parts[0].row == row]
        for (record, values, mask), video in zip(mine, videos[row] if mine else [], strict=True):
            field = _field(record, values, mask, head) if head.has_field else None
            print(_describe(record, field, f"{head}, {len(mask)} rows, {mask.float().mean():.0%} are targets"))
            if field is None:
                continue
            frames, grid = template.mm_plugin.read(video, processor).frames, record.grid
            title = f"{Path(record.path).name} · {record.source}, {head.direction}"
            motion = (field.vectors, field.valid, field.times)
            rows.append(SheetRow.of(title, frames, *motion, grid.patch, grid.temporal_patch - 1))
        if rows:
            picture = _picture(out, row)
            save_png(picture, contact_sheet(rows))
            print(f"  picture: {picture}")
    for line in batch["motion_skipped"].values():
        print(f"\nLeft out: {line}")
    halves = [key for key in ("bf16", "fp16") if args.get(key) and not args.get("use_cpu")]
    if halves and not torch.accelerator.is_available():
        print(f"\n{halves[0]}: there is no GPU here, and `motiontune train` stops; with `use_cpu: true` it trains.")


def _picture(out: str | Path, row: int) -> Path:
    return Path(out) / f"sample_{row}.png"


def _to_look_at(args: dict[str, Any], out: str, samples: int) -> dict[str, Any]:
    """Change the keys of a run to those of one that only reads its first samples, on any machine."""
    left_out = "deepspeed fsdp do_eval do_predict eval_dataset val_size eval_strategy predict_with_generate "
    left_out += "compute_accuracy resume_from_checkpoint load_best_model_at_end report_to tf32 streaming"
    args = {"dataset": args.get("eval_dataset"), **args}
    kept = {key: value for key, value in args.items() if key not in left_out.split()}
    kept |= {"output_dir": out, "overwrite_output_dir": True, "do_train": True, "use_cpu": True}
    kept["max_samples"] = max(8 * samples, 64)
    if not (args.get("use_only_motionvector_loss") or args.get("use_motionvector_crossentropy_loss")):
        kept["use_motionvector_crossentropy_loss"] = True
    return kept


def _variables(batch: dict[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, value in batch.items():
        if torch.is_tensor(value):
            numbers = value.float()
            span = f"{numbers.min():.4g} .. {numbers.max():.4g}" if value.numel() else "empty"
            rows.append(
                (name, str(list(value.shape)), str(value.dtype).removeprefix("torch."), span, MEANING.get(name, ""))
            )
        else:
            size = _count(value, "item") if isinstance(value, (list, tuple, dict)) else ""
            rows.append((name, size, type(value).__name__, "", MEANING.get(name, "")))
    return rows


def _runs(
    input_ids: torch.Tensor, labels: torch.Tensor, tokenizer: Any, video_token_id: int, only_motion: bool
) -> str:
    """Fold a token sequence to runs: video tokens to one line, text between them to one line each."""
    lines = []
    position = 0

    def kind(pair: tuple[int, int]) -> tuple[bool, bool, bool]:
        token, label = pair
        return token == video_token_id, token == tokenizer.pad_token_id, label != IGNORE_INDEX

    for (video, pad, labelled), group in groupby(zip(input_ids.tolist(), labels.tolist(), strict=True), kind):
        tokens = [token for token, _ in group]
        if video or pad:
            text = f"{tokenizer.convert_ids_to_tokens(tokens[0])} x {len(tokens)}"
        else:
            text = shorten_middle(repr(tokenizer.decode(tokens)), 120)
        learns = "motion" if video else "text" if labelled and not only_motion else "-"
        lines.append(f"  {position:>6} {len(tokens):>6} tokens  learns {learns:<7} {text}")
        position += len(tokens)
    return "\n".join(lines)


def _count(things: Any, noun: str) -> str:
    return f"{len(things)} {noun}" + "s" * (len(things) != 1)


def _field(record: VideoRecord, values: torch.Tensor, mask: torch.Tensor, head: Any) -> MotionField:
    return MotionField(
        vectors=tokens_to_vectors(values.numpy(), record.grid, head.scale),
        valid=from_tokens(mask.numpy(), record.grid)[..., 0],
        times=np.asarray(record.times, np.float64),
        source=record.source,
        direction=head.direction,
    )


def _describe(record: VideoRecord, field: MotionField | None, rows: str) -> str:
    """Describe a video and its targets; those without a field as `rows`."""
    grid, motion = record.grid, rows
    if field is not None:
        length = (field.vectors[field.valid] ** 2).sum(-1) ** 0.5
        lengths = f"mean {length.mean():.2f} px, largest {length.max():.2f} px" if length.size else "no valid vector"
        motion = f"{field.direction}: {field.valid.mean():.0%} of patches valid, {lengths}"
    times = ", ".join(f"{time:.2f}" for time in record.times[:12]) + (", ..." if len(record.times) > 12 else "")
    return (
        f"  video {record.path}\n"
        f"    grid   {grid.frames} frames x {grid.rows} x {grid.cols} patches of {grid.patch} px = "
        f"{grid.width}x{grid.height} px, {grid.num_tokens} tokens of {grid.token_width} numbers\n"
        f"    times  {times} s\n"
        f"    motion {record.source}, {motion}" + (f"\n    none because {record.problem}" if record.problem else "")
    )
