"""Supervised fine-tuning with motion, step by step as in LLaMA-Factory's own `run_sft`."""

import copy
import os
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from llamafactory.data import TEMPLATES, get_dataset, get_template_and_fix_tokenizer
from llamafactory.data.processor import SupervisedDatasetProcessor
from llamafactory.extras.constants import IGNORE_INDEX, AttentionFunction
from llamafactory.extras.misc import calculate_tps
from llamafactory.extras.ploting import plot_loss
from llamafactory.hparams import GeneratingArguments, ModelArguments
from llamafactory.hparams.training_args import TrainingArguments
from llamafactory.model import load_config, load_model, load_tokenizer
from llamafactory.train.sft.metric import ComputeAccuracy, ComputeSimilarity
from llamafactory.train.trainer_utils import create_modelcard_and_push
from safetensors import SafetensorError
from transformers import Trainer

from motiontune.cache import FrameCache, MotionCache
from motiontune.compiled import compile_all
from motiontune.datasets.dataset_info import NEW_TOKENS
from motiontune.errors import ConfigError, HeadError, MotiontuneError, in_one_line, mistakes, nearest
from motiontune.evaluation.forms import main_metric, metric_names
from motiontune.files import alone_in, write_text
from motiontune.llamafactory.arguments import MotionDataArguments, MotionFinetuningArguments
from motiontune.llamafactory.collator import MotionDataCollator
from motiontune.llamafactory.names import (
    dataset_hooks,
    encode_sample,
    get_logger,
    loading_data,
    sample_of,
    special_tokens_of,
    videos_of,
)
from motiontune.llamafactory.overview import LOOKED_AT, SetOverview, look_at, table
from motiontune.llamafactory.page import settings_table
from motiontune.llamafactory.plugin import check_template, reading_settings, with_motion
from motiontune.llamafactory.samples import (
    CheckedDatasetProcessor,
    check_motion_files,
    check_names,
    check_rows,
    check_sample,
    check_tokenized,
    check_videos,
    has_motion_alone,
    log_enlarged,
    log_source,
    rows_to_look_at,
)
from motiontune.llamafactory.sampling import log_sampling
from motiontune.llamafactory.trainer import MotionTrainer, motion_settings
from motiontune.manifest import ClipFacts
from motiontune.model.damage import check_processor
from motiontune.model.families import family_of
from motiontune.model.forward import MotionObjective, attach_head, freeze_unused, tap_depth, trains_below
from motiontune.model.head import MotionHead, MotionHeadConfig, find_head
from motiontune.model.sparse_logits import use_sparse_logits
from motiontune.model.wrappers import attention_of, base_of
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import motion_of, vectors_for
from motiontune.runs.folder import OVERVIEW
from motiontune.terminal import ON_PAGE
from motiontune.training.checkpoints import saving
from motiontune.training.progress import names_of
from motiontune.training.settings import TargetSettings
from motiontune.video.clip import Sampling


logger = get_logger(__name__)

SAMPLES_LEFT_OUT = "samples_left_out"
"""Metric: samples that were dropped before the first step; absent where rows are no samples."""


