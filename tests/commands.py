"""The `motiontune` command, run in this process."""

import sys
from typing import Any

from motiontune import cli
from training import keys_for, logged, start, write_config


def command(capfd: Any, *arguments: Any) -> tuple[int, str, str]:
    """Run `motiontune ARGUMENTS`; return its exit code and all that went to stdout and stderr, FFmpeg's own too."""
    start()
    capfd.readouterr()
    argv, sys.argv = sys.argv, ["motiontune", *map(str, arguments)]
    code: Any = 0
    try:
        cli.main()
    except SystemExit as stopped:
        code = stopped.code
    finally:
        sys.argv = argv
    return code or 0, *capfd.readouterr()


def refused(capfd: Any, *arguments: Any) -> str:
    """Run a command that a user's mistake must end in one line and exit code 2; return what the line says."""
    code, _, err = command(capfd, *arguments)
    assert code == 2, err[-4000:]
    assert "Traceback" not in err and "moov atom" not in err
    *before, last = err.rstrip().splitlines()
    assert last.startswith("motiontune: ") and not any(line.startswith("motiontune:") for line in before), err[-4000:]
    return last.removeprefix("motiontune: ")


def refused_run(capfd: Any, family: str = "qwen2_vl", **keys: Any) -> str:
    """The same for `motiontune train` with `keys` over `training.keys_for`."""
    return refused(capfd, "train", write_config(keys_for(family, **keys)))


def trained(capfd: Any, family: str = "qwen2_vl", **keys: Any) -> str:
    """Run `motiontune train`, which must succeed; return what LLaMA-Factory's and motiontune's loggers said."""
    with logged() as messages:
        code, _, err = command(capfd, "train", write_config(keys_for(family, **keys)))
    assert code == 0, err[-4000:]
    return "\n".join(messages)
