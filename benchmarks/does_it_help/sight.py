"""Can the pretrained encoder see motion, and can it learn to, without the decoder? Looks, on a tuning seed.

    python benchmarks/does_it_help/sight.py probe --apart 0 0.5 2 --out benchmarks/does_it_help/results/sight
    python benchmarks/does_it_help/sight.py train --apart 2 --layers 4 --out benchmarks/does_it_help/results/sight
    python benchmarks/does_it_help/sight.py train --small --rate 5e-4 --out benchmarks/does_it_help/results/sight

`start.py build` comes first. `probe` trains nothing: it fits ridge regression from the features of a token's patches,
after some of the layers, to the token's motion. `train` trains encoder, projector and head on motion alone, 32 clips a
step; it goes on where an earlier call of the same `--apart` and `--rate` ended. Both append rows to OUT/rows.jsonl.
`--small` puts the encoder of `reader.py`, with random weights, in the place of the pretrained one; `--layers N` keeps
the first N layers of that.

`--apart` is that of `motiontune.model.start.tell_frames_apart`; at 0 both frames of a token have equal weights.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clips import Clips, Studio
from learning import ARMS, SETTINGS, Collator, load_start, make_arm, make_optimizer
from run import environment
from start import FOLDER, UNSEEN_PHOTOS, small_tower
from torch import Tensor
from torch.nn import functional as F
from whole import make_whole

from motiontune.model.start import scale_projector, tell_frames_apart


SETTING = replace(SETTINGS["smollm2"], frames=4, batch=32, length=48)
SEED = 100  # which no run uses
PROBED_CLIPS, TEST_CLIPS, CHUNK = 2048, 256, 64
PROBED_LAYERS = (1, 2, 4, 8, 12)
RIDGE = 3000.0
EVERY, KEPT = 25, 50  # steps between tests, and between checkpoints
RATES, SMALL_RATES = (3e-4, 9e-4), (2, 3)  # of projector and head; those of `--small` are in rates of the encoder


class Sight:
    """The encoder of the start, its clips and its targets.

    Args:
        apart: how far the two frames' kernels lie apart.
        folder: of the start.
        small: the small encoder of random weights, in float32; its frames lie apart by themselves.
        layers: how many of the pretrained encoder are kept, the first ones; all where not given.
    """

    def __init__(self, apart: float, folder: Path, small: bool = False, layers: int | None = None) -> None:
        torch.set_num_threads(1)
        photos = torch.from_numpy(np.load(folder / "model" / "photos.npy"))
        self.studio = Studio(photos, UNSEEN_PHOTOS, SETTING.side, SETTING.frames, "cpu")
        self.collator = Collator(folder / "model", SETTING, "cpu")
        self.grid = self.collator.grid(SETTING.frames)
        start = load_start(folder / "model", "cpu")
        if small:
            start.model.visual = small_tower(0)
        start.model.visual.blocks = start.model.visual.blocks[:layers]
        seen = self.collator(self.studio.render(64, "in_domain", "stills", -1)).inputs
        scale_projector(start, seen["pixel_values_videos"], seen["video_grid_thw"])
        model = make_arm(start, ARMS["projector"], SETTING)
        self.visual, self.head = model.model.visual, model.motion_head
        self.whole = model.model if small else None
        self.memory = SETTINGS["reader" if small else "seer"].memory
        if small:
            make_whole(model, self.grid, 0)
            return
        kernel = self.visual.patch_embed.proj.weight
        kernel.data = tell_frames_apart(kernel.data, apart)

    def clips(self, count: int, number: int) -> Clips:
        """Make clips that are asked nothing."""
        return self.studio.render(count, "in_domain", "which_way", number, asked=False)

    def see(self, clips: Clips) -> Tensor:
        """Encode clips to [clips * tokens, H], with the pretrained encoder in bfloat16."""
        if self.whole is not None:
            seen: Tensor = self.whole.see(self.collator.patches(clips.frames))
            return seen
        thw = torch.tensor([[self.grid.frames // self.grid.temporal_patch, self.grid.rows, self.grid.cols]])
        with torch.autocast("cpu", torch.bfloat16):
            found = self.visual(self.collator.patches(clips.frames), grid_thw=thw.expand(len(clips.frames), -1))
            return found.pooler_output.float()

    def errors(self, predicted: Tensor, targets: Tensor, mask: Tensor) -> dict[str, float]:
        """Compare with the motion of what moves: pixels, those of predicting none, and the cosine."""
        found, wanted = (values.unflatten(-1, (-1, 2)) for values in (predicted, targets))
        moving = (wanted.norm(dim=-1) > 0) & mask[:, ::2]
        found, wanted = found[moving], wanted[moving]
        unit = self.grid.patch * SETTING.scale
        return {
            "epe": round((found - wanted).norm(dim=-1).mean().item() * unit, 4),
            "epe_zero": round(wanted.norm(dim=-1).mean().item() * unit, 4),
            "cosine": round(F.cosine_similarity(found, wanted, dim=-1).mean().item(), 4),
        }


def probe(sight: Sight) -> list[dict[str, Any]]:
    """Fit ridge regression after some layers, on three of four clips; test on the rest."""
    seen: dict[int, list[Tensor]] = {layer: [] for layer in PROBED_LAYERS}
    hooks: list[Any] = []
    for number, block in enumerate(sight.visual.blocks):
        if number + 1 in seen:
            keep = seen[number + 1].append
            hooks.append(block.register_forward_hook(lambda *call, keep=keep: keep(call[2][:, 1:])))
    targets, masks = [], []
    with torch.no_grad():
        for number in range(PROBED_CLIPS // CHUNK):
            clips = sight.clips(CHUNK, 1_000_003 * SEED + number)
            sight.see(clips)
            wanted, mask = sight.collator.targets(clips, sight.grid)
            targets.append(wanted)
            masks.append(mask)
    for hook in hooks:
        hook.remove()
    wanted, mask, rows = torch.cat(targets), torch.cat(masks), []
    train = len(wanted) * 3 // 4
    for layer, parts in seen.items():
        features = torch.cat([part.flatten(0, 1).float() for part in parts])
        x = F.layer_norm(features, features.shape[-1:]).view(len(wanted), -1)
        x = torch.cat([(x - x.mean(0)) / (x.std(0) + 1e-6), torch.ones(len(x), 1)], 1)
        ridge = torch.zeros(x.shape[1], wanted.shape[1])
        for column in range(0, wanted.shape[1], 2):  # both numbers of a patch are valid together
            if (valid := mask[:train, column]).any():
                known = x[:train][valid]
                factor = torch.linalg.cholesky(known.T @ known + RIDGE * torch.eye(x.shape[1]))
                pair = slice(column, column + 2)
                ridge[:, pair] = torch.cholesky_solve(known.T @ wanted[:train][valid][:, pair], factor)
        rows.append({"layer": layer} | sight.errors(x[train:] @ ridge, wanted[train:], mask[train:]))
    return rows


def rates_of(rate: float, small: bool) -> tuple[float, float, float]:
    """Learning rates of projector, encoder and head."""
    projector, head = (factor * rate for factor in SMALL_RATES) if small else RATES
    return projector, rate, head


def train(sight: Sight, rates: tuple[float, float, float], steps: int, kept: Path) -> list[dict[str, Any]]:
    """Train on motion alone; return the tests, those of an earlier call first.

    Args:
        sight: changed in place.
        rates: see `rates_of`.
        steps: in all.
        kept: the checkpoint.
    """
    visual, head = sight.visual, sight.head
    projector = list(visual.merger.mlp.parameters())
    encoder = [value for name, value in visual.named_parameters() if "merger.mlp" not in name]
    groups = list(zip((projector, encoder, list(head.parameters())), rates, strict=True))
    optimizer = make_optimizer(groups, sight.memory)
    trained = torch.nn.ModuleList([visual, head])
    curve: list[dict[str, Any]] = []
    if kept.exists():
        saved = torch.load(kept)
        trained.load_state_dict(saved["weights"])
        optimizer.load_state_dict(saved["optimizer"])
        curve = saved["curve"]
    begin = curve[-1]["step"] if curve else 0
    before = curve[-1]["cpu_seconds"] if curve else 0.0
    clock = time.process_time()
    test = [sight.clips(CHUNK, -3 * 1_000_003 + number) for number in range(TEST_CLIPS // CHUNK)]
    aims = [torch.cat(parts) for parts in zip(*(sight.collator.targets(c, sight.grid) for c in test), strict=True)]
    for step in range(begin, steps + 1):
        if step % EVERY == 0 and (step > begin or not curve):
            with torch.no_grad():
                found = torch.cat([head(sight.see(clips)) for clips in test])
            seconds = round(before + time.process_time() - clock, 1)
            curve.append({"step": step} | sight.errors(found, *aims) | {"cpu_seconds": seconds})
            print(curve[-1], flush=True)
            if step > begin and (step % KEPT == 0 or step == steps):
                saved = {"weights": trained.state_dict(), "optimizer": optimizer.state_dict(), "curve": curve}
                torch.save(saved, kept.with_suffix(".part"))
                os.replace(kept.with_suffix(".part"), kept)
        if step == steps:
            break
        clips = sight.clips(SETTING.batch, 1_000_003 * SEED + step)
        targets, mask = sight.collator.targets(clips, sight.grid)
        for group, full in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = full * min(1.0, (step + 1) / SETTING.warmup)
        predicted = head(sight.see(clips))
        F.smooth_l1_loss(predicted[mask], targets[mask]).backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return curve


def main() -> None:
    """Look, and append what was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["probe", "train"])
    parser.add_argument("--apart", type=float, nargs="+", default=[0.0], help="of the two frames' kernels")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate of the encoder")
    parser.add_argument("--small", action="store_true", help="the small encoder of random weights; with train alone")
    parser.add_argument("--layers", type=int, choices=range(1, 12), help="the first so many; with train alone")
    parser.add_argument("--steps", type=int, default=300, help="multiple of 50")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the start; checkpoints are written there")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.layers and (arguments.small or arguments.command == "probe"):
        parser.error("--layers: with train alone, and without --small")
    if arguments.small and (arguments.command, arguments.apart) != ("train", [0.0]):
        parser.error("--small: with train alone, and without --apart")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for apart in arguments.apart:
        sight = Sight(apart, arguments.folder, arguments.small, arguments.layers)
        row: dict[str, Any] = {"command": arguments.command, "apart": apart}
        row |= {"small": True} if arguments.small else {}
        row |= {"layers_kept": arguments.layers} if arguments.layers else {}
        if arguments.command == "probe":
            row |= {"layers": probe(sight)}
        else:
            which = "small" if arguments.small else f"{apart:g}" + (f"-{arguments.layers}" if arguments.layers else "")
            kept = arguments.folder / f"sight-{which}-{arguments.rate:g}.pt"
            rates = rates_of(arguments.rate, arguments.small)
            row |= {"rate": arguments.rate, "rates": rates, "curve": train(sight, rates, arguments.steps, kept)}
        with (arguments.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row | environment("cpu")) + "\n")


if __name__ == "__main__":
    main()
