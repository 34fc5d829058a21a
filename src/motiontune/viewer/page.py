"""`motiontune view`: a page in the browser to look through clips, their motion, and what a model says of it.

The page is Gradio's, served on this machine. It asks nothing of any other: what Gradio would load from elsewhere is
taken out, and the browser is told to refuse the rest. Films are drawn into a temporary folder, which is the only one
that files are handed out from; a clip is opened only where it lies in an allowed folder.
"""

import contextlib
import io
import json
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from motiontune.datasets.dataset_info import ClipOfSample
from motiontune.drawing.colours import colour_wheel_legend
from motiontune.drawing.curves import draw_curves
from motiontune.drawing.films import Show
from motiontune.errors import ConfigError, MotiontuneError
from motiontune.grid import VideoGrid
from motiontune.motion.options import MotionOptions
from motiontune.motion.sources import SOURCES
from motiontune.runs.page import data_uri
from motiontune.video.clip import Clip
from motiontune.video.reader import Reader
from motiontune.viewer.library import KINDS, Library, Limits, Measured, choose, reason
from motiontune.viewer.scenes import Scene, SourceRow, clip_scene, error_curve, prediction_scene, sources_scene


if TYPE_CHECKING:
    from motiontune.llamafactory.predictor import MotionModel, MotionPrediction


LOCAL = "127.0.0.1"
PORTS = range(7860, 7960)
ROWS = 200
"""Clips in the table at a time: more would be slow to send, and nobody reads them."""

