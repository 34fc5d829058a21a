"""What the page's controls do: each returns, or yields one after the other, what the page shows. Needs no Gradio."""

import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from motiontune.datasets.dataset_info import ClipOfSample
from motiontune.drawing.panels import Show
from motiontune.errors import MotiontuneError
from motiontune.motion.options import MotionOptions
from motiontune.video.reader import Reader
from motiontune.viewer.library import Kind, Library, Limits, Measured, choose, reason
from motiontune.viewer.model import Model, Prediction
from motiontune.viewer.pieces import compare, describe, player, source_table, status
from motiontune.viewer.views import View, clip_view, prediction_view, sources_view


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
    max_new_tokens: int = 128


class Films:
    """Films in a folder, the newest of them, under names that nobody can guess."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: list[str] = []

    def draw(self, view: View, show: Show) -> str:
        """Draw a view and return its place on the server."""
        name = f"{secrets.token_hex(16)}.mp4"
        view.draw(self.folder / name, show)
        self._names.append(name)
        while len(self._names) > _KEPT_FILMS:
            (self.folder / self._names.pop(0)).unlink(missing_ok=True)
        return f"/films/{name}"


class Viewer:
    """What the page's controls do; each method returns, or yields one after the other, what the page shows.

    Args:
        library: the clips.
        reader: reads them, as the model does where there is one.
        settings: how the page begins.
        films: where films go.
        model: None for target motion alone.
    """

    def __init__(
        self, library: Library, reader: Reader, settings: Settings, films: Films, model: Model | None = None
    ) -> None:
        self.library, self.reader, self.settings, self.films, self.model = library, reader, settings, films, model

    def options(self, source: str) -> MotionOptions:
        """The options with the source that was chosen on the page."""
        return replace(self.settings.options, source=source)

    def rows(
        self, name: str | None, kind: Kind, words: str, still: float, invalid: float, source: str
    ) -> tuple[list[list[int | str]], str]:
        """The table of a data set's clips, filtered, and a line about it; `still` and `invalid` in percent."""
        if not name:
            return [], status("No data set: choose one, or drop a clip below.")
        try:
            clips = self.library.clips(name)
        except MotiontuneError as error:
            return [], status(str(error), "error")
        options, limits = self.options(source), Limits(still / 100, invalid / 100)
        measured = {clip.path: m for clip in clips if (m := self.library.measured.get((clip.path, options)))}
        chosen = choose(clips, measured, kind, limits, words)
        known = sum(clip.path in measured for clip in clips)
        line = f"{len(chosen):,} of {len(clips):,} clips" + (
            f", the first {_ROWS} are listed" if len(chosen) > _ROWS else ""
        )
        line += _result([measured[clip.path] for clip in clips if clip.path in measured], source)
        if kind != "all" and known < len(clips):
            line += f" · {len(clips) - known:,} are not measured yet and cannot be listed here"
        return [_row(number, clips[number], measured.get(clips[number].path)) for number in chosen[:_ROWS]], status(
            line
        )

    def measure(self, name: str | None, most: float, source: str) -> Iterator[str]:
        """Measure the first clips of a data set, and yield how far that has come."""
        if not name:
            yield status("Choose a data set first.", "error")
            return
        try:
            paths = [clip.path for clip in self.library.clips(name)][: max(1, int(most))]
            shown, start = 0.0, time.monotonic()
            for done in self.library.measure_all(paths, self.reader, self.options(source)):
                if time.monotonic() - shown > 0.4:
                    shown = time.monotonic()
                    left = (shown - start) / done * (len(paths) - done)
                    yield status(f"Measuring motion: {done:,} of {len(paths):,} clips, {left:.0f} s left", "busy")
            found = [self.library.measured[path, self.options(source)] for path in paths]
            failed = all(one.problem for one in found)
            yield status(f"Done{_result(found, source)}", "error" if failed else "plain")
        except MotiontuneError as error:
            yield status(str(error), "error")

    def clip_of_row(self, name: str | None, number: int) -> ClipOfSample | None:
        """The clip in a row of the table."""
        clips = self.library.clips(name) if name else []
        return clips[number] if 0 <= number < len(clips) else None

    def open(
        self, chosen: ClipOfSample | None, show: Show, source: str
    ) -> Iterator[tuple[View | None, str, str, str, str, str]]:
        """Open a clip: (view, status, facts, player, details, answer)."""
        if chosen is None:
            yield None, status("Choose a clip in the table, or drop one."), "", "", "", ""
            return
        name = Path(chosen.path).name
        yield None, status(f"Reading {name} and its motion ({source})", "busy"), "", "", "", ""
        try:
            self.library.check_allowed(chosen.path)
            view, measured = clip_view(chosen.path, self.reader, self.options(source))
            facts = describe(view.clip, view.grid, measured, chosen.answer)
            yield view, status(f"Drawing {len(view.clip.frames)} frames", "busy"), facts, "", "", ""
            film = player(self.films.draw(view, show), view.clip)
        except MotiontuneError as error:
            yield None, status(f"{name}: {reason(chosen.path, error)}", "error"), "", "", "", ""
            return
        line = status(f"No motion: {view.problem}", "error") if view.problem else status("")
        yield view, line, facts, film, "", ""

    def redraw(self, view: View | None, show: Show) -> str:
        """The film of a view, shown in another way."""
        return "" if view is None else player(self.films.draw(view, show), view.clip)

    def ask(
        self, chosen: ClipOfSample | None, prompt: str, show: Show, source: str
    ) -> Iterator[tuple[View | None, str, str | None, str, str]]:
        """Ask the model about a clip: (view, status, player, details, answer); None leaves what is there."""
        if chosen is None or self.model is None:
            yield None, status("Choose a clip first.", "error"), None, "", ""
            return
        yield None, status("The model reads the clip", "busy"), None, "", ""
        text = ""
        try:
            self.library.check_allowed(chosen.path)
            prediction: Prediction | None = None
            question, most = prompt or self.settings.prompt, self.settings.max_new_tokens
            wanted = self.options(source)
            for part in self.model.stream(chosen.path, question, compare_with=wanted, max_new_tokens=most):
                if isinstance(part, str):
                    text = part
                    yield None, status("The model answers", "busy"), None, "", text
                else:
                    prediction = part
            assert prediction is not None  # a stream ends with its prediction
            view = prediction_view(prediction)
            yield view, status("Drawing the prediction", "busy"), None, "", prediction.text
            film = player(self.films.draw(view, show), view.clip)
            yield view, self._about(prediction), film, compare(prediction), prediction.text
        except MotiontuneError as error:
            yield None, status(reason(chosen.path, error), "error"), None, "", text

    def _about(self, prediction: Prediction) -> str:
        if prediction.field is None:
            return status(
                "This model has no motion head, or one without dense motion: it answers in text alone.", "error"
            )
        return status(f"No target: {prediction.problem}", "error") if prediction.problem else status("")

    def sources(
        self, chosen: ClipOfSample | None, show: Show, source: str
    ) -> Iterator[tuple[View | None, str, str | None, str]]:
        """Compute all sources' motion of a clip: (view, status, player, details)."""
        if chosen is None:
            yield None, status("Choose a clip first.", "error"), None, ""
            return
        try:
            self.library.check_allowed(chosen.path)
            for part in sources_view(chosen.path, self.reader, self.options(source)):
                if isinstance(part, str):
                    yield None, status(f"All sources: {part}", "busy"), None, ""
                else:
                    view, rows = part
                    yield view, status("Drawing all sources", "busy"), None, ""
                    film = player(self.films.draw(view, show), view.clip)
                    yield view, status(""), film, source_table(rows)
        except MotiontuneError as error:
            yield None, status(reason(chosen.path, error), "error"), None, ""


def _result(measured: Sequence[Measured], source: str) -> str:
    """How many clips have motion, and how many have none and why the first has not; "" where none was measured."""
    problems = [one.problem for one in measured if one.problem]
    good = len(measured) - len(problems)
    line = f" · motion of {good:,} measured with {source}" if good else ""
    return line + (f" · {len(problems):,} without motion: {problems[0]}" if problems else "")


def _row(number: int, clip: ClipOfSample, measured: Measured | None) -> list[int | str]:
    about, numbers = clip.answer, ["", "", "", ""]
    if measured is not None and measured.problem:
        about = f"✗ {measured.problem}"
    elif measured is not None:
        numbers = [f"{100 * measured.moving:.0f}", f"{100 * measured.invalid:.0f}", f"{measured.mean_motion:.2f}"]
        numbers.append(measured.source)
    return [number, Path(clip.path).name, about, *numbers]