def run_motion_sft(
    model_args: ModelArguments,
    data_args: MotionDataArguments,
    training_args: TrainingArguments,
    finetuning_args: MotionFinetuningArguments,
    generating_args: GeneratingArguments,
    callbacks: list[Any] | None = None,
) -> None:
    """Train, evaluate and predict text and motion, as the arguments ask.

    Args:
        model_args: LLaMA-Factory's.
        data_args: with `train_on_video_tokens` set.
        training_args: LLaMA-Factory's.
        finetuning_args: with the motion loss and head.
        generating_args: LLaMA-Factory's.
        callbacks: LLaMA-Factory's.

    Raises:
        MotiontuneError: on a mistake in the configuration or data; where nothing was learned, or nothing measured.
    """
    check_packages(training_args)
    config, tokenizer_module, template = load_processor(model_args, data_args)
    tokenizer, processor = tokenizer_module["tokenizer"], tokenizer_module["processor"]
    # before the data sets and the model, which take long: a mistake shows at once
    head = make_head(config, processor, model_args, data_args, finetuning_args, training_args.do_train)
    if data_args.motion_source != "file" or training_args.dataloader_num_workers:
        # before workers are forked, which where nothing can be kept would each compile by themselves
        compile_all(lambda line: logger.info_rank0(line, **ON_PAGE))
    needs_motion = training_args.do_train and finetuning_args.use_only_motionvector_loss
    dataset_module, left_out, overview = load_counted_datasets(
        template, model_args, data_args, training_args, tokenizer_module, needs_motion, finetuning_args.trains_motion
    )

    if training_args.do_train:
        check_has_video(dataset_module["train_dataset"], data_args)
    check_best_metric(dataset_module.get("eval_dataset"), training_args, finetuning_args)

    logger.info_rank0("Loading the model ...", **ON_PAGE)
    with mistakes(
        "the model cannot be loaded", OSError, ValueError, ImportError, NotImplementedError, SafetensorError
    ):
        model = load_model(tokenizer, model_args, finetuning_args, training_args.do_train)
    settings = motion_settings(finetuning_args)
    objective = MotionObjective(
        settings.loss_type, settings.with_text, training_args.label_smoothing_factor, gradient=settings.gradient
    )
    if finetuning_args.sparse_logits:
        use_sparse_logits(model)  # for the forward pass without motion, which is that of `motion_loss_weight: 0`
    attach_head(model, head, objective)
    prepare_parameters(model, finetuning_args, training_args.do_train)
    if training_args.do_train:
        log_frozen_tokens(model, tokenizer, template, finetuning_args)

    collator = MotionDataCollator(
        template=template,
        model=None if training_args.predict_with_generate else model,
        pad_to_multiple_of=8 if training_args.do_train else None,
        label_pad_token_id=IGNORE_INDEX if data_args.ignore_pad_token_for_loss else tokenizer.pad_token_id,
        block_diag_attn=model_args.block_diag_attn,
        neat_packing=data_args.neat_packing,
        attn_implementation=attention_of(model),
        compute_dtype=model_args.compute_dtype,
        motion=target_settings(head.config, data_args, finetuning_args),
        skip_changed=data_args.motion_on_error == "skip",
        **tokenizer_module,
    )
    compute_metrics: Any = None
    if training_args.predict_with_generate:
        compute_metrics = ComputeSimilarity(tokenizer=tokenizer)
    elif finetuning_args.compute_accuracy:
        compute_metrics = ComputeAccuracy()
    gen_kwargs = generation_arguments(generating_args, tokenizer)
    if training_args.predict_with_generate:
        logger.info_rank0(how_generated(gen_kwargs), **ON_PAGE)
    with alone_in(training_args.output_dir) if training_args.process_index == 0 else nullcontext():
        with mistakes("", ValueError, ImportError, RuntimeError):  # such as a logger that is unknown or not installed
            trainer = MotionTrainer(
                model=model,
                args=training_args,
                finetuning_args=finetuning_args,
                fold_video_tokens=data_args.fold_video_tokens,
                data_collator=collator,
                callbacks=callbacks,
                gen_kwargs=gen_kwargs,
                compute_metrics=compute_metrics,
                **dataset_module,
                **tokenizer_module,
            )
        if trainer.is_world_process_zero():
            write_text(Path(training_args.output_dir, OVERVIEW), overview + "\n")
        parts = data_args, training_args, finetuning_args, dataset_module
        logger.info_rank0(f"\n{settings_table(model, head.config, *parts)}", **ON_PAGE)
        with saving(training_args.output_dir):
            _train_and_measure(trainer, dataset_module, left_out, finetuning_args, generating_args, gen_kwargs)
            if trainer.is_world_process_zero():
                log_caches(collator)
            create_modelcard_and_push(trainer, model_args, data_args, training_args, finetuning_args)
    for prefix, reason in trainer.unmeasured.items():
        raise MotiontuneError(f"do_{prefix.partition('_')[0]} measured nothing: {reason}")


