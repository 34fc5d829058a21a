"""Options that several commands share."""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from motiontune.datasets.dataset_info import NEW_TOKENS
from motiontune.drawing.films import is_film
from motiontune.errors import ConfigError
from motiontune.files import claim, name_problem
from motiontune.motion.file import has_motion
from motiontune.video.find import list_clips


if TYPE_CHECKING:
    from motiontune.llamafactory.predictor import MotionModel


def add_keys(parser: argparse.ArgumentParser) -> None:
    """Take everything, of a command that LLaMA-Factory's own parser reads the keys of."""
    parser.add_argument("arguments", nargs="*", help="a YAML or JSON file and key=value, or --key value")


def asks_for_keys(words: Sequence[str]) -> bool:
    """Whether the arguments of such a command ask for the list of all keys."""
    return not words or bool({"-h", "--help"} & set(words))


def add_reading(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add the options of commands that load a model and read clips for it."""
    parser.add_argument("--model", required=required, metavar="DIR", help="a model or an adapter (folder or hub)")
    parser.add_argument("--base", metavar="DIR", help="an adapter's model, if not the one that it names")
    parser.add_argument("--template", help="another LLaMA-Factory template than in the model's training")
    add = parser.add_argument
    add("--fps", type=float, help="another video_fps than in the model's training")
    add("--max-frames", type=int, help="another video_maxlen than in training")
    add("--max-pixels", type=int, help="another video_max_pixels than in training")
    add(
        "--max-new-tokens",
        type=int,
        default=NEW_TOKENS,
        help="longest greedy text, in tokens (default: %(default)s)",
    )


MOST_FPS = 1_000_000
MOST_WORKERS = 10_000
MOST = (1 << 31) - 1
"""Beyond these a number is a slip of the hand, and libraries have no room for it."""


def check_range(option: str, value: float, least: float, most: float, whole: bool = True) -> None:
    """Refuse a number that cannot be; "not a number" is one of them.

    Args:
        option: its name.
        value: what was given.
        least: the smallest that can be; where it is not `whole`, the value must be above it.
        most: the largest.
        whole: whether it is a whole number.

    Raises:
        ConfigError: naming the option, the value and the range.
    """
    if not (least <= value <= most if whole else least < value <= most):
        bound = f"at least {least:,}" if whole else f"above {least:,}"
        raise ConfigError(f"{option} must be {bound}, and at most {most:,}, not {value}")


def check_sampling(arguments: argparse.Namespace) -> None:
    """Refuse `--fps`, `--max-frames` and `--max-pixels` that cannot be; None is as in training.

    Raises:
        ConfigError: naming the option.
    """
    if arguments.fps is not None:
        check_range("--fps", arguments.fps, 0, MOST_FPS, whole=False)
    for option, value in (("--max-frames", arguments.max_frames), ("--max-pixels", arguments.max_pixels)):
        if value is not None:
            check_range(option, value, 1, MOST)


def check_reading(arguments: argparse.Namespace) -> None:
    """Refuse values of `add_reading` that cannot be.

    Raises:
        ConfigError: naming the option.
    """
    check_sampling(arguments)
    if arguments.max_new_tokens is not None:
        check_range("--max-new-tokens", arguments.max_new_tokens, 1, MOST)


def show_line(text: str) -> None:
    """Show a line while a command works, apart from its result."""
    print(text, file=sys.stderr, flush=True)


def check_used(option: str, value: str | None, source: str, needed: str) -> None:
    """Refuse an option that is only read with another source of motion.

    Raises:
        ConfigError: naming both.
    """
    if value is not None and source != needed:
        raise ConfigError(f"{option} is only read with the source {needed}, not {source}")


def load_model(arguments: argparse.Namespace) -> "MotionModel":
    """Load the model that the options of `add_reading` name."""
    from motiontune.llamafactory.predictor import MotionModel

    return MotionModel.from_pretrained(
        arguments.model,
        base=arguments.base,
        template=arguments.template,
        fps=arguments.fps,
        max_frames=arguments.max_frames,
        max_pixels=arguments.max_pixels,
    )


def load_beside(model: str, arguments: argparse.Namespace) -> "MotionModel":
    """Load a second model, with what the options of `add_reading` say of the sampling alone."""
    return load_model(argparse.Namespace(**{**vars(arguments), "model": model, "base": None, "template": None}))


def add_compare_with(parser: argparse.ArgumentParser, help: str) -> None:
    """Add `--compare-with`, and its old name `--target`, which prints one line about the new one."""
    parser.add_argument("--compare-with", metavar="SOURCE", default="auto", help=f"{help} (default: %(default)s)")
    parser.add_argument(
        "--target", dest="compare_with", action=_Renamed, default=argparse.SUPPRESS, help=argparse.SUPPRESS
    )


class _Renamed(argparse.Action):
    """Stores the value of an option that has another name now."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        new = f"--{self.dest.replace('_', '-')}"
        print(f"{option_string} is called {new} now; the old name still works", file=sys.stderr)
        setattr(namespace, self.dest, values)


def find_clips(paths: Sequence[str], out: str) -> dict[Path, str]:
    """Name the clips that files and folders stand for: {where to write, without suffix: clip}.

    That is the clip's name without its suffix, or with it, where another clip would be written to the same place.

    Args:
        paths: clips, and folders of clips.
        out: the output folder.

    Raises:
        ConfigError: if there is none, or two have the same name.
    """
    clips = list_clips(paths, is_film)
    # The names that keep their suffix. Without it "..mp4" would be the folder itself; and motion is looked for at the
    # whole name first, where an earlier run may have left some.
    whole = {name for name, _ in clips if not name.stem.strip(".") or has_motion(Path(out, name))}
    names = {str(name).casefold() for name, _ in clips}
    while True:
        targets = [name if name in whole else name.with_suffix("") for name, _ in clips]
        counts = Counter(str(target).casefold() for target in targets)
        # `a.mp4.mp4` without its suffix would lie where `a.mp4` is looked for
        shared = {
            name
            for (name, _), target in zip(clips, targets, strict=True)
            if counts[str(target).casefold()] > 1 or target != name and str(target).casefold() in names
        }
        if shared <= whole:
            break
        whole |= shared
    found: dict[Path, str] = {}
    for target, (_, clip) in zip(targets, clips, strict=True):
        place = Path(out) / target
        if place in found:
            raise ConfigError(
                f"{clip} and {found[place]} would both be written to {place}: give them in two calls, with another "
                f"--out for each, or one folder that has both"
            )
        found[place] = clip
    return found


def claim_outputs(
    out: str,
    clips: Mapping[Path, str],
    files_of: Callable[[Path], Sequence[Path]],
    suffixes: Sequence[str],
    about: str,
) -> dict[Path, str]:
    """Claim what will be written for clips, see `claim`.

    Args:
        out: the output folder.
        clips: as `find_clips` returns them.
        files_of: from a clip's place to its motion files.
        suffixes: of what else is written for each clip.
        about: name of the file about all of them.

    Returns:
        The clips for which nothing is claimed, as their outputs' names would be too long: {the clip's place: why}.

    Raises:
        OutputError: if a file is in the way.
    """
    files, unnamed = [Path(out, about)], {}
    for place in clips:
        mine = [*files_of(place), *(place.with_name(place.name + suffix) for suffix in suffixes)]
        if problem := name_problem(mine):
            unnamed[place] = problem
        else:
            files += mine
    claim(out, files, clips.values())
    return unnamed
