"""What the page's controls do: each returns, or yields one after the other, what the page shows. Needs no Gradio."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import parse_qs, urlencode

import numpy as np
from numpy.typing import NDArray

from motiontune.datasets.dataset_info import NEW_TOKENS, ClipOfSample
from motiontune.drawing.panels import Show
from motiontune.errors import MotiontuneError
from motiontune.evaluation.sums import MotionSums
from motiontune.motion.options import MotionOptions
from motiontune.video.reader import Reader
from motiontune.viewer.library import Kind, Library, Limits, Measured, choose, measure, reason, short_names
from motiontune.viewer.model import Model, Prediction
from motiontune.viewer.pieces import Row, clip_table, compare, describe, player, source_table, status
from motiontune.viewer.recorded import Recorded
from motiontune.viewer.views import MOST_FRAMES, View, clip_view, fit, prediction_view, sources_view


Order = Literal[
    "the data set's order",
    "error, largest first",
    "error, smallest first",
    "error against no motion, largest first",
    "motion, most first",
    "motion, least first",
    "without vectors, most first",
]
ORDERS: tuple[Order, ...] = get_args(Order)

_ROWS = 200  # clips in the table at a time: more would be slow to send, and nobody reads them
_KEPT_FILMS = 40


@dataclass(frozen=True)
class Settings:
    """How the page begins.

    Args:
        options: source, direction and so on of the target's motion; the source can be chosen on the page.
        dataset: the data set that is open at first; None for none.
        prompt: the question for a clip that has none of its own.
        max_new_tokens: at most so many tokens of an answer.
    """

    options: MotionOptions
    dataset: str | None = None
    prompt: str = ""
    max_new_tokens: int = NEW_TOKENS


@dataclass(frozen=True)
class Chosen:
    """The clip that is open.

    Args:
        clip: the clip.
        dataset: its data set's name; "" for one that was dropped.
        number: its row there.
    """

    clip: ClipOfSample
    dataset: str = ""
    number: int = -1

    @property
    def link(self) -> str:
        """The page's address that opens it, without the server's; "" for one that was dropped."""
        if not self.dataset:
            return ""
        return "?" + urlencode({"dataset": self.dataset, "row": self.number, "clip": Path(self.clip.path).name})


class Films:
    """Films in a folder, the newest of them, under names that nobody can guess."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: list[str] = []

    def draw(self, view: View, show: Show, every: bool = False) -> tuple[str, NDArray[np.float64]]:
        """Draw a view and return its place on the server, and the seconds at which its pictures are shown."""
        name = f"{secrets.token_hex(16)}.mp4"
        times = view.draw(self.folder / name, show, every)
        self._names.append(name)
        while len(self._names) > _KEPT_FILMS:
            (self.folder / self._names.pop(0)).unlink(missing_ok=True)
        return f"/films/{name}", times


Opened = tuple[View | None, str, str | None, str | None, str, str, str]
"""View, status, facts, player, details and the answers of two models; None leaves what is there."""


