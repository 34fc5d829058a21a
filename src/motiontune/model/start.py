"""A small model that sees, of two that exist: a language model and a vision encoder become one Qwen2-VL checkpoint.

Both keep their function: the decoder computes the language model's logits, the encoder the vision model's features
(`write_start` measures either). What joins them, the projector, has random weights, and the folder is no use before
it is trained.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoProcessor,
    AutoTokenizer,
    Dinov2Model,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from motiontune.datasets.questions.backgrounds import draw_patterns
from motiontune.errors import ConfigError, in_one_line
from motiontune.files import claim_empty
from motiontune.model.families import SIMPLEST
from motiontune.model.hub import use_cache_without_network
from motiontune.model.tiny import chat_template
from motiontune.model.tower import install_dino_tower
from motiontune.tables import text_table


LANGUAGES = ("llama", "mistral", "qwen2")
"""Model types whose decoder is that of Qwen2-VL, but for biases."""
VISIONS = ("dinov2", SIMPLEST.model_type)
"""Model types whose encoder is known here."""
CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
VISION_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
ROWS = 64  # the vocabulary is filled up to a multiple
MERGE = 2  # patches per token along each side
# With a DINOv2's frames so far apart its first layers learn motion in 500 steps, and with equal frames they do not
# in 350 (benchmarks/does_it_help/README.md); what moves looks less like itself at first
FRAMES_APART, MOST_APART = 2.0, 100.0
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
TOLERANCE = 1e-3  # of the largest number
SENTENCE = "Which way does the red square move? It moves left, then 12 pixels up."


@dataclass(frozen=True)
class Language:
    """A language model, by Qwen2-VL's names.

    Args:
        config: of the decoder, what `text_config` takes; the vocabulary's size and special tokens follow from the
            tokenizer.
        weights: float32, by their names below `model.language_model.`; the output layer is `lm_head.weight`, and
            missing where it is the input's.
        tokenizer: with the vision tokens, as `make_tokenizer` returns it.
        known: entries of the tokenizer that the language model was trained with, the first ones.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    tokenizer: PreTrainedTokenizerFast
    known: int