_SHOWS = ("arrows", "colours", "none")
_KEPT_FILMS = 40
_HEADERS = ["#", "clip", "answer, or what is wrong", "moving %", "no vector %", "mean px", "source"]
_WIDTHS: list[str | int] = ["52px", "136px", "232px", "92px", "110px", "86px", "120px"]
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_ELSEWHERE = re.compile(
    r'<(?:link|script)\b[^>]*?\s(?:href|src)="https?://[^>]*>(?:\s*</script>)?|<link rel="manifest"[^>]*>'
)


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

    def draw(self, scene: Scene, show: Show) -> str:
        """Draw a scene and return its place on the server."""
        name = f"{secrets.token_hex(16)}.mp4"
        scene.draw(self.folder / name, show)
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
        self, library: Library, reader: Reader, settings: Settings, films: Films, model: "MotionModel | None" = None
    ) -> None:
        self.library, self.reader, self.settings, self.films, self.model = library, reader, settings, films, model

    def options(self, source: str) -> MotionOptions:
        """The options with the source that was chosen on the page."""
        return replace(self.settings.options, source=source)

    def rows(
        self, name: str | None, kind: Any, words: str, still: float, invalid: float, source: str
    ) -> tuple[list[list[Any]], str]:
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
            f", the first {ROWS} are listed" if len(chosen) > ROWS else ""
        )
        line += f" · motion of {known:,} measured with {source}" if known else ""
        if kind != "all" and known < len(clips):
            line += f" · {len(clips) - known:,} are not measured yet and cannot be listed here"
        return [_row(number, clips[number], measured.get(clips[number].path)) for number in chosen[:ROWS]], status(
            line
        )

    def measure(self, name: str | None, most: float, source: str) -> Iterator[str]:
        """Measure the first clips of a data set, and say how far it is."""
        if not name:
            yield status("Choose a data set first.", "error")
            return
        try:
            paths = [clip.path for clip in self.library.clips(name)][: max(1, int(most))]
            said, start = 0.0, time.monotonic()
            for done in self.library.measure_all(paths, self.reader, self.options(source)):
                if time.monotonic() - said > 0.4:
                    said = time.monotonic()
                    left = (said - start) / done * (len(paths) - done)
                    yield status(f"Measuring motion: {done:,} of {len(paths):,} clips, {left:.0f} s left", "busy")
            yield status(f"Measured {len(paths):,} clips.")
        except MotiontuneError as error:
            yield status(str(error), "error")

    def clip_of_row(self, name: str | None, number: int) -> ClipOfSample | None:
        """The clip in a row of the table."""
        clips = self.library.clips(name) if name else []
        return clips[number] if 0 <= number < len(clips) else None

    def open(self, chosen: ClipOfSample | None, show: Show, source: str) -> Iterator[tuple[Any, ...]]:
        """Open a clip: (scene, status, facts, player, details, answer)."""
        if chosen is None:
            yield None, status("Choose a clip in the table, or drop one."), "", "", "", ""
            return
        name = Path(chosen.path).name
        yield None, status(f"Reading {name} and its motion ({source})", "busy"), "", "", "", ""
        try:
            self.library.check_allowed(chosen.path)
            scene, measured = clip_scene(chosen.path, self.reader, self.options(source))
            facts = describe(scene.clip, scene.grid, measured, chosen.answer)
            yield scene, status(f"Drawing {len(scene.clip.frames)} frames", "busy"), facts, "", "", ""
            film = player(self.films.draw(scene, show), scene.clip)
        except MotiontuneError as error:
            yield None, status(f"{name}: {reason(chosen.path, error)}", "error"), "", "", "", ""
            return
        line = status(f"No motion: {scene.problem}", "error") if scene.problem else status("")
        yield scene, line, facts, film, "", ""

    def redraw(self, scene: Scene | None, show: Show) -> Any:
        """The film of a scene, shown in another way."""
        return "" if scene is None else player(self.films.draw(scene, show), scene.clip)

    def ask(self, chosen: ClipOfSample | None, prompt: str, show: Show, source: str) -> Iterator[tuple[Any, ...]]:
        """Ask the model about a clip: (scene, status, player, details, answer); None leaves what is there."""
        if chosen is None or self.model is None:
            yield None, status("Choose a clip first.", "error"), None, "", ""
            return
        yield None, status("The model reads the clip", "busy"), None, "", ""
        text = ""
        try:
            self.library.check_allowed(chosen.path)
            said: MotionPrediction | None = None
            options = {"target": source, "max_new_tokens": self.settings.max_new_tokens}
            for part in self.model.stream(chosen.path, prompt or self.settings.prompt, **options):
                if isinstance(part, str):
                    text = part
                    yield None, status("The model answers", "busy"), None, "", text
                else:
                    said = part
            assert said is not None  # a stream ends with its prediction
            scene = prediction_scene(said)
            yield scene, status("Drawing the prediction", "busy"), None, "", said.text
            film = player(self.films.draw(scene, show), scene.clip)
            yield scene, self._about(said), film, compare(said), said.text
        except MotiontuneError as error:
            yield None, status(reason(chosen.path, error), "error"), None, "", text

    def _about(self, said: "MotionPrediction") -> str:
        if said.field is None:
            return status("This model has no motion head: it answers in text alone.", "error")
        return status(f"No target: {said.problem}", "error") if said.problem else status("")

    def sources(self, chosen: ClipOfSample | None, show: Show, source: str) -> Iterator[tuple[Any, ...]]:
        """Compute all sources' motion of a clip: (scene, status, player, details)."""
        if chosen is None:
            yield None, status("Choose a clip first.", "error"), None, ""
            return
        try:
            self.library.check_allowed(chosen.path)
            for part in sources_scene(chosen.path, self.reader, self.options(source)):
                if isinstance(part, str):
                    yield None, status(f"All sources: {part}", "busy"), None, ""
                else:
                    scene, rows = part
                    yield scene, status("Drawing all sources", "busy"), None, ""
                    film = player(self.films.draw(scene, show), scene.clip)
                    yield scene, status(""), film, source_table(rows)
        except MotiontuneError as error:
            yield None, status(reason(chosen.path, error), "error"), None, ""


def _row(number: int, clip: ClipOfSample, measured: Measured | None) -> list[Any]:
    about, numbers = clip.answer, ["", "", "", ""]
    if measured is not None and measured.problem:
        about = f"✗ {measured.problem}"
    elif measured is not None:
        numbers = [f"{100 * measured.moving:.0f}", f"{100 * measured.invalid:.0f}", f"{measured.mean_motion:.2f}"]
        numbers.append(measured.source)
    return [number, Path(clip.path).name, about, *numbers]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


# ---- pieces of the page ----


def status(text: str, kind: str = "plain") -> str:
    """A line about what is going on: "busy", "error" or "plain"."""
    return f'<p class="mt-status mt-{kind}" role="status">{escape(text)}</p>' if text else ""


def describe(clip: Clip, grid: VideoGrid, measured: Measured, answer: str = "") -> str:
    """What a clip is, what of it the model sees, and its motion in numbers."""
    info = clip.info
    parts = [
        f"{info.codec}, {info.width}×{info.height}, {info.duration:.1f} s at {info.average_rate:.4g} fps",
        f"{measured.frames} frames of {grid.width}×{grid.height} px, {grid.rows}×{grid.cols} patches",
    ]
    if measured.source:
        parts.append(
            f"{measured.source}: mean motion {measured.mean_motion:.2f} px, {_percent(measured.moving)} of patches "
            f"move, {_percent(measured.invalid)} have no vector"
        )
    label = f"<p class=mt-answer>“{escape(answer)}”</p>" if answer else ""
    name = escape(Path(clip.path).name)
    return f"<h2 class=mt-name>{name}</h2>{label}<p class=mt-facts>{' · '.join(map(escape, parts))}</p>"


