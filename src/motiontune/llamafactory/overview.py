"""What a run will read, in one table before it trains: by headers and tokens of samples here and there."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any

from motiontune.errors import ClipError, MotiontuneError, escaped
from motiontune.tables import text_table


LOOKED_AT = 32
"""Samples of a data set that are tokenized for the table, and clips whose headers are read."""

TITLES = ("data set", "samples", "looked at", "clips", "frames", "fps", "tokens", "cutoff_len", "do not fit", "motion")
LEGEND = (
    "frames, fps and tokens: the median, and in brackets the most, per clip or sample that was looked at; fps is what "
    "is sampled per second of the clip"
)


@dataclass
class SetOverview:
    """What was seen of one data set.

    Args:
        name: the data set.
        samples: how many it has; None where it is streamed.
        cutoff: how many tokens of a sample are kept.
        packing: LLaMA-Factory has taken one off `cutoff_len`.
        looked_at: how many samples were looked at.
        clips: how many clips the looked-at samples have.
        frames: sampled frames of each of these clips that can be opened.
        rates: of each, sampled frames per second.
        tokens: tokens of each sample, nothing cut.
        too_long: of each sample that does not fit, its name and its tokens.
        sources: where the motion comes from, and of how many clips.
        unanswered: how many of the samples that were looked at have clips and no answer, which count for motion alone.
    """

    name: str
    samples: int | None
    cutoff: int
    packing: bool = False
    looked_at: int = 0
    clips: int = 0
    frames: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    too_long: list[tuple[str, int]] = field(default_factory=list)
    sources: Mapping[str, int] = field(default_factory=dict)
    unanswered: int = 0

    def cells(self) -> tuple[str, ...]:
        """The row of the table; what was not measured is a dash."""
        share = "" if not self.samples else f" ({self.looked_at / self.samples:.0%})"
        return (
            self.name,
            "streamed" if self.samples is None else str(self.samples),
            f"{self.looked_at}{share}",
            str(self.clips),
            _spread_of(self.frames, "g"),
            _spread_of(self.rates, ".3g"),
            _spread_of(self.tokens, "g"),
            f"{self.cutoff + 1} - 1" if self.packing else str(self.cutoff),
            str(len(self.too_long)) if self.tokens else "-",
            ", ".join(f"{source} {count}" for source, count in self.sources.items()) or "-",
        )


def look_at(
    name: str,
    rows: Iterable[Any],
    samples: int | None,
    cutoff: int,
    videos_of: Callable[[Any], Sequence[Any]],
    count_tokens: Callable[[Any], int],
    frames_and_rate: Callable[[Any], tuple[int, float]],
) -> SetOverview:
    """Measure samples of a data set; what cannot be opened is named when it is tokenized.

    Args:
        name: the data set.
        rows: the samples to look at.
        samples: how many the data set has, or None.
        cutoff: `cutoff_len`.
        videos_of: the videos of a row.
        count_tokens: the tokens of a row, nothing cut.
        frames_and_rate: of a video, how many frames are sampled, and how many per second.
    """
    seen = SetOverview(name, samples, cutoff)
    for row in rows:
        seen.looked_at += 1
        videos = videos_of(row)
        seen.clips += len(videos)
        for video in videos:
            try:
                frames, rate = frames_and_rate(video)
            except ClipError:
                continue
            seen.frames.append(frames)
            seen.rates.append(rate)
        try:
            tokens = count_tokens(row)
        except (MotiontuneError, ValueError):
            continue
        seen.tokens.append(tokens)
        if tokens > cutoff:
            seen.too_long.append((str(videos[0]) if videos else "a sample without videos", tokens))
    return seen


def table(sets: Sequence[SetOverview]) -> str:
    """The table, its legend, and the samples that do not fit."""
    lines = [text_table([TITLES, *(one.cells() for one in sets)], rule=True), LEGEND]
    for one in sets:
        if one.unanswered:
            samples = f"{one.unanswered} of the {one.looked_at} samples that were looked at"
            lines.append(f"{one.name}: {samples} have no answer, and count for motion alone")
        for sample, tokens in islice(one.too_long, 10):
            lines.append(f"{one.name}: {escaped(sample)} has {tokens} tokens, cutoff_len cuts it to {one.cutoff}")
        if len(one.too_long) > 10:
            lines.append(f"{one.name}: and {len(one.too_long) - 10} more")
    return "\n".join(lines)


def spread(number: int, wanted: int) -> list[int]:
    """Up to so many numbers below `number`, evenly spread."""
    return list(range(number)) if number <= wanted else [i * number // wanted for i in range(wanted)]


def _spread_of(values: Sequence[float], form: str) -> str:
    return f"{median(values):{form}} ({max(values):{form}})" if values else "-"
