"""The web demo: `python app.py`, then http://localhost:7860. One clip, one question, two answers side by side.

`python app.py --model videollama2.1-av --checkpoint DIR` begins with another model; `--help` lists what can be set.
Layout and wiring only; fastav.page checks and runs what is asked for, fastav.session answers, fastav.page.view draws. Neither
torch nor transformers is imported here: the page comes first, the model is loaded in a thread behind it.
"""

from __future__ import annotations

import functools
import html
import inspect
import os
import sys
from contextlib import closing
from pathlib import Path

from fastav.page import command, request
from fastav.page.sessions import Sessions

# A server that imports the page has arguments of its own. Ours are checked before gradio's seconds of import.
sessions = command.begin(sys.argv[1:]) if __name__ == "__main__" else Sessions(command.parse([]))

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
import gradio as gr  # noqa: E402  after the switch above, which it reads at import

from fastav.page.controls import Controls  # noqa: E402  it imports gradio
from fastav.page.handlers import Handlers  # noqa: E402

ASSETS = Path(__file__).parent / "assets"
MAX_QUESTION = request.MAX_QUESTION
CLIPS = sorted(str(path) for path in (ASSETS / "examples").glob("*.*") if path.suffix in (".mp4", ".webm", ".wav", ".mp3"))
QUESTIONS = (
    "Is the bell making sound in the audio?",
    "Is the car visible in the video?",
    "Are the contexts of audio and visual content matching?",
    "What color is the car?",
    "How many objects are visible?",
    "Describe what you see and hear in a single sentence.",
)
ABOUT = (
    "The built-in model, FastAV-tiny, knows a small drawn world: simple objects and the sounds they make. "
    "It cannot understand real-life footage."
)

handlers = Handlers(sessions)


def named(values: dict) -> dict:
    return {BOXES[name]: value for name, value in values.items()}


def boxed(handler):
    """The same handler with boxes for their names."""

    @functools.wraps(handler)
    def once(*args):
        return named(handler(*args))

    @functools.wraps(handler)
    def steps(*args):
        with closing(handler(*args)) as shown:
            yield from map(named, shown)

    return steps if inspect.isgeneratorfunction(handler) else once


preview = handlers.preview  # of one box
compare, measure = boxed(handlers.compare), boxed(handlers.measure)
choose, change_model = boxed(handlers.choose), boxed(handlers.change_model)
asked, restore, own_model = boxed(handlers.asked), boxed(handlers.restore), boxed(handlers.own_model)