def _train_and_measure(
    trainer: MotionTrainer,
    dataset_module: dict[str, Any],
    left_out: dict[str, int],
    finetuning_args: MotionFinetuningArguments,
    generating_args: GeneratingArguments,
    gen_kwargs: dict[str, Any],
) -> None:
    """Train, evaluate and predict, and write what was measured."""
    args = trainer.args
    if args.do_train:
        result = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
        trainer.save_model()
        if trainer.steps_trained or not Path(args.output_dir, "train_results.json").is_file():
            counted = {SAMPLES_LEFT_OUT: left_out["train"]} if "train" in left_out else {}
            _save_results(trainer, result.metrics | counted, dataset_module, finetuning_args)

    trainer.unmeasured.clear()
    if args.predict_with_generate:
        trainer.processing_class.padding_side = "left"

    if args.do_eval:
        metrics = trainer.evaluate(metric_key_prefix="eval", **gen_kwargs)
        _save_measured(trainer, "eval", metrics, left_out)

    if args.do_predict:
        eval_dataset = dataset_module["eval_dataset"]
        if isinstance(eval_dataset, dict):  # `eval_on_each_dataset`
            counts = {
                name: {SAMPLES_LEFT_OUT: left_out[f"eval {name}"]} for name in eval_dataset if "eval" in left_out
            }
            metrics = trainer.predict_each(eval_dataset, generating_args.skip_special_tokens, counts, **gen_kwargs)
        else:
            results = trainer.predict(eval_dataset, metric_key_prefix="predict", **gen_kwargs)
            metrics = results.metrics
            trainer.save_predictions(eval_dataset, results, generating_args.skip_special_tokens)
        _save_measured(trainer, "predict", metrics, left_out)


def _save_measured(trainer: MotionTrainer, prefix: str, metrics: dict[str, float], left_out: dict[str, int]) -> None:
    if "eval" in left_out:
        metrics[f"{prefix}_{SAMPLES_LEFT_OUT}"] = left_out["eval"]
    trainer.log_metrics(prefix, metrics)
    trainer.save_metrics(prefix, metrics)


def check_packages(training_args: TrainingArguments) -> None:
    """Refuse an optimizer whose package is not installed, and a hub that cannot be reached: both show late.

    Raises:
        ConfigError: naming the key.
    """
    if training_args.do_train:
        with suppress(ValueError), mistakes("optim", ImportError):  # ValueError: one that needs the model
            Trainer.get_optimizer_cls_and_kwargs(training_args)
    if training_args.push_to_hub and training_args.process_index == 0:
        with mistakes("push_to_hub: the hub cannot be reached, or does not know you", Exception):
            HfApi().whoami(training_args.hub_token)


def check_has_video(dataset: Any, data_args: MotionDataArguments) -> None:
    """Refuse training data without any video; of a stream that is not known.

    Raises:
        ConfigError: naming the data sets.
    """
    if data_args.streaming:
        return
    if "videos" in dataset.column_names and any(row["videos"] for row in dataset.select_columns(["videos"])):
        return
    raise ConfigError(
        f"train_on_video_tokens: no sample of {', '.join(data_args.dataset or ['the training data'])} has a video, so "
        f"there is no motion to learn: name the column `videos` in dataset_info.json, or leave the motion keys out"
    )