def player(film: str, clip: Clip) -> str:
    """A film of the sampled frames with its controls, for page.js."""
    times = json.dumps([round(float(time), 4) for time in clip.times])
    steps = "".join(
        f'<button type=button data-step="{step}" title="{title}">{label}</button>'
        for step, label, title in ((-1, "◀ frame", "the frame before"), (1, "frame ▶", "the next frame"))
    )
    speeds = "".join(
        f'<button type=button data-speed="{speed}" aria-pressed={str(speed == 1).lower()}>{label}</button>'
        for speed, label in ((0.25, "¼×"), (0.5, "½×"), (1, "1×"), (2, "2×"))
    )
    shown = f'<video src="{film}" autoplay loop muted playsinline controls></video>'
    bar = f"<div class=mt-bar>{steps}<span class=mt-gap></span>{speeds}<output class=mt-time></output></div>"
    return f'<div class=mt-player data-times="{times}">{shown}{bar}{_legend()}</div>'


def _legend() -> str:
    wheel = data_uri(colour_wheel_legend(96))
    return (
        f'<div class=mt-legend><img src="{wheel}" alt="colour wheel: right is red, down yellow, left cyan, up blue">'
        "<p>Colour is direction. A dot moves less than 0.5 px, a cross or a bare patch has no vector.</p></div>"
    )


def compare(said: "MotionPrediction") -> str:
    """A prediction's numbers against its target, and its error over time."""
    if said.field is None or said.target is None:
        return ""
    numbers = said.sums().metrics()
    if "epe" not in numbers:
        return "<p class=mt-facts>No patch has a vector in both.</p>"
    parts = [f"end-point error <strong>{numbers['epe']:.2f} px</strong> (no motion {numbers['epe_zero_motion']:.2f})"]
    if "epe_moving" in numbers:
        parts.append(
            f"moving patches <strong>{numbers['epe_moving']:.2f} px</strong> "
            f"(no motion {numbers['epe_moving_zero_motion']:.2f})"
        )
        parts.append(f"direction right <strong>{_percent(numbers['direction_accuracy'])}</strong>")
    curve = error_curve(said.field, said.target)
    series = {"this model": curve.error, "no motion": curve.no_motion}
    points = {name: np.stack([curve.times, values], axis=-1) for name, values in series.items()}
    drawn = draw_curves(points, "end-point error, px", over="time, s", size=(9.0, 2.6), may_be_log=False)
    data = json.dumps({"box": drawn.box, "limits": drawn.limits})
    cursor = "<div class=mt-cursor hidden></div>"
    return (
        f"<p class=mt-facts>{' · '.join(parts)}</p>"
        f'<figure class=mt-curve data-axis="{escape(data)}" title="click to go there">{drawn.svg}{cursor}</figure>'
    )