THEME = gr.themes.Base(
    primary_hue="orange",
    neutral_hue="stone",
    radius_size="md",
    font=[gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")],
    font_mono=[gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")],
)  # its colours are set in page.css
SHARE = """(model, method, question) => {
  const link = new URL(location.pathname, location.origin);
  for (const [name, value] of Object.entries({model, method, question})) if (value) link.searchParams.set(name, value);
  history.replaceState(null, "", link);
  if (navigator.clipboard) navigator.clipboard.writeText(link.href).catch(() => {});
  return [];
}"""


def part(name: str) -> str:
    return (Path(command.__file__).parent / name).read_text(encoding="utf-8")


class Page(gr.Blocks):
    """What no browser sends but an API client can is refused in one sentence; gradio's own refusal is a traceback in the log."""

    async def preprocess_data(self, block_fn, inputs, *more, **options):
        n = len(block_fn.inputs)
        if len(inputs) != n:
            names = ", ".join(inspect.signature(block_fn.fn).parameters)
            raise gr.Error(f"expected {n} values ({names}), got {len(inputs)}", print_exception=False)
        try:
            return await super().preprocess_data(block_fn, inputs, *more, **options)
        except Exception as error:  # of all inputs the handlers check themselves, but for the clip
            reason = html.escape(str(error).partition("\n")[0][:200])
            raise gr.Error(f"the clip must be a file that was uploaded to this page ({reason})", print_exception=False) from error


with Page(title="FastAV", delete_cache=(600, 3600), analytics_enabled=False) as demo:
    gr.Markdown("# **FastAV** fewer tokens, the same model")
    about_box = gr.Markdown(ABOUT, elem_classes="fa-about")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            file_box = gr.File(label="Clip: video or audio", file_types=["video", "audio"], height=150, elem_id="clip")
            preview_box = gr.HTML(None, html_template=part("preview.html"), js_on_load=part("preview.js"), elem_id="preview")
            if CLIPS:
                gr.Examples([[clip] for clip in CLIPS], file_box, label="Example clips")
        with gr.Column(min_width=300):
            question_box = gr.Textbox(
                label="Question", placeholder=QUESTIONS[0], max_length=MAX_QUESTION, lines=2, elem_id="question"
            )
            gr.Examples([[question] for question in QUESTIONS], question_box, label="Example questions")
            with gr.Row():
                run_button = gr.Button("Run", variant="primary", min_width=70)
                stop_button = gr.Button("Stop", min_width=70)
                measure_button = gr.Button("Measure", min_width=70)
            with gr.Accordion("Pruning settings", open=False):
                model_box = gr.Dropdown(sessions.offered, value=sessions.given.model, label="Model")
                # FastAV-tiny has 8 layers; `fit` sets the limits of the model at hand.
                controls = Controls("fastav", n_layers=8)
                method_box = gr.Textbox(
                    str(request.method("fastav", n_layers=8)),
                    label="As text",
                    interactive=False,
                    buttons=["copy"],
                    elem_id="method",
                )
                share_button = gr.Button("Link to these settings", size="sm")
    with gr.Row():
        with gr.Column(min_width=300):  # a column each, or gradio joins the two boxes into one
            vanilla_box = gr.Textbox(label="Vanilla", lines=3, interactive=False, elem_classes="fa-answer", elem_id="vanilla")
        with gr.Column(min_width=300):
            pruned_box = gr.Textbox(label="Pruned", lines=3, interactive=False, elem_classes="fa-answer", elem_id="pruned")
    headline_box = gr.HTML("", elem_id="headline")
    with gr.Row(visible=False) as results:
        with gr.Column(scale=3, min_width=300):
            map_box = gr.HTML(None, html_template=part("token_map.html"), js_on_load=part("token_map.js"), elem_id="map")
        with gr.Column(scale=2, min_width=300):
            table_box = gr.HTML("", elem_id="figures")

    BOXES = {
        "about": about_box, "question": question_box, "model": model_box, "method": method_box, "vanilla": vanilla_box,
        "pruned": pruned_box, "headline": headline_box, "results": results, "map": map_box, "table": table_box, **controls.boxes,
    }  # fmt: skip
    inputs = [file_box, question_box, model_box, method_box]
    outputs = [vanilla_box, pruned_box, headline_box, results, map_box, table_box]
    raw = {"preprocess": False}  # the handlers check: gradio would cut, round or end in a traceback
    timed_runs = {"concurrency_id": "device", "concurrency_limit": 1, "show_progress_on": headline_box, **raw}
    run = gr.on([run_button.click, question_box.submit], compare, inputs, outputs, api_name="compare", **timed_runs)
    measured = measure_button.click(measure, inputs, outputs, api_name="measure", **timed_runs)
    stopped = '<p class="fa-status">Stopped.</p>'
    stop_button.click(lambda: stopped, None, headline_box, cancels=[run, measured], queue=False, api_visibility="private")
    file_box.change(preview, [file_box, model_box], preview_box, show_progress="minimal", api_visibility="private", **raw)
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    fitted = [*controls.boxes.values(), method_box, about_box]
    name_box, rows = controls.boxes["name"], [box for name, box in controls.boxes.items() if name.endswith(":")]
    gr.on([box.input for box in controls.inputs], None, controls.inputs, method_box, js=controls.write)
    name_box.input(choose, name_box, rows, **quiet, **raw)
    model_box.input(change_model, model_box, fitted, api_visibility="private", **raw)
    share_button.click(None, [model_box, method_box, question_box], None, js=SHARE)
    demo.load(asked, None, question_box, **quiet)
    demo.load(restore, None, [model_box, *fitted], **quiet).failure(own_model, None, fitted, **quiet)
demo.queue(max_size=64)

if os.environ.get("SPACES_ZERO_GPU"):
    sessions.preload()  # there a handler runs in a forked process: what is loaded in it is lost

if __name__ == "__main__":
    look = {"theme": THEME, "css": part("page.css"), "footer_links": ["api"]}
    command.serve(demo, sessions, max_file_size="200mb", **look)
