"""How the page is laid out, with Gradio, and which control does what."""

from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from motiontune.datasets.dataset_info import ClipOfSample
from motiontune.motion.sources import SOURCES
from motiontune.viewer.controls import ORDERS, Chosen, Viewer
from motiontune.viewer.library import KINDS
from motiontune.viewer.pieces import status


_SHOWS = ("arrows", "colours", "none")


def build(viewer: Viewer) -> Any:  # Gradio's types are made while it is imported, which no checker can follow
    """Lay the page out: a `gradio.Blocks`."""
    import gradio as gr

    library, settings = viewer.library, viewer.settings
    here = Path(__file__).parent
    fonts = [gr.themes.Font(name) for name in ("system-ui", "sans-serif")]
    mono = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
    theme = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono, radius_size="md", spacing_size="sm"
    )
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
        link, number = gr.Textbox(visible=False), gr.Number(visible=False)
        pick = gr.Button(elem_id="pick", elem_classes="mt-hidden")  # page.js presses it
        gr.HTML(_header(viewer), padding=False)
        with gr.Row(elem_classes="mt-main"):
            with gr.Column(scale=5, min_width=420):
                with gr.Row(elem_id="finding"):
                    dataset = gr.Dropdown(
                        library.names,
                        value=settings.dataset,
                        label="Data set",
                        elem_id="dataset",
                        min_width=140,
                        scale=2,
                    )
                    words = gr.Textbox(label="Containing", elem_id="words", max_lines=1, min_width=140)
                    order = gr.Dropdown(list(ORDERS), value=ORDERS[0], label="Sort by", elem_id="order", min_width=140)
                with gr.Row(elem_id="kinds"):
                    kind = gr.Radio(list(KINDS), value="all", label="Show clips that are", elem_id="kind")
                with gr.Accordion(
                    "Measure motion, to find bad clips before training", open=False, elem_id="measuring"
                ):
                    with gr.Row():
                        still = gr.Number(1, label="still: at most % of patches move", minimum=0, maximum=100)
                        invalid = gr.Number(50, label="few vectors: more than % without", minimum=0, maximum=100)
                        most = gr.Number(500, label="measure the first … clips", minimum=1, precision=0)
                    errors = gr.Checkbox(
                        label="and the model's error (it reads each clip)", visible=viewer.asks, elem_id="errors"
                    )
                    with gr.Row():
                        start = gr.Button("Measure", variant="primary", elem_id="measure")
                        stop = gr.Button("Stop", elem_id="stop")
                trouble = gr.HTML(elem_id="trouble", padding=False)
                progress = gr.HTML(elem_id="progress", padding=False)
                table = gr.HTML(elem_id="clips", padding=False)
                drop = gr.File(label="Or drop a clip here: it stays on this machine", elem_id="drop", height=110)
            with gr.Column(scale=7, min_width=560):
                with gr.Row(elem_id="showing"):
                    show = gr.Radio(
                        list(_SHOWS), value="arrows", label="Motion as", elem_id="show", scale=3, min_width=240
                    )
                    every = gr.Checkbox(label="every frame", elem_id="every", container=False, min_width=110, scale=1)
                    source = gr.Dropdown(
                        sources,
                        value=settings.options.source,
                        label="Target from",
                        elem_id="source",
                        min_width=140,
                        scale=2,
                    )
                    all_sources = gr.Button("Compare all sources", elem_id="sources", min_width=120, scale=1)
                with gr.Row(visible=bool(viewer.models), elem_id="asking"):
                    prompt = gr.Textbox(
                        settings.prompt, label="Question", elem_id="prompt", scale=3, lines=2, visible=viewer.asks
                    )
                    names = [*viewer.models, "", ""]
                    answer, other = (
                        gr.Textbox(
                            label=f"{names[i]} answers" if names[1] else "Answer",
                            interactive=False,
                            elem_id=name,
                            scale=4,
                            lines=2,
                            min_width=200,
                            visible=i < max(1, len(viewer.models)),
                        )
                        for i, name in enumerate(("answer", "answer2"))
                    )
                    ask = gr.Button(
                        "Ask", variant="primary", elem_id="ask", scale=1, min_width=80, visible=viewer.asks
                    )
                begin = status("Choose a clip in the table, or drop one.")
                line = gr.HTML(begin, elem_id="line", padding=False)
                facts, film, details = (gr.HTML(elem_id=name, padding=False) for name in ("facts", "film", "details"))

        filters = [dataset, kind, words, still, invalid, source, order, chosen]
        listed = {"fn": viewer.rows, "inputs": filters, "outputs": [table, progress], **hidden}
        shown = {"fn": _kept(viewer.open), "inputs": [chosen, show, source, every]}
        opened = [view, line, facts, film, details, answer, other]
        shown |= {"outputs": opened, "trigger_mode": "always_last", **hidden}
        # always_last: who holds an arrow key down sees the clip that it ends at
        for event in (kind.change, words.change, order.change, still.change, invalid.change):
            event(**listed)

        def asked(clip: Chosen | None) -> Any:
            """The question of a clip, where it has one."""
            return gr.skip() if clip is None or not clip.clip.prompt else clip.clip.prompt

        def begins(end: str) -> tuple[Any, ...]:
            name, clip, problem = viewer.begin(end)
            return name, clip, asked(clip), problem

        def first(name: str | None) -> tuple[Chosen | None, Any]:
            return (clip := viewer.first(name)), asked(clip)

        def row_chosen(name: str | None, row: float) -> tuple[Chosen | None, Any]:
            return (clip := viewer.clip_of_row(name, int(row))), asked(clip)

        def dropped(path: str | None) -> Chosen | None:
            return None if path is None else Chosen(ClipOfSample(path, "", ""))

        ends = {"js": "() => [location.search]", **hidden}
        begun = page.load(begins, link, [dataset, chosen, prompt, trouble], **ends)
        begun.then(**listed).then(**shown)
        dataset.input(first, dataset, [chosen, prompt], **hidden).then(**listed).then(**shown)
        picked = {"js": "(name, _) => [name, motiontune.picked]", "trigger_mode": "always_last", **hidden}
        pick.click(row_chosen, [dataset, number], [chosen, prompt], **picked).then(**shown)
        drop.upload(dropped, drop, chosen, **hidden).then(**shown)
        source.change(**listed).then(**shown)

        measured_by = {"concurrency_id": "model"} if viewer.asks else {}
        measuring = start.click(viewer.measure, [dataset, most, source, errors], progress, **measured_by, **hidden)
        measuring.success(**listed)
        stop.click(cancels=[measuring]).then(**listed)
        for event in (show.change, every.change):
            event(viewer.redraw, [view, show, every], film, **hidden)
        ask.click(
            _kept(viewer.ask), [chosen, prompt, show, source, every], opened, concurrency_id="model", **hidden
        ).then(**listed)
        compared = [view, line, film, details]
        all_sources.click(_kept(viewer.sources), [chosen, show, source, every], compared, **hidden)
    return page


def _kept(steps: Callable[..., Iterator[tuple[object, ...]]]) -> Callable[..., Iterator[tuple[object, ...]]]:
    """Where a step has nothing for an output, what is there stays."""
    import gradio as gr

    def run(*inputs: object) -> Iterator[tuple[object, ...]]:
        for step in steps(*inputs):
            yield tuple(gr.skip() if value is None else value for value in step)

    return run


def _header(viewer: Viewer) -> str:
    if not viewer.models:
        about = "target motion; start with --model to see a model's beside it"
    else:
        about = " beside ".join(
            name + ("" if model.has_head else " (no dense motion: text alone)")
            for name, model in viewer.models.items()
        )
    return f"<header class=mt-header><h1>motiontune view</h1><p>{escape(about)}</p></header>"