@dataclass(frozen=True)
class Vision:
    """A vision encoder, by Qwen2-VL's names.

    Args:
        config: what `vision_config` takes, but for `hidden_size`, which is the decoder's.
        weights: float32, by their names below `model.visual.`.
        colours: the processor's `image_mean` and `image_std`.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    colours: dict[str, list[float]]


@dataclass(frozen=True)
class StartReport:
    """What `write_start` did.

    Args:
        out: the folder.
        parts: name, what it was made of, its weights, and how far its output is from the original's.
        stock: whether any transformers loads the folder.
    """

    out: Path
    parts: tuple[tuple[str, str, int, float | None], ...]
    stock: bool

    def table(self) -> str:
        """Return one line per part."""
        rows: list[tuple[str, ...]] = [("part", "of", "weights", "off by at most")]
        for name, of, weights, off in self.parts:
            rows.append((name, of, f"{weights:,}", "" if off is None else f"{off:.1g}"))
        return text_table(rows, "<<>>")

    def yaml(self) -> str:
        """Return the lines for a training YAML."""
        return f"model_name_or_path: {self.out.absolute()}\ntemplate: {SIMPLEST.templates[0]}"


def write_start(language: str, vision: str, out: str | Path, seed: int = 0, apart: float | None = None) -> StartReport:
    """Write a checkpoint: model in float32, tokenizer, processor, generation settings.

    Args:
        language: folder, hub name or GGUF file of a causal language model, one of `LANGUAGES`.
        vision: folder or hub name of a vision model, one of `VISIONS`.
        out: folder to write; it must be empty.
        seed: of the projector's weights.
        apart: of a DINOv2's frames, see `tell_frames_apart`; `FRAMES_APART` where not given.

    Raises:
        ConfigError: if one of the two cannot be loaded or is of another kind, or its function is not kept.
        OutputError: if `out` holds anything.
    """
    out = Path(out)
    claim_empty(out)
    install_dino_tower()
    config = _config_of(language)
    if problem := _language_problem(config):
        raise ConfigError(f"--language {language}: {problem}")
    seen = _config_of(vision)
    if problem := _vision_problem(seen):
        raise ConfigError(f"--vision {vision}: {problem}")
    if apart is not None and not 0 <= apart <= MOST_APART:
        raise ConfigError(f"--frames-apart must be from 0 to {MOST_APART:g}, not {apart:g}")
    if apart is not None and seen.model_type != "dinov2":
        raise ConfigError(
            f"--frames-apart {apart:g} is of a DINOv2, which knows no time; {vision} is {seen.model_type}"
        )
    words = _load(AutoTokenizer, language)
    kind: Any = Dinov2Model if seen.model_type == "dinov2" else Qwen2VLForConditionalGeneration
    decoder = _load(AutoModelForCausalLM, language, dtype=torch.float32).eval()
    encoder = _load(kind, vision, dtype=torch.float32).eval()
    taken_language = read_language(decoder, words)
    distance = FRAMES_APART if apart is None else apart
    taken_vision = read_dino(encoder, distance) if seen.model_type == "dinov2" else read_stock(encoder)
    model = make_model(taken_language, taken_vision, seed)
    off = (
        _words_off(model, decoder, taken_language),
        _features_off(model, encoder, taken_vision.config["patch_size"]),
    )
    for where, difference in zip((f"--language {language}", f"--vision {vision}"), off, strict=True):
        if not difference < TOLERANCE:
            raise ConfigError(f"{where}: what it computes is not kept (off by {difference:.2g} of 1)")
    processor = make_processor(taken_language.tokenizer, taken_vision)
    scale_projector(model, *_patterns(processor))
    model.save_pretrained(out)
    processor.save_pretrained(out)
    _check_words(out, words, language)
    projector = model.model.visual.merger.mlp
    sizes = [_count(model.model.language_model), _count(model.model.visual) - _count(projector), _count(projector)]
    parts = (
        ("decoder", f"{language} ({config.model_type})", sizes[0], off[0]),
        ("encoder", f"{vision} ({seen.model_type})", sizes[1], off[1]),
        ("projector", f"random, seed {seed}", sizes[2], None),
    )
    return StartReport(out, parts, "dino_grid" not in taken_vision.config)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ---- what is read ----


def _load(kind: Any, where: str, **options: Any) -> Any:
    """Load from a folder, the hub or a GGUF file.

    Raises:
        ConfigError: naming it.
    """
    path = Path(where)
    place, file = (str(path.parent), {"gguf_file": path.name}) if path.suffix == ".gguf" else (where, {})
    use_cache_without_network(place)
    try:
        return kind.from_pretrained(place, **file, **options)
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(f"{where} cannot be loaded from a folder or the hub: {in_one_line(error)}") from error


def _config_of(where: str) -> Any:
    return _load(AutoConfig, where)


def _language_problem(config: Any) -> str:
    """Why a model is no decoder of Qwen2-VL, or ""."""
    kind = config.model_type
    if kind not in LANGUAGES:
        return f"a language model must be one of {', '.join(LANGUAGES)}, not {kind}"
    heads = config.num_attention_heads
    rope = config.rope_parameters or {}
    wrong = {
        f"hidden_act {config.hidden_act}": config.hidden_act != "silu",
        "biases of its MLP": getattr(config, "mlp_bias", False),
        "a bias behind attention": getattr(config, "attention_bias", False),
        "heads that are not as wide as hidden_size / num_attention_heads": config.hidden_size % (2 * heads)
        or (getattr(config, "head_dim", None) or config.hidden_size // heads) * heads != config.hidden_size,
        f"rope_type {rope.get('rope_type')}": rope.get("rope_type", "default") != "default",
        "a sliding window": getattr(config, "sliding_window", None) is not None
        and getattr(config, "use_sliding_window", True),
    }
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    return f"Qwen2-VL's decoder cannot have {found[0]}" if found else ""


def _vision_problem(config: Any) -> str:
    kind = config.model_type
    if kind not in VISIONS:
        return f"a vision model must be one of {', '.join(VISIONS)}, not {kind}"
    if kind != "dinov2":
        return "" if not hasattr(config.vision_config, "dino_grid") else "its encoder is not Qwen2-VL's own"
    wrong = {
        "use_swiglu_ffn": config.use_swiglu_ffn,
        f"image_size {config.image_size}, which is not square": not isinstance(config.image_size, int),
        f"patch_size {config.patch_size}, which is not square": not isinstance(config.patch_size, int),
        f"layer_norm_eps {config.layer_norm_eps}": config.layer_norm_eps != 1e-6,
    }
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    return f"Qwen2-VL's encoder cannot have {found[0]}" if found else ""


def read_language(model: Any, words: Any) -> Language:
    """Take a causal language model apart.

    Args:
        model: one of `LANGUAGES`.
        words: its tokenizer.

    Raises:
        ConfigError: if the tokenizer is none of the `tokenizers` package.
    """
    config = model.config
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    theta = (config.rope_parameters or {}).get("rope_theta", 10000.0)
    text = {key: getattr(config, key) for key in (*keys, "max_position_embeddings", "rms_norm_eps")}
    weights = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    known = len(words)
    return Language(text | {"rope_parameters": {"rope_theta": theta}}, weights, make_tokenizer(words), known)


def make_tokenizer(words: Any) -> PreTrainedTokenizerFast:
    """Make a language model's tokenizer one of a Qwen2-VL: its own entries, then ChatML's and the vision tokens.

    The plain class stays, for `Qwen2Tokenizer` would split text as Qwen's does. An answer ends with `<|im_end|>`, and
    nothing is put before a text.

    Raises:
        ConfigError: if it is none of the `tokenizers` package.
    """
    backend = getattr(words, "backend_tokenizer", None)
    if backend is None:
        raise ConfigError(f"the tokenizer {type(words).__name__} has no tokenizer.json")
    backend.post_processor = None
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=CHAT_TOKENS[1],
        eos_token=CHAT_TOKENS[2],
        pad_token=CHAT_TOKENS[0],
        extra_special_tokens=list(VISION_TOKENS),
        padding_side="left",
        model_max_length=8192,
    )
    tokenizer.chat_template = chat_template(SIMPLEST)
    return tokenizer


def read_dino(model: Any, apart: float) -> Vision:
    """Take a DINOv2 to pieces.

    Args:
        model: a `Dinov2Model`.
        apart: of its frames, see `tell_frames_apart`.
    """
    config = model.config
    vision = {
        "depth": config.num_hidden_layers,
        "embed_dim": config.hidden_size,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": int(config.mlp_ratio),
        "hidden_act": config.hidden_act,
        "patch_size": config.patch_size,
        "dino_grid": config.image_size // config.patch_size,
        "dino_layer_scale": True,
    }
    weights = dino_weights(model.state_dict())
    kernel = weights["patch_embed.proj.weight"]
    return Vision(vision, weights | {"patch_embed.proj.weight": tell_frames_apart(kernel, apart)}, IMAGENET)


def tell_frames_apart(kernel: Tensor, apart: float) -> Tensor:
    """Let an encoder that sees the mean of a token's two frames see their difference, too; stills look as before.

    `apart` times the mean of both kernels, mixed by a random rotation, is added to the second frame's and taken from
    the first's. At 0 the frames are equal, and motion within a token does not exist for the encoder.

    Args:
        kernel: floating [width, colours * 2 * patch * patch], of the patches of both frames.
        apart: how far.
    """
    both = kernel.view(len(kernel), 3, 2, -1)
    mean = both.mean(2)
    rotation = torch.linalg.qr(torch.randn(len(kernel), len(kernel), generator=torch.Generator().manual_seed(0)))[0]
    mixed = apart * (rotation.to(kernel) @ mean.flatten(1)).view_as(mean)
    return torch.stack([mean - mixed, mean + mixed], 2).flatten(1)


def dino_weights(dino: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a `Dinov2Model` to those of `DinoTower`.

    The first bias goes into the positions. The two frames of a token get half of the weights each.
    """
    pixels = dino["embeddings.patch_embeddings.projection.weight"]
    bias = dino["embeddings.patch_embeddings.projection.bias"]
    positions = dino["embeddings.position_embeddings"][0]
    weights = {
        "patch_embed.proj.weight": (torch.stack([pixels, pixels], 2) / 2).flatten(1),
        "patch_embed.class_token": dino["embeddings.cls_token"][0, 0] + positions[0],
        "patch_embed.positions": positions[1:] + bias,
        "merger.ln_q.weight": dino["layernorm.weight"],
        "merger.ln_q.bias": dino["layernorm.bias"],
    }
    for layer in range(sum(name.endswith("norm1.bias") for name in dino)):
        old, new = f"encoder.layer.{layer}.", f"blocks.{layer}."
        for number in (1, 2):
            weights[f"{new}scale{number}"] = dino[f"{old}layer_scale{number}.lambda1"]
        none = torch.zeros_like(weights[f"{new}scale1"])  # of a layer without biases
        for part in ("weight", "bias"):
            attention = [
                dino.get(f"{old}attention.attention.{name}.{part}", none) for name in ("query", "key", "value")
            ]
            weights[f"{new}attn.qkv.{part}"] = torch.cat(attention)
            weights[f"{new}attn.proj.{part}"] = dino[f"{old}attention.output.dense.{part}"]
            for name in ("fc1", "fc2"):
                weights[f"{new}mlp.{name}.{part}"] = dino[f"{old}mlp.{name}.{part}"]
            for norm in ("norm1", "norm2"):
                weights[f"{new}{norm}.{part}"] = dino[f"{old}{norm}.{part}"]
    return weights