def check_best_metric(eval_dataset: Any, training_args: Any, finetuning_args: MotionFinetuningArguments) -> None:
    """Refuse a `metric_for_best_model` that no evaluation of this run measures.

    Raises:
        ConfigError: with the metrics that there are.
    """
    wanted = training_args.metric_for_best_model
    if wanted is None or training_args.eval_strategy == "no" or not training_args.do_train:
        return
    counted, *names = [*metric_names(finetuning_args.head_form).values(), "motion_loss"]
    if training_args.predict_with_generate:
        names += ["bleu-4", "rouge-1", "rouge-2", "rouge-l"]
    else:
        names += ["loss"]
        if not finetuning_args.use_only_motionvector_loss:
            names += ["ce_loss"] + ["accuracy"] * finetuning_args.compute_accuracy
    prefixes = [f"{name}_" for name in eval_dataset] if isinstance(eval_dataset, dict) else [""]
    measured = [f"eval_{prefix}{name}" for prefix in prefixes for name in names]
    others = ("runtime", "samples_per_second", "steps_per_second", "clips_left_out", counted)
    full = wanted if wanted.startswith("eval_") else f"eval_{wanted}"
    if full not in (*measured, *(f"eval_{prefix}{name}" for prefix in prefixes for name in others)):
        raise ConfigError(
            f"metric_for_best_model: {wanted} is not measured, but {', '.join(measured)}" + nearest(full, measured)
        )


def log_overview(overviews: list[SetOverview]) -> None:
    """Log the table of the data sets."""
    logger.info_rank0(f"What the run reads:\n{table(overviews)}", **ON_PAGE)


def log_caches(collator: MotionDataCollator) -> None:
    """Log how large the caches have become."""
    assert collator.motion is not None
    for cache in (collator.motion.cache, collator.template.mm_plugin.frame_cache):
        if cache is not None:
            files, size = cache.size()
            logger.info_rank0(f"{cache.folder} keeps {files} clips in {size / 1e6:,.1f} MB.")


def load_processor(model_args: ModelArguments, data_args: MotionDataArguments) -> tuple[Any, dict[str, Any], Any]:
    """Load configuration, tokenizer and processor, and the template that reads clips through motiontune.

    Returns:
        The model's configuration, LLaMA-Factory's tokenizer module, and the template.

    Raises:
        ConfigError: if the model or the template does not exist, or has no video tokens.
    """
    where = model_args.model_name_or_path
    if os.path.isabs(where) and not os.path.isdir(where):
        raise ConfigError(f"model_name_or_path: {where} is no folder")
    check_processor(where)
    try:
        config = load_config(model_args)
        family = family_of(config)
        tokenizer_module = load_tokenizer(model_args)
    except (OSError, ValueError) as error:
        reason = in_one_line(error.__cause__ or error)
        raise ConfigError(
            f"model_name_or_path: {where} cannot be loaded from a folder or the hub: {reason}"
        ) from error
    if tokenizer_module["processor"] is None:
        raise ConfigError(f"model_name_or_path: {where} has no processor: motion needs a video-language model")
    if data_args.template not in (None, *TEMPLATES):
        raise ConfigError(f"template: {data_args.template!r} does not exist" + nearest(data_args.template, TEMPLATES))
    with mistakes("template", ValueError):
        template = get_template_and_fix_tokenizer(tokenizer_module["tokenizer"], data_args)
    template = with_motion(template, data_args.template)
    if data_args.frame_cache_dir is not None:
        template.mm_plugin.frame_cache = FrameCache(data_args.frame_cache_dir)
    if data_args.motion_manifest is not None:
        template.mm_plugin.facts = ClipFacts(data_args.motion_manifest)
    check_template(template, data_args.template, family)
    if family.linear_attention and data_args.neat_packing and model_args.flash_attn != AttentionFunction.FA2:
        raise ConfigError(
            f"neat_packing: {family.name} has layers of linear attention, which carry their state from one packed "
            f"sample into the next: leave it out, or use `flash_attn: fa2` with flash-linear-attention installed"
        )
    return config, dict(tokenizer_module), template


