"""Real clips as training reads them, and the head of a file of results."""

import json
import os
import platform
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from motiontune.grid import VideoGrid
from motiontune.video.clip import Clip


ROOT = Path(__file__).parents[2]
VIDEOS = (".mp4", ".avi", ".mpg", ".mkv", ".webm")


class Loader:
    """Reads clips with LLaMA-Factory's defaults (2 frames per second, at most 128 of them and 65,536 pixels each), for
    the video processor that Qwen2-VL comes with."""

    def __init__(self) -> None:
        # here, because importing LLaMA-Factory takes half a minute
        from llamafactory.data.template import TEMPLATES
        from transformers import Qwen2VLVideoProcessor

        from motiontune.llamafactory.plugin import with_motion

        self.plugin: Any = with_motion(TEMPLATES["qwen2_vl"], "qwen2_vl").mm_plugin
        self.theirs: Any = TEMPLATES["qwen2_vl"].mm_plugin
        self.processor = SimpleNamespace(video_processor=Qwen2VLVideoProcessor())

    def read(self, path: Path, with_vectors: bool = False) -> Clip:
        """Decode a clip's sampled frames, resized as LLaMA-Factory does."""
        clip: Clip = self.plugin.read(str(path), self.processor, with_vectors)
        return clip

    def grid_of(self, clip: Clip) -> VideoGrid:
        """The patch grid of a clip after all resizing."""
        grid: VideoGrid = self.plugin.grid_of(clip, self.processor)
        return grid

    def read_as_llamafactory(self, path: Path) -> list[Any]:
        """The same frames by LLaMA-Factory's own function, as PIL images."""
        limits = {"image_max_pixels": 256 * 256, "image_min_pixels": 16 * 16, "video_fps": 2.0, "video_maxlen": 128}
        frames: list[Any] = self.theirs._regularize_videos([str(path)], **limits)["videos"][0]
        return frames


def real_clips(names: Sequence[Path]) -> list[Path]:
    """The named clips, or all that `make clips ARGS=--all` has fetched."""
    found = list(names) or sorted(path for path in (ROOT / "clips").glob("*") if path.suffix in VIDEOS)
    if not found:
        raise SystemExit("no clips: run `make clips ARGS=--all`, or name some")
    return found


def write_results(path: Path, about: dict[str, Any], tables: dict[str, list[dict[str, Any]]]) -> None:
    """Write results as JSON: date, machine and versions at the top, then a line for each row of each table."""
    top = {
        "date": date.today().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("motiontune", "av", "numpy", "opencv-python-headless")},
        **about,
    }
    parts = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in top.items()]
    for key, entries in tables.items():
        parts.append(f' "{key}": [\n' + ",\n".join(f"  {json.dumps(entry)}" for entry in entries) + "\n ]")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def _processor() -> str:
    """The processor's name, where Linux says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
