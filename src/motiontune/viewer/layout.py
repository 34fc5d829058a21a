"""How the page is laid out, with Gradio, and which control does what."""

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from motiontune.datasets.dataset_info import ClipOfSample
from motiontune.motion.sources import SOURCES
from motiontune.viewer.controls import Viewer
from motiontune.viewer.library import KINDS
from motiontune.viewer.pieces import status


_SHOWS = ("arrows", "colours", "none")
_HEADERS = ["#", "clip", "answer, or what is wrong", "moving %", "no vector %", "mean px", "source"]
_WIDTHS: list[str | int] = ["52px", "136px", "232px", "92px", "110px", "86px", "120px"]


def build(viewer: Viewer) -> Any:  # Gradio's types are made while it is imported, which no checker can follow
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
    hidden = {"show_progress": "hidden"}
    with gr.Blocks(
        title="motiontune view",
        theme=theme,
        css=(here / "page.css").read_text("utf-8"),
        head=f"<script>{(here / 'page.js').read_text('utf-8')}</script>",
        analytics_enabled=False,
        fill_width=True,
    ) as page:
        chosen, view = gr.State(None), gr.State(None)
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
        shown |= {"outputs": [view, line, facts, film, details, answer], **hidden}

        def row_chosen(name: str | None, event: gr.SelectData) -> tuple[ClipOfSample | None, Any]:
            clip = viewer.clip_of_row(name, int(event.row_value[0]))
            return clip, gr.skip() if clip is None or not clip.prompt else clip.prompt

        def dropped(path: str | None) -> ClipOfSample | None:
            return None if path is None else ClipOfSample(path, "", "")

        table.select(row_chosen, dataset, [chosen, prompt], trigger_mode="always_last", **hidden).then(**shown)
        drop.upload(dropped, drop, chosen, **hidden).then(**shown)
        source.change(**listed).then(**shown)

        def kept(steps: Callable[..., Iterator[tuple[object, ...]]]) -> Callable[..., Iterator[tuple[object, ...]]]:
            """Where a step has nothing for an output, what is there stays."""

            def run(*inputs: object) -> Iterator[tuple[object, ...]]:
                for step in steps(*inputs):
                    yield tuple(gr.skip() if value is None else value for value in step)

            return run

        show.change(viewer.redraw, [view, show], film, **hidden)
        ask.click(
            kept(viewer.ask),
            [chosen, prompt, show, source],
            [view, line, film, details, answer],
            concurrency_id="model",
            **hidden,
        )
        all_sources.click(kept(viewer.sources), [chosen, show, source], [view, line, film, details], **hidden)
    return page


def _header(viewer: Viewer) -> str:
    model = viewer.model
    if model is None:
        about = "target motion; start with --model to see a model's beside it"
    else:
        about = model.name + ("" if model.has_head else " (no dense motion: text alone)")
    return f"<header class=mt-header><h1>motiontune view</h1><p>{escape(about)}</p></header>"