class Viewer:
    """What the page's controls do; each method returns, or yields one after the other, what the page shows.

    Args:
        library: the clips.
        reader: reads them, as the first model does where there is one.
        settings: how the page begins.
        films: where films go.
        models: at most two, side by side; none for target motion alone. Of a `Recorded` one the predictions are there.
    """

    def __init__(
        self,
        library: Library,
        reader: Reader,
        settings: Settings,
        films: Films,
        models: "Sequence[Model | Recorded]" = (),
    ) -> None:
        self.library, self.reader, self.settings, self.films = library, reader, settings, films
        self.models = dict(zip(short_names([model.name for model in models]), models, strict=True))
        self.errors: dict[tuple[str, ClipOfSample], MotionSums] = {}
        for name, model in self.models.items():
            if isinstance(model, Recorded):
                self.errors |= {(name, clip): sums for clip, sums in model.errors.items()}

    @property
    def asks(self) -> bool:
        """Whether there is a model that can be asked."""
        return any(not isinstance(model, Recorded) for model in self.models.values())

    def options(self, source: str) -> MotionOptions:
        """The options with the source that was chosen on the page."""
        return replace(self.settings.options, source=source)

    def begin(self, link: str) -> tuple[str | None, Chosen | None, str]:
        """What is open at first, by the end of the page's address: data set, clip, and what is wrong with the link.

        Without a clip in the link that is the first one that is there.
        """
        wanted = {key: values[-1] for key, values in parse_qs(link.lstrip("?")).items()}
        name = wanted.get("dataset") or self.settings.dataset
        if name is None:
            return None, None, ""
        try:
            clips = self.library.clips(name)
        except MotiontuneError as error:
            return self.settings.dataset, None, status(f"The link: {error}", "error")
        if "clip" not in wanted:
            return name, self.first(name), ""
        here = [number for number, clip in enumerate(clips) if Path(clip.path).name == wanted["clip"]]
        if not here:
            return name, None, status(f"The link: there is no clip {wanted['clip']} in {name}", "error")
        row = wanted.get("row", "")
        number = int(row) if row.isdecimal() and int(row) in here else here[0]
        return name, Chosen(clips[number], name, number), ""

    def first(self, name: str | None) -> Chosen | None:
        """The first clip of a data set that is there, or else the first one."""
        try:
            clips = self.library.clips(name) if name else []
        except MotiontuneError:
            return None
        there = (number for number, clip in enumerate(clips) if Path(clip.path).is_file())
        number = next(there, 0)
        return Chosen(clips[number], name or "", number) if clips else None

    def rows(
        self,
        name: str | None,
        kind: Kind,
        words: str,
        still: float,
        invalid: float,
        source: str,
        order: Order = ORDERS[0],
        chosen: Chosen | None = None,
    ) -> tuple[str, str]:
        """The table of a data set's clips, filtered, and a line about it; `still` and `invalid` in percent."""
        if not name:
            return "", status("No data set: choose one, or drop a clip below.")
        try:
            clips = self.library.clips(name)
        except MotiontuneError as error:
            return "", status(str(error), "error")
        options, limits = self.options(source), Limits(still / 100, invalid / 100)
        measured = {clip.path: m for clip in clips if (m := self.library.measured.get((clip.path, options)))}
        numbers = choose(clips, measured, kind, limits, words)
        if order != ORDERS[0]:
            numbers = self._ordered(numbers, clips, measured, order)
        known = sum(clip.path in measured for clip in clips)
        line = f"{len(numbers):,} of {len(clips):,} clips" + (
            f", the first {_ROWS} are listed" if len(numbers) > _ROWS else ""
        )
        line += _result([measured[clip.path] for clip in clips if clip.path in measured], source)
        if kind != "all" and known < len(clips):
            line += f" · {len(clips) - known:,} are not measured yet and cannot be listed here"
        if (order.startswith("error") and not any(self._error(clip) for clip in clips)) or (
            order.startswith(("motion", "without")) and not known
        ):
            line += " · nothing to sort by: measure first"
        at = chosen.number if chosen is not None and chosen.dataset == name else None
        rows = [Row(number, clips[number], measured.get(clips[number].path)) for number in numbers[:_ROWS]]
        errors = [[self.errors.get((one, _key(row.clip))) for one in self.models] for row in rows]
        return clip_table(rows, list(self.models), errors, at), status(line)

    def _error(self, clip: ClipOfSample) -> MotionSums | None:
        """A clip's sums against its target, of the first model that has some."""
        found = (self.errors.get((name, _key(clip))) for name in self.models)
        return next((sums for sums in found if sums is not None and sums.patches), None)

    def _ordered(
        self, numbers: Sequence[int], clips: Sequence[ClipOfSample], measured: dict[str, Measured], order: Order
    ) -> list[int]:
        """Sort rows; those without the number that is sorted by come last."""

        def value(number: int) -> float | None:
            clip = clips[number]
            if order.startswith("error"):
                sums = self._error(clip)
                if sums is None:
                    return None
                if "against" in order:
                    return sums.moving_epe / sums.moving_zero_epe if sums.moving else None
                return sums.epe / sums.patches
            one = measured.get(clip.path)
            if one is None or one.problem:
                return None
            return one.invalid if order.startswith("without") else one.mean_motion

        values = {number: value(number) for number in numbers}
        sign = 1 if order.endswith(("smallest first", "least first")) else -1
        return sorted(numbers, key=lambda number: (values[number] is None, sign * (values[number] or 0.0)))

    def measure(self, name: str | None, most: float, source: str, errors: bool = False) -> Iterator[str]:
        """Measure the first clips of a data set, with the models' errors where asked for; yield how far that is."""
        if not name:
            yield status("Choose a data set first.", "error")
            return
        try:
            clips = self.library.clips(name)[: max(1, int(most))]
            paths = [clip.path for clip in clips]
            yield from _progress(self.library.measure_all(paths, self.reader, self.options(source)), len(paths))
            if errors:
                good = [c for c in clips if not self.library.measured[c.path, self.options(source)].problem]
                yield from _progress(self._measure_errors(good, source), len(good), "Measuring the model's error")
            found = [self.library.measured[path, self.options(source)] for path in paths]
            failed = all(one.problem for one in found)
            yield status(f"Done{_result(found, source)}", "error" if failed else "plain")
        except MotiontuneError as error:
            yield status(str(error), "error")

    def _measure_errors(self, clips: Sequence[ClipOfSample], source: str) -> Iterator[int]:
        for done, clip in enumerate(clips, 1):
            for name in self.models:
                *_, last = self._predict(name, clip, clip.prompt, source, 1)
                assert not isinstance(last, str)
                self.errors[name, _key(clip)] = last.sums()
            yield done

    def _predict(
        self, name: str, clip: ClipOfSample, prompt: str, source: str, most: int
    ) -> "Iterator[str | Prediction]":
        """A model's text so far, and at last its prediction."""
        model = self.models[name]
        if isinstance(model, Recorded):
            yield model.predict(clip)
        else:
            question = prompt or self.settings.prompt
            yield from model.stream(clip.path, question, compare_with=self.options(source), max_new_tokens=most)

    def clip_of_row(self, name: str | None, number: int) -> Chosen | None:
        """The clip in a row of the table."""
        clips = self.library.clips(name) if name else []
        return Chosen(clips[number], name or "", number) if 0 <= number < len(clips) else None

    def open(self, chosen: Chosen | None, show: Show, source: str, every: bool = False) -> Iterator[Opened]:
        """Open a clip."""
        if chosen is None:
            yield None, status("Choose a clip in the table, or drop one."), "", "", "", "", ""
            return
        clip = chosen.clip
        name = Path(clip.path).name
        yield None, status(f"Reading {name} and its motion ({source})", "busy"), "", "", "", "", ""
        try:
            self.library.check_allowed(clip.path)
            if self.models and not self.asks and chosen.dataset in self.models:
                yield from self._show_recorded(chosen, show, every)
                return
            view, measured = clip_view(clip.path, self.reader, self.options(source))
            facts = describe(view.clip, view.grid, measured, clip.answer, chosen.link)
            yield view, status(f"Drawing {len(view.clip.frames)} frames", "busy"), facts, "", "", "", ""
            film = self._film(view, show, every)
        except MotiontuneError as error:
            yield None, status(f"{name}: {reason(clip.path, error)}", "error"), "", "", "", "", ""
            return
        line = status(f"No motion: {view.problem}", "error") if view.problem else status("")
        yield view, line, facts, film, "", "", ""

    def _show_recorded(self, chosen: Chosen, show: Show, every: bool) -> Iterator[Opened]:
        """What folders of predictions have of a clip."""
        predictions, missing = dict[str, Prediction](), ""
        for name, model in self.models.items():
            try:
                assert isinstance(model, Recorded)
                predictions[name] = model.predict(chosen.clip)
            except MotiontuneError as error:
                if name == chosen.dataset:
                    raise
                missing = f"{name}: {reason(chosen.clip.path, error)}"
        first = next(iter(predictions.values()))
        measured = measure(first.clip, first.grid, first.target, "" if first.target else "no target was kept")
        facts = describe(first.clip, first.grid, measured, chosen.clip.answer, chosen.link)
        view = prediction_view(predictions)
        yield view, status("Drawing the predictions", "busy"), facts, "", "", "", ""
        line = status(missing, "error") if missing else self._about(predictions)
        answers = [predictions[name].text if name in predictions else "" for name in self.models]
        yield view, line, facts, self._film(view, show, every), compare(predictions), *_two(answers)

    def _film(self, view: View, show: Show, every: bool) -> str:
        film, times = self.films.draw(view, show, every)
        more = ""
        if every and view.clip.info.frames > len(times) == MOST_FRAMES:
            more = f"the first {MOST_FRAMES:,} of {view.clip.info.frames:,} frames"
        return player(film, times, Path(view.clip.path).stem, more)

    def redraw(self, view: View | None, show: Show, every: bool = False) -> str:
        """The film of a view, shown in another way."""
        return "" if view is None else self._film(view, show, every)

    def ask(
        self, chosen: Chosen | None, prompt: str, show: Show, source: str, every: bool = False
    ) -> Iterator[Opened]:
        """Ask the models about a clip, one after the other; the facts stay as they are."""
        if chosen is None or not self.models:
            yield None, status("Choose a clip first.", "error"), None, None, "", "", ""
            return
        clip, texts = chosen.clip, [""] * len(self.models)
        yield None, status("The model reads the clip", "busy"), None, None, "", "", ""
        try:
            self.library.check_allowed(clip.path)
            predictions: dict[str, Prediction] = {}
            for number, name in enumerate(self.models):
                who = name if len(self.models) > 1 else "The model"
                for part in self._predict(name, clip, prompt, source, self.settings.max_new_tokens):
                    if isinstance(part, str):
                        texts[number] = part
                        yield None, status(f"{who} answers", "busy"), None, None, "", *_two(texts)
                    else:
                        predictions[name], texts[number] = part, part.text
                if predictions[name].sums().patches:
                    self.errors[name, _key(clip)] = predictions[name].sums()
            view = prediction_view(predictions)
            yield view, status("Drawing the prediction", "busy"), None, None, "", *_two(texts)
            film = self._film(view, show, every)
            yield view, self._about(predictions), None, film, compare(predictions), *_two(texts)
        except MotiontuneError as error:
            yield None, status(reason(clip.path, error), "error"), None, None, "", *_two(texts)

    def _about(self, predictions: dict[str, Prediction]) -> str:
        """What is missing from a view of predictions."""
        first, several = next(iter(predictions.values())), len(predictions) > 1
        lines = []
        for name, one in predictions.items():
            who = name if several else "This model"
            if one.field is None:
                lines.append(f"{who} has no motion head, or one without dense motion: it answers in text alone.")
            elif not fit(first, one):
                lines.append(f"{who} sees other frames or patches: its motion cannot stand beside, its numbers do.")
        if first.problem:
            lines.append(f"No target: {first.problem}")
        return status(" ".join(lines), "error") if lines else status("")

    def sources(
        self, chosen: Chosen | None, show: Show, source: str, every: bool = False
    ) -> Iterator[tuple[View | None, str, str | None, str]]:
        """Compute all sources' motion of a clip: (view, status, player, details)."""
        if chosen is None:
            yield None, status("Choose a clip first.", "error"), None, ""
            return
        path = chosen.clip.path
        try:
            self.library.check_allowed(path)
            for part in sources_view(path, self.reader, self.options(source)):
                if isinstance(part, str):
                    yield None, status(f"All sources: {part}", "busy"), None, ""
                else:
                    view, rows = part
                    yield view, status("Drawing all sources", "busy"), None, ""
                    yield view, status(""), self._film(view, show, every), source_table(rows)
        except MotiontuneError as error:
            yield None, status(reason(path, error), "error"), None, ""


def _key(clip: ClipOfSample) -> ClipOfSample:
    """A clip without its question, which predictions in a folder do not name."""
    return replace(clip, prompt="")


def _two(texts: Sequence[str]) -> tuple[str, str]:
    return texts[0], texts[1] if len(texts) > 1 else ""


def _progress(steps: Iterator[int], count: int, what: str = "Measuring motion") -> Iterator[str]:
    """A line about how far some work is, now and then."""
    shown, start = 0.0, time.monotonic()
    for done in steps:
        if time.monotonic() - shown > 0.4:
            shown = time.monotonic()
            left = (shown - start) / done * (count - done)
            yield status(f"{what}: {done:,} of {count:,} clips, {left:.0f} s left", "busy")


def _result(measured: Sequence[Measured], source: str) -> str:
    """How many clips have motion, and how many have none and why the first has not; "" where none was measured."""
    problems = [one.problem for one in measured if one.problem]
    good = len(measured) - len(problems)
    line = f" · motion of {good:,} measured with {source}" if good else ""
    return line + (f" · {len(problems):,} without motion: {problems[0]}" if problems else "")
