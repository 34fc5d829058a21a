"""Finds real clips that packages bring along; `python tests/fetch_clips.py` gets those that are not installed."""

import importlib.util
import os
from pathlib import Path

import pytest


REPOSITORY = Path(__file__).resolve().parent.parent


def clip_folders() -> list[Path]:
    """Where real clips may lie: MOTIONTUNE_CLIPS or `clips` in the repository, and an installed gradio."""
    folders = [Path(os.environ.get("MOTIONTUNE_CLIPS") or REPOSITORY / "clips")]
    gradio = importlib.util.find_spec("gradio")  # found, not imported: that takes seconds
    if gradio is not None and gradio.origin is not None:
        folders.append(Path(gradio.origin).parent / "media_assets" / "videos")
    return folders


def real_clip(name: str) -> Path:
    """The path of a real clip; skips the test that asks for one that is not there."""
    for folder in clip_folders():
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"{name} is not here: run `python tests/fetch_clips.py`")
