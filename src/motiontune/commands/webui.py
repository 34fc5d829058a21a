"""`motiontune webui`: LLaMA-Factory's page in the browser, where trainings take motiontune's keys."""

import argparse


DESCRIPTION = """Start LLaMA-Factory's WebUI; its trainings and evaluations run as `motiontune train`.

The box "Extra arguments" (open "Extra configurations" above it) takes motiontune's keys, such as
{"use_motionvector_crossentropy_loss": true, "video_fps": 4}.
GRADIO_SERVER_NAME, GRADIO_SERVER_PORT and others mean what they mean to `llamafactory-cli webui`.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options: it has none."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def run(arguments: argparse.Namespace) -> None:
    """Serve the page until Ctrl+C."""
    from motiontune.llamafactory.names import run_webui

    run_webui()