def load_datasets(*arguments: Any, **options: Any) -> dict[str, Any]:
    """Load the data sets as `load_counted_datasets`, without the count."""
    module, _, _ = load_counted_datasets(*arguments, **options)
    return module


def load_counted_datasets(
    template: Any,
    model_args: Any,
    data_args: MotionDataArguments,
    training_args: Any,
    tokenizer_module: Any,
    needs_motion: bool = False,
    motion_without_answer: bool = False,
) -> tuple[dict[str, Any], dict[str, int], str]:
    """Load and tokenize the data sets; clips are checked, and the motion source of each data set is logged.

    Args:
        template: LLaMA-Factory's.
        model_args: LLaMA-Factory's.
        data_args: LLaMA-Factory's, with ours.
        training_args: LLaMA-Factory's.
        tokenizer_module: tokenizer and processor.
        needs_motion: nothing but motion is trained.
        motion_without_answer: as for `CheckedDatasetProcessor`.

    Returns:
        LLaMA-Factory's dataset module, whose evaluation samples carry their number as `motion_sample`; how many
        samples were left out of "train", "eval" and, with `eval_on_each_dataset`, "eval NAME", as far as rows are
        samples, which they are not when streaming or packing; and the table of what was seen of them.

    Raises:
        MotiontuneError: naming the data set, the sample or the file that cannot be used.
    """

    def checked(inner: Any) -> CheckedDatasetProcessor:
        shared = inner.template, inner.tokenizer, inner.processor, inner.data_args
        return CheckedDatasetProcessor(*shared, inner, motion_without_answer)

    plugin, processor = template.mm_plugin, tokenizer_module["processor"]

    def read_motion(path: str) -> None:
        options = motion_options(data_args)
        clip = plugin.read(path, processor, vectors_for(options, lambda clip: plugin.grid_of(clip, processor)))
        motion_of(clip, plugin.grid_of(clip, processor), options)

    def frames_and_rate(video: Any) -> tuple[int, float]:
        check_videos([video])
        return plugin.frames_and_rate(video, processor)

    def count_frames(video: Any) -> int:
        return frames_and_rate(video)[0]

    whole = copy.copy(data_args)
    whole.cutoff_len = 1 << 30
    encoder = SupervisedDatasetProcessor(template, tokenizer_module["tokenizer"], processor, whole)

    def count_tokens(row: Any) -> int:
        check_sample(sample := sample_of({key: [value] for key, value in row.items()}, 0), data_args.media_dir)
        sample["response"] = sample["response"][:1] or [{"role": "assistant", "content": ""}]
        if len(sample["prompt"]) % 2 != 1:
            raise ValueError("a turn is missing")  # LLaMA-Factory drops such a sample
        return len(encode_sample(encoder, sample)[0])

    overviews: list[SetOverview] = []

    def note(name: str, dataset: Any, videos_of_row: Any, tokens_of_row: Any) -> None:
        streaming = data_args.streaming
        rows, samples = rows_to_look_at(dataset, streaming, LOOKED_AT), None if streaming else len(dataset)
        sampling = model_args.video_fps, model_args.video_maxlen
        looks = read_motion, count_frames, sampling
        sources = log_source(name, dataset, data_args, *looks, needs_motion, videos_of_row)
        cutoff = data_args.cutoff_len
        overview = look_at(name, rows, samples, cutoff, videos_of_row, tokens_of_row, frames_and_rate)
        overview.sources, overview.packing = sources or {}, bool(data_args.packing)
        overviews.append(overview)

    motion_files: dict[Path, str] = {}

    def look(attr: Any, dataset: Any) -> None:
        check_motion_files(dataset, data_args, motion_files)
        note(attr.dataset_name, dataset, videos_of, count_tokens)
        if motion_without_answer:
            rows = rows_to_look_at(dataset, data_args.streaming, LOOKED_AT)
            samples = [sample_of({key: [value] for key, value in row.items()}, 0) for row in rows]
            overviews[-1].unanswered = sum(map(has_motion_alone, samples))
        log_enlarged(attr.dataset_name, dataset, plugin, processor, data_args.streaming)
        log_overview(overviews[-1:])

    loaded, left_out = Counter[str](), Counter[str]()
    of_sets: list[int] = []  # of each set for evaluation, in their order

    def count(split: str, before: Any, after: Any) -> None:
        if not data_args.streaming and not data_args.packing:
            loaded[split] += len(before)
            left_out[split] += len(before) - len(after)
            if split == "eval":
                of_sets.append(len(before) - len(after))

    check_names(data_args)
    with loading_data(), dataset_hooks(checked, look, count, lambda attr: check_rows(attr, data_args.dataset_dir)):
        module = get_dataset(template, model_args, data_args, training_args, stage="sft", **tokenizer_module)
    if not overviews:  # tokenized_path
        for split in ("train_dataset", "eval_dataset"):
            for data in _each(module.get(split)):
                name = f"{data_args.tokenized_path} ({split.partition('_')[0]})"
                note(name, data, lambda row: row.get("videos") or [], lambda row: len(row["input_ids"]))
        log_overview(overviews)
    video_token = tokenizer_module["tokenizer"].convert_tokens_to_ids(plugin.video_token)
    for split in ("train_dataset", "eval_dataset"):
        for data in _each(module.get(split)):
            check_tokenized(data, lambda videos: plugin.count_video_tokens(videos, processor), video_token, data_args)
    if left_out.total():
        logger.warning_rank0(f"{left_out.total()} of {loaded.total()} samples were left out before training.")
    if "eval_dataset" in module:
        several = isinstance(module["eval_dataset"], dict)
        datasets = module["eval_dataset"] if several else {"": module["eval_dataset"]}
        numbered = {
            name: data.map(lambda sample, number: {"motion_sample": number}, with_indices=True)
            for name, data in datasets.items()
        }
        if several and of_sets:
            left_out.update({f"eval {name}": lost for name, lost in zip(datasets, of_sets, strict=True)})
        module["eval_dataset"] = numbered if several else numbered[""]
    return module, dict(left_out), table(overviews)