def read_stock(model: Any) -> Vision:
    """Take the encoder out of a Qwen2-VL.

    Args:
        model: a `Qwen2VLForConditionalGeneration`.
    """
    keys = ("depth", "embed_dim", "num_heads", "mlp_ratio", "hidden_act", "patch_size")
    config = {key: getattr(model.config.vision_config, key) for key in keys}
    weights = {name: value for name, value in model.model.visual.state_dict().items() if "merger.mlp" not in name}
    video = Qwen2VLVideoProcessor()
    return Vision(config, weights, {"image_mean": list(video.image_mean), "image_std": list(video.image_std)})


# ---- what is made of it ----


def make_model(language: Language, vision: Vision, seed: int = 0) -> Qwen2VLForConditionalGeneration:
    """Make a Qwen2-VL of these weights, float32; only the projector's are new.

    Tokens that the language model did not know start as the mean of its entries.

    Raises:
        ConfigError: if a weight is missing or left over.
    """
    install_dino_tower()
    tokenizer, tied = language.tokenizer, "lm_head.weight" not in language.weights
    ids = {name.strip("<|>"): tokenizer.convert_tokens_to_ids(name) for name in (*CHAT_TOKENS, *VISION_TOKENS)}
    rows = -(-max(len(tokenizer), len(language.weights["embed_tokens.weight"])) // ROWS) * ROWS
    half = language.config["hidden_size"] // language.config["num_attention_heads"] // 2
    space = 3 * half // 8  # as the real ones share a head's width between time, rows and columns: 16:24:24
    rope = {"rope_type": "default", "mrope_section": [half - 2 * space, space, space]}
    special = {"bos_token_id": ids["im_start"], "eos_token_id": ids["im_end"], "pad_token_id": ids["endoftext"]}
    text = {"vocab_size": rows, "tie_word_embeddings": tied, **language.config, **special}
    config = Qwen2VLConfig(
        text_config=text | {"rope_parameters": language.config["rope_parameters"] | rope},
        vision_config=vision.config | {"hidden_size": language.config["hidden_size"], "spatial_merge_size": MERGE},
        tie_word_embeddings=tied,
        dtype="float32",
        image_token_id=ids["image_pad"],
        video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"],
        vision_end_token_id=ids["vision_end"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
    named = {f"model.visual.{name}": value for name, value in vision.weights.items()}
    named |= {
        name if name.startswith("lm_head") else f"model.language_model.{name}": value
        for name, value in language.weights.items()
    }
    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        if name in named:
            named[name] = _filled(named[name], rows, language.known, len(tokenizer))
    if tied:
        named["lm_head.weight"] = named["model.language_model.embed_tokens.weight"]
    for name, value in model.state_dict().items():  # Qwen2 has biases that others lack
        if name.startswith("model.language_model.layers.") and name.endswith("_proj.bias") and name not in named:
            named[name] = torch.zeros_like(value)
    try:
        result = model.load_state_dict(named, strict=False)
    except RuntimeError as error:
        raise ConfigError(f"the weights do not fit: {in_one_line(error)}") from error
    wrong = [name for name in result.missing_keys if "merger.mlp" not in name] + result.unexpected_keys
    if wrong:
        raise ConfigError(f"{len(wrong)} weights do not match, such as {wrong[0]}")
    model.generation_config = GenerationConfig(
        bos_token_id=special["bos_token_id"],
        eos_token_id=[special["eos_token_id"], special["pad_token_id"]],
        pad_token_id=special["pad_token_id"],
        do_sample=False,
    )
    return model.eval()


def _filled(table: Tensor, rows: int, known: int, entries: int) -> Tensor:
    """Fill a table up to so many rows; what is behind the known entries, or behind the table, is their mean."""
    mean = table[:known].mean(0, keepdim=True)
    filled = torch.cat([table, mean.expand(rows - len(table), -1)])
    filled[known:entries] = mean
    return filled


def make_processor(tokenizer: PreTrainedTokenizerFast, vision: Vision) -> Qwen2VLProcessor:
    """Make the processor: the encoder's colours and patches, and clips as small as one token keep their size."""
    patch = vision.config["patch_size"]

    def options(kind: Any) -> dict[str, Any]:
        size = {"shortest_edge": (MERGE * patch) ** 2, "longest_edge": kind.size["longest_edge"]}
        return {"size": size, "patch_size": patch, "merge_size": MERGE} | vision.colours

    images = Qwen2VLImageProcessor(**options(Qwen2VLImageProcessor))
    videos = Qwen2VLVideoProcessor(**options(Qwen2VLVideoProcessor))
    return Qwen2VLProcessor(images, tokenizer, videos, chat_template=tokenizer.chat_template)


def scale_projector(model: Any, pixels: Tensor, grid: Tensor) -> None:
    """Set the scale of a projector that was never trained: features normalised, output as large as word embeddings.

    Args:
        model: a Qwen2-VL, changed in place.
        pixels: float32 [patches, numbers of a patch], such as the model will see.
        grid: int64 [videos, 3], temporal patches, rows and columns of each.
    """
    visual, merger = model.model.visual, model.model.visual.merger
    first, _, last = merger.mlp
    with torch.no_grad():
        raw = visual(pixels, grid_thw=grid).last_hidden_state
        features = merger.ln_q(raw)
        parts = first.in_features // features.shape[1]
        mean, std = features.mean(0).repeat(parts), features.std(0).clamp(min=1e-6).repeat(parts)
        for layer in (first, last):
            nn.init.normal_(layer.weight, 0.0, 0.02)
            nn.init.zeros_(layer.bias)
        first.weight.div_(std)
        first.bias.sub_(first.weight @ mean)
        words = model.get_input_embeddings().weight.pow(2).mean().sqrt()
        last.weight.mul_(words / merger(raw).pow(2).mean().sqrt())


def _patterns(processor: Any) -> tuple[Tensor, Tensor]:
    """Clips of drawn patterns as a model sees them: pixels and grid."""
    clips = [pattern.permute(2, 0, 1).expand(2, -1, -1, -1) for pattern in draw_patterns(16)]
    side = 8 * processor.video_processor.patch_size
    small = [F.interpolate(clip.float(), size=(side, side), mode="area").round().to(torch.uint8) for clip in clips]
    inputs = processor.video_processor(small, do_sample_frames=False, return_tensors="pt")
    return inputs["pixel_values_videos"], inputs["video_grid_thw"]


# ---- what is checked ----


@torch.no_grad()
def _words_off(model: Any, original: Any, language: Language) -> float:
    """How far the logits of a sentence are from the language model's, as a share of the largest."""
    ids = language.tokenizer(SENTENCE, return_tensors="pt").input_ids
    found, wanted = (each(input_ids=ids).logits[..., : language.known] for each in (model, original))
    return _share(found, wanted)


@torch.no_grad()
def _features_off(model: Any, original: Any, patch: int) -> float:
    """How far the features of a picture that stands still are from the vision model's, as a share of the largest."""
    rows, cols = 4, 6
    picture = torch.randn(3, rows * patch, cols * patch, generator=torch.Generator().manual_seed(0))
    blocks = picture.view(3, rows // MERGE, MERGE, patch, cols // MERGE, MERGE, patch).permute(1, 4, 2, 5, 0, 3, 6)
    pixels = torch.stack([blocks, blocks], 5).reshape(rows * cols, -1)  # both frames of the token
    visual, grid = model.model.visual, torch.tensor([[1, rows, cols]])
    found = visual.merger.ln_q(visual(pixels, grid_thw=grid).last_hidden_state)
    if not hasattr(original, "embeddings"):
        theirs = original.model.visual
        return _share(found, theirs.merger.ln_q(theirs(pixels, grid_thw=grid).last_hidden_state))
    wanted = original(pixel_values=picture[None]).last_hidden_state[0, 1:]
    square = wanted.view(rows // MERGE, MERGE, cols // MERGE, MERGE, -1).transpose(1, 2)
    return _share(found, square.reshape(rows * cols, -1))


def _share(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def _check_words(out: Path, words: Any, where: str) -> None:
    """Refuse a tokenizer that reads text in another way once it is loaded from the folder.

    Raises:
        ConfigError: if it does.
    """
    wanted = words(SENTENCE, add_special_tokens=False).input_ids
    if AutoProcessor.from_pretrained(out).tokenizer(SENTENCE).input_ids != wanted:
        raise ConfigError(f"--language {where}: its tokenizer reads text in another way once it is saved")
