"""Tiny Qwen-VL checkpoints with random weights: complete folders that load on a CPU without a network.

For tests and demonstrations. A folder holds all that a real checkpoint holds: model, tokenizer, image and video
processor, chat template, generation settings. Patch, merge and token layout are the real ones, all else is small.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AddedToken, GenerationConfig, PreTrainedModel, ProcessorMixin, Qwen2VLImageProcessor

from motiontune.model.families import FAMILIES, Family, Layers, installed_families


# In the order of the real vocabularies; the second group is plain text to `skip_special_tokens`, as it is there.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
ADDED_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
)

# What every chat contains, and a little of this package's data sets: enough for whole words to become tokens.
SENTENCES = (
    "system",
    "user",
    "assistant",
    "You are a helpful assistant.",
    "Explain the action happening the video.",
    "What happens in the video?",
    "Describe the video.",
    "The square moves left quickly, then stops.",
    "The circle moves slowly to the right and turns up.",
    "The triangle spins while the square stands still.",
    "Spinning a cube that quickly stops spinning.",
    "Pushing something from left to right, moving it up, moving it down.",
    "Frame 0 1 2 3 4 5 6 7 8 9 seconds: <0.1 seconds> <2.5 seconds>",
)

CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' and default_system -%}
<|im_start|>system
{{ default_system }}<|im_end|>
{% endif -%}
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{{- part['text'] -}}
{%- elif part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\n' -}}
{%- endif -%}
"""


def build_tiny(
    family: str,
    out_dir: str | Path,
    texts: Iterable[str] = (),
    *,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    vision_hidden_size: int | None = None,
    vision_layers: int = 2,
    intermediate_size: int | None = None,
    vocab_size: int = 512,
    tie_word_embeddings: bool = False,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    initializer_range: float = 0.06,
    seed: int = 0,
) -> Path:
    """Write a tiny checkpoint with random weights, a tokenizer and a processor.

    The same arguments give the same weights and the same tokenizer.

    Args:
        family: whose architecture and processor it has, one of `installed_families()`.
        out_dir: folder to write; made where it does not exist.
        texts: what the tokenizer should know, the data set's prompts and captions.
        hidden_size: width of the language model, a multiple of `2 * heads`.
        layers: decoder layers.
        heads: attention heads of the language model and of the vision encoder.
        vision_hidden_size: width of the vision encoder, a multiple of `4 * heads`; `hidden_size` where not given.
        vision_layers: layers of the vision encoder. With DeepStack there are features after each (three at most).
        intermediate_size: width of the decoder's MLP; four times `hidden_size` where not given. An expert has half.
        vocab_size: entries that the byte-level BPE is trained to, before the special tokens; at least 256.
        tie_word_embeddings: lm_head and input embeddings are one matrix.
        min_pixels: the processors enlarge what is smaller, per frame (from Qwen3-VL on: per video, frames included).
            One token's pixels where not given, so that small clips keep their size. The real default enlarges them.
        max_pixels: the processors shrink what is larger, counted likewise; the family's own where not given.
        initializer_range: standard deviation of the random weights. The families' 0.02 is made for widths of
            thousands; at 64, captions take more steps to learn with it.
        seed: of the weights. The global random state is left as it was.

    Returns:
        `out_dir` as a Path.

    Raises:
        ValueError: on an unknown family, or widths that the heads do not divide.
    """
    if family not in installed_families():
        raise ValueError(f"family must be one of {', '.join(installed_families())}, not {family!r}")
    entry = FAMILIES[family]
    vision_hidden_size = vision_hidden_size or hidden_size
    if hidden_size % (2 * heads) or vision_hidden_size % (4 * heads):
        raise ValueError(f"{heads} heads need hidden_size a multiple of {2 * heads}, vision's one of {4 * heads}")
    out_dir = Path(out_dir)
    tokenizer = _train_tokenizer(getattr(transformers, entry.tokenizer), texts, vocab_size)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size or 4 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": 32768,
        "initializer_range": initializer_range,
        "tie_word_embeddings": tie_word_embeddings,
        "bos_token_id": tokenizer.pad_token_id,  # as in the real configurations, though nothing begins with it
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": vision_layers,
        "hidden_size": vision_hidden_size,
        "num_heads": heads,
        "initializer_range": initializer_range,
    }
    ids = {
        "image_token_id": tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        "video_token_id": tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        "vision_start_token_id": tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        "vision_end_token_id": tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        "tie_word_embeddings": tie_word_embeddings,
        "dtype": "float32",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _make_model(entry, text, vision, ids)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.pad_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.save_pretrained(out_dir)
    _make_processor(entry, tokenizer, min_pixels, max_pixels).save_pretrained(out_dir)
    return out_dir


def chat_template(family: Family) -> str:
    """Return the chat template of a family's checkpoints made here."""
    if family.default_system is None:
        return CHAT_TEMPLATE
    return f"{{%- set default_system = '{family.default_system}' -%}}\n{CHAT_TEMPLATE}"


def _train_tokenizer(tokenizer_class: Any, texts: Iterable[str], vocab_size: int) -> Any:
    """Train a byte-level BPE that splits text as Qwen's does, and add Qwen's special tokens behind its entries."""
    qwen = tokenizer_class().backend_tokenizer
    trained = Tokenizer(models.BPE())
    trained.normalizer, trained.pre_tokenizer = qwen.normalizer, qwen.pre_tokenizer
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=max(vocab_size, 256), initial_alphabet=alphabet, show_progress=False)
    trained.train_from_iterator([*SENTENCES, *texts], trainer)
    bpe = json.loads(trained.to_str())["model"]
    # the class adds the names it is given in an order of its own, so it gets those that stand there first
    ids = bpe["vocab"] | {token: len(bpe["vocab"]) + i for i, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = tokenizer_class(
        vocab=ids,
        merges=[tuple(pair) for pair in bpe["merges"]],
        unk_token=None,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=list(SPECIAL_TOKENS),
        model_max_length=32768,
    )
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in ADDED_TOKENS])
    return tokenizer


def _make_model(family: Family, text: Layers, vision: Layers, ids: dict[str, Any]) -> PreTrainedModel:
    """Build the family's model; `vision["hidden_size"]` is the encoder's own width whatever the family calls it."""
    model: Any = getattr(transformers, family.model)
    text_config, vision_config = family.tiny_text(text), family.tiny_vision(vision, text)
    made: PreTrainedModel = model(model.config_class(text_config=text_config, vision_config=vision_config, **ids))
    return made


def _make_processor(family: Family, tokenizer: Any, min_pixels: int | None, max_pixels: int | None) -> ProcessorMixin:
    patch, video_class = family.patch, getattr(transformers, family.video_processor)

    def size_for(processor_class: Any) -> dict[str, int]:  # a fresh dict: the classes write into the one they get
        default = processor_class.size["longest_edge"]
        return {"shortest_edge": min_pixels or (2 * patch) ** 2, "longest_edge": max_pixels or default}

    number = family.mean_std
    mean_std = {} if number is None else {"image_mean": [number] * 3, "image_std": [number] * 3}
    images = Qwen2VLImageProcessor(size=size_for(Qwen2VLImageProcessor), patch_size=patch, **mean_std)
    videos = video_class(size=size_for(video_class), patch_size=patch)
    template = chat_template(family)
    tokenizer.chat_template = template
    processor: ProcessorMixin = getattr(transformers, family.processor)(
        images, tokenizer, videos, chat_template=template
    )
    return processor