def _each(data: Any) -> list[Any]:
    """The data sets of one split, which are a dictionary with `eval_on_each_dataset`."""
    return [] if data is None else list(data.values()) if isinstance(data, dict) else [data]


def target_settings(
    head: MotionHeadConfig, data_args: MotionDataArguments, finetuning_args: MotionFinetuningArguments
) -> TargetSettings:
    """Gather what the collator needs of the keys."""
    return TargetSettings(
        head=head,
        options=motion_options(data_args),
        raise_on_error=data_args.motion_on_error == "raise",
        weighting=finetuning_args.motion_confidence_weighting,
        cache=None if data_args.motion_cache_dir is None else MotionCache(data_args.motion_cache_dir),
        pictures=data_args.motion_pictures,
    )


def motion_options(data_args: MotionDataArguments) -> MotionOptions:
    """Gather what the source of motion needs."""
    return MotionOptions(
        source=data_args.motion_source,
        direction=data_args.motion_direction,
        quality=data_args.motion_quality,
        min_confidence=data_args.motion_min_confidence,
        motion_dir=data_args.motion_dir,
        raft_weights=data_args.motion_raft_weights,
    )


def head_config(config: Any, processor: Any, data_args: Any, finetuning_args: Any) -> MotionHeadConfig:
    """Work out what head the model, the processor and the configuration ask for.

    Raises:
        ConfigError: if the model has not the layer that the head is to read.
    """
    reads = finetuning_args.motion_head_input
    tap_depth(reads, config.text_config.num_hidden_layers)
    scale, form = finetuning_args.motion_scale, asdict(finetuning_args.head_form)
    form["sampling"] = Sampling.from_keys(reading_settings(processor))
    return MotionHeadConfig.for_model(config, processor, reads, data_args.motion_direction, scale, **form)