def source_table(rows: Sequence[SourceRow]) -> str:
    """All sources of a clip, in numbers."""
    lines = []
    for row in rows:
        one = row.measured
        if one.source:
            cells = [one.source, _percent(one.invalid), _percent(one.moving), f"{one.mean_motion:.2f}"]
            cells += [f"{1000 * row.seconds:.0f}"]
            text = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        else:
            text = f"<td colspan=5>{escape(one.problem)}</td>"
        lines.append(f"<tr><th scope=row>{escape(row.source)}</th>{text}</tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "from", "no vector", "moving", "mean px", "ms"))
    return f"<table class=mt-sources><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


# ---- the page ----


def build(viewer: Viewer) -> Any:
    """Lay the page out: a `gradio.Blocks`."""
    import gradio as gr

    library, settings, model = viewer.library, viewer.settings, viewer.model
    here = Path(__file__).parent
    fonts = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono, radius_size="md")
    sources = [name for name in SOURCES if name != "raft"]
    if settings.options.source not in sources:
        sources.append(settings.options.source)
    hidden: dict[str, Any] = {"show_progress": "hidden"}
    with gr.Blocks(
        title="motiontune view",
        theme=theme,
        css=(here / "page.css").read_text("utf-8"),
        head=f"<script>{(here / 'page.js').read_text('utf-8')}</script>",
        analytics_enabled=False,
        fill_width=True,
    ) as page:
        chosen, scene = gr.State(None), gr.State(None)
        gr.HTML(_header(viewer))
        with gr.Row(elem_classes="mt-main"):
            with gr.Column(scale=5, min_width=420):
                with gr.Row():
                    dataset = gr.Dropdown(
                        library.names, value=settings.dataset, label="Data set", elem_id="dataset", scale=2
                    )
                    words = gr.Textbox(label="Name or answer contains", elem_id="words", scale=2, max_lines=1)
                with gr.Row():
                    kind = gr.Radio(list(KINDS), value="all", label="Show clips that are", elem_id="kind")
                with gr.Accordion(
                    "Measure motion, to find bad clips before training", open=False, elem_id="measuring"
                ):
                    with gr.Row():
                        still = gr.Number(1, label="still: at most % of patches move", minimum=0, maximum=100)
                        invalid = gr.Number(50, label="few vectors: more than % without", minimum=0, maximum=100)
                        most = gr.Number(500, label="measure the first … clips", minimum=1, precision=0)
                    with gr.Row():
                        start = gr.Button("Measure", variant="primary", elem_id="measure")
                        stop = gr.Button("Stop", elem_id="stop")
                progress = gr.HTML(elem_id="progress", padding=False)
                table = gr.Dataframe(
                    headers=_HEADERS,
                    datatype="str",  # a number that is missing would be 0
                    column_widths=list(_WIDTHS),
                    interactive=False,
                    show_label=False,
                    max_height=400,
                    elem_id="clips",
                )
                drop = gr.File(label="Or drop a clip here: it stays on this machine", elem_id="drop", height=110)
            with gr.Column(scale=7, min_width=560):
                with gr.Row():
                    show = gr.Radio(list(_SHOWS), value="arrows", label="Motion as", elem_id="show", scale=3)
                    source = gr.Dropdown(
                        sources,
                        value=settings.options.source,
                        label="Target from",
                        elem_id="source",
                        min_width=120,
                        scale=2,
                    )
                    all_sources = gr.Button("Compare all sources", elem_id="sources", min_width=120, scale=1)
                with gr.Row(visible=model is not None):
                    prompt = gr.Textbox(settings.prompt, label="Question", elem_id="prompt", scale=3, lines=2)
                    answer = gr.Textbox(label="Answer", interactive=False, elem_id="answer", scale=4, lines=2)
                    ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=1, min_width=80)
                begin = status("Choose a clip in the table, or drop one.")
                line = gr.HTML(begin, elem_id="line", padding=False)
                facts, film, details = (gr.HTML(elem_id=name, padding=False) for name in ("facts", "film", "details"))

        filters = [dataset, kind, words, still, invalid, source]
        listed = {"fn": viewer.rows, "inputs": filters, "outputs": [table, progress], **hidden}
        for event in (page.load, dataset.change, kind.change, words.change, still.change, invalid.change):
            event(**listed)
        measuring = start.click(viewer.measure, [dataset, most, source], progress, **hidden)
        measuring.success(**listed)
        stop.click(cancels=[measuring]).then(**listed)

        shown = {"fn": viewer.open, "inputs": [chosen, show, source]}
        shown |= {"outputs": [scene, line, facts, film, details, answer], **hidden}

        def row_chosen(name: str | None, event: gr.SelectData) -> tuple[Any, Any]:
            clip = viewer.clip_of_row(name, int(event.row_value[0]))
            return clip, gr.skip() if clip is None or not clip.prompt else clip.prompt

        def dropped(path: str | None) -> ClipOfSample | None:
            return None if path is None else ClipOfSample(path, "", "")

        table.select(row_chosen, dataset, [chosen, prompt], trigger_mode="always_last", **hidden).then(**shown)
        drop.upload(dropped, drop, chosen, **hidden).then(**shown)
        source.change(**listed).then(**shown)

        def kept(steps: Any) -> Any:
            """Where a step has nothing for an output, what is there stays."""

            def run(*inputs: Any) -> Iterator[Any]:
                for step in steps(*inputs):
                    yield tuple(gr.skip() if value is None else value for value in step)

            return run

        show.change(viewer.redraw, [scene, show], film, **hidden)
        ask.click(
            kept(viewer.ask),
            [chosen, prompt, show, source],
            [scene, line, film, details, answer],
            concurrency_id="model",
            **hidden,
        )
        all_sources.click(kept(viewer.sources), [chosen, show, source], [scene, line, film, details], **hidden)
    return page