def head_places(model_args: Any) -> list[str]:
    """Where a motion head may lie: beside the adapters, the last one first, or beside the model."""
    return [*reversed(model_args.adapter_name_or_path or []), model_args.model_name_or_path]


def hub_arguments(model_args: Any) -> dict[str, Any]:
    """Where a model comes from on the hub, so that its head comes from there too: the arguments of `load_head`."""
    return {
        "cache_dir": model_args.cache_dir,
        "revision": model_args.model_revision,
        "token": model_args.hf_hub_token,
    }


def make_head(
    config: Any, processor: Any, model_args: Any, data_args: Any, finetuning_args: Any, is_trainable: bool
) -> MotionHead:
    """Load the head beside the last adapter or the model, or make a new one for training.

    Raises:
        HeadError: if the saved head does not fit, or there is none and the run does not train one.
    """
    head = saved_head(config, processor, model_args, data_args, finetuning_args, is_trainable)
    if head is not None:
        return head
    wanted = head_config(config, processor, data_args, finetuning_args)
    if not is_trainable:
        raise HeadError(
            f"{head_places(model_args)[0]} has no motion head: train one, or leave train_on_video_tokens and the loss "
            f"flags out"
        )
    size = f"{wanted.hidden_size} -> {wanted.token_width}"
    logger.info_rank0(f"Motion head: new, {size}, reads {wanted.input}, predicts {wanted}.")
    return MotionHead(wanted)


def saved_head(
    config: Any, processor: Any, model_args: Any, data_args: Any, finetuning_args: Any, is_trainable: bool = False
) -> MotionHead | None:
    """Load the head beside the last adapter or the model; None where there is none.

    Raises:
        HeadError: if it does not fit.
    """
    wanted = head_config(config, processor, data_args, finetuning_args)
    found = find_head(head_places(model_args), **hub_arguments(model_args))
    if found is None:
        return None
    where, head = found
    sampling = wanted.sampling
    assert sampling is not None
    if not is_trainable:  # a head is read as its own configuration has it
        wanted = MotionHeadConfig.for_model(config, processor, **head.config.chosen)
    head.config.check_fits(wanted, where)
    log_sampling(where, head, sampling, is_trainable, **hub_arguments(model_args))
    if is_trainable:
        head.config = replace(head.config, sampling=sampling)
    logger.info_rank0(f"Motion head: loaded from {where}.")
    return head


def prepare_parameters(model: Any, finetuning_args: MotionFinetuningArguments, is_trainable: bool) -> None:
    """Decide what trains: the head unless the run is a control; with motion alone, nothing that it never reaches."""
    base_of(model).motion_head.requires_grad_(is_trainable and finetuning_args.motion_loss_weight > 0)
    if is_trainable and finetuning_args.use_only_motionvector_loss:
        frozen = freeze_unused(model)
        if frozen:
            logger.info_rank0(
                f"The motion loss alone does not reach {len(frozen)} weights, now frozen: {frozen[0]}, ..."
            )
    if is_trainable and finetuning_args.motion_gradient != "head" and not trains_below(model):
        reads = base_of(model).motion_head.config.input
        logger.warning_rank0(
            f"The motion loss trains the head alone: everything that it reaches below `motion_head_input: {reads}` is "
            f"frozen, see freeze_vision_tower, freeze_multi_modal_projector and lora_target."
        )