def _header(viewer: Viewer) -> str:
    model = viewer.model
    if model is None:
        about = "target motion; start with --model to see a model's beside it"
    else:
        args = model.reader.model_args
        about = (args.adapter_name_or_path or [args.model_name_or_path])[-1]
        about += "" if model.head is not None else " (no motion head: text alone)"
    return f"<header class=mt-header><h1>motiontune view</h1><p>{escape(about)}</p></header>"


# ---- the server ----


class _Guard:
    """Keeps the page to this machine: an ASGI application around another.

    Gradio's page names scripts and fonts of other servers; they are taken out, and every answer tells the browser to
    load nothing from elsewhere.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun: Any = None
        body = bytearray()

        async def guarded(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
                message = {**message, "headers": headers}
                if scope["path"] == "/":
                    begun = message
                    return
            elif begun is not None:
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                page = _ELSEWHERE.sub("", body.decode("utf-8")).encode("utf-8")
                kept = [(name, value) for name, value in begun["headers"] if name.lower() != b"content-length"]
                await send({**begun, "headers": [*kept, (b"content-length", str(len(page)).encode())]})
                message = {**message, "body": page}
            await send(message)

        await self.app(scope, receive, guarded)


@contextlib.contextmanager
def serving(
    library: Library,
    reader: Reader,
    settings: Settings,
    model: "MotionModel | None" = None,
    host: str = LOCAL,
    port: int | None = None,
) -> Iterator[tuple[str, Any]]:
    """Serve the page from a thread while the context lasts.

    Args:
        library: the clips.
        reader: reads them.
        settings: how the page begins.
        model: None for target motion alone.
        host: the address to listen at.
        port: None is the first free one from 7860.

    Yields:
        The page's address, and the thread.

    Raises:
        ConfigError: if the address cannot be had.
    """
    listening = _listen(host, port)
    with tempfile.TemporaryDirectory(prefix="motiontune-view-") as folder:
        uploads, drawn = Path(folder, "uploads"), Path(folder, "films")
        for made in (uploads, drawn):
            made.mkdir()
        before = {key: os.environ.get(key) for key in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")}
        os.environ |= {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            import gradio as gr
            import uvicorn
            from fastapi import FastAPI
            from starlette.middleware.trustedhost import TrustedHostMiddleware
            from starlette.staticfiles import StaticFiles

            library.folders.append(uploads.resolve())
            page = build(Viewer(library, reader, settings, Films(drawn), model))
            app = FastAPI(openapi_url=None)
            app.mount("/films", StaticFiles(directory=drawn))
            if host == LOCAL:  # no name of another site may be made to lead here
                app.add_middleware(TrustedHostMiddleware, allowed_hosts=[LOCAL, "localhost"])
            with contextlib.redirect_stdout(io.StringIO()):  # Gradio prints where it mounts
                app = gr.mount_gradio_app(app, page, "/", show_api=False, ssr_mode=False)
            page.has_launched = True  # else Gradio 5.50 takes the path of any file for that of an uploaded one
            config = uvicorn.Config(_Guard(app), log_level="warning", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            while thread.is_alive() and not server.started:
                time.sleep(0.02)
            try:
                yield f"http://{host}:{listening.getsockname()[1]}/", thread
            finally:
                server.should_exit = True
                thread.join(10)
                library.folders.remove(uploads.resolve())
        finally:
            listening.close()
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


def _listen(host: str, port: int | None) -> socket.socket:
    problem: OSError | None = None
    for number in PORTS if port is None else [port]:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            return listening
        except OSError as error:
            problem = error
            listening.close()
    where = f"--port {port}" if port is not None else f"ports {PORTS.start} to {PORTS.stop - 1}"
    raise ConfigError(f"{host}, {where}: {problem}; choose another --port or --host")


def view(
    library: Library,
    reader: Reader,
    settings: Settings,
    model: "MotionModel | None" = None,
    host: str = LOCAL,
    port: int | None = None,
) -> None:
    """Serve the page until Ctrl+C; the arguments are those of `serving`."""
    print("motiontune view: loading Gradio", flush=True)
    with serving(library, reader, settings, model, host, port) as (address, thread):
        print(f"motiontune view: {address}   (Ctrl+C ends it)", flush=True)
        if host != LOCAL:
            print(
                f"motiontune view: everyone who reaches {host} can see these clips: there is no password", flush=True
            )
        with contextlib.suppress(KeyboardInterrupt):
            thread.join()