def log_frozen_tokens(model: Any, tokenizer: Any, template: Any, finetuning_args: Any) -> None:
    """Log which of the special tokens that the data uses have embedding rows that will not train."""
    embeddings = model.get_input_embeddings()
    if any(parameter.requires_grad for parameter in embeddings.parameters()):
        return
    added = set(tokenizer.get_added_vocab())
    plugin = template.mm_plugin
    used = {plugin.video_token, plugin.vision_bos_token, plugin.vision_eos_token, tokenizer.eos_token}
    used |= special_tokens_of(template, added)
    tokens = ", ".join(sorted(used & added, key=tokenizer.convert_tokens_to_ids))
    if finetuning_args.finetuning_type in ("lora", "oft"):
        key = "additional_target: embed_tokens,lm_head"
    elif finetuning_args.finetuning_type == "freeze":
        key = "freeze_extra_modules: embed_tokens,lm_head"
    else:
        key = "freeze_language_model: false"
    logger.info_rank0(
        f"The embedding rows of {tokens} stay as they are. That is right for a model that knows these tokens; "
        f"to train them (new tokens, another template) add `{key}`."
    )


def generation_arguments(generating_args: GeneratingArguments, tokenizer: Any) -> dict[str, Any]:
    """Make the arguments of `generate()`: it ends at any special token of the tokenizer, as in LLaMA-Factory."""
    arguments = generating_args.to_dict(obey_generation_config=True)
    ends = [tokenizer.eos_token_id, *(token for token in tokenizer.extra_special_tokens_ids if token is not None)]
    arguments["eos_token_id"] = list(dict.fromkeys(ends))
    arguments["pad_token_id"] = tokenizer.pad_token_id
    return arguments


def how_generated(arguments: Mapping[str, Any]) -> str:
    """A line about the text that `generate()` makes with these arguments, and how it becomes that of `evaluate`."""
    limit = f"at most {arguments['max_new_tokens']} tokens" if "max_new_tokens" in arguments else "max_length counts"
    beams = f"{arguments['num_beams']} beams, " if arguments["num_beams"] > 1 else ""
    if not arguments["do_sample"]:
        return f"Text: {beams or 'greedy, '}{limit}."
    drawn = ", ".join(f"{key} {arguments[key]:g}" for key in ("temperature", "top_p", "top_k"))
    return (
        f"Text: drawn at random (do_sample, {drawn}), {beams}{limit}: another in each run. `do_sample: false` gives "
        f"the greedy text of `motiontune evaluate` and `predict` (theirs is at most {NEW_TOKENS} tokens long)."
    )


def _save_results(
    trainer: MotionTrainer,
    metrics: dict[str, float],
    dataset_module: dict[str, Any],
    finetuning_args: MotionFinetuningArguments,
) -> None:
    """Write what a training measured, and its curves. A finished run that is started again measures nothing."""
    if finetuning_args.include_effective_tokens_per_second:
        metrics["effective_tokens_per_sec"] = calculate_tps(dataset_module["train_dataset"], metrics, stage="sft")
    metrics.update(trainer.log_sources())
    trainer.log_metrics("train", metrics)
    trainer.save_metrics("train", metrics)
    trainer.save_state()
    if trainer.is_world_process_zero() and finetuning_args.plot_loss:
        plot_loss(trainer.args.output_dir, keys=loss_keys(dataset_module, finetuning_args))


def loss_keys(dataset_module: dict[str, Any], finetuning_args: MotionFinetuningArguments) -> list[str]:
    """Name the logged curves that `plot_loss` draws."""
    keys = ["loss"]
    if finetuning_args.motion_loss_weight > 0:
        keys += ["motion_loss", "motion_valid"]
        form = finetuning_args.head_form
        keys += [names_of(form)[1][0]] if form.output == "displacement" else []
        keys += ["ce_loss"] if finetuning_args.use_motionvector_crossentropy_loss else []
    eval_dataset = dataset_module.get("eval_dataset")
    for name in eval_dataset if isinstance(eval_dataset, dict) else [""] if eval_dataset is not None else []:
        prefix = f"eval_{name}_" if name else "eval_"
        keys += [f"{prefix}loss", f"{prefix}accuracy"] if finetuning_args.compute_accuracy else [f"{prefix}loss"]
        keys += [f"{prefix}{main_metric(finetuning_args.head_form)}"]
    return keys
