"""The web demo: `python app.py`, then http://localhost:7860. One clip, one question, two answers side by side.

`python app.py --model videollama2.1-av --checkpoint DIR` begins with another model; `--help` lists what can be set.
Layout and wiring only; the work is done by fastav.session, the drawing by fastav.plots. Neither torch nor transformers is
imported here: the page comes first, the model is loaded in a thread behind it.
"""

from __future__ import annotations

import argparse
import functools
import gc
import html
import mimetypes
import os
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
import gradio as gr  # noqa: E402  after the switch above, which it reads at import

from fastav import methods, models, plots  # noqa: E402
from fastav.errors import UserError  # noqa: E402
from fastav.models import arguments  # noqa: E402
from fastav.result import Comparison  # noqa: E402

try:  # ZeroGPU lends its GPU to functions marked like this; elsewhere the package is missing or does nothing
    import spaces

    gpu = spaces.GPU(duration=60)
except ImportError:

    def gpu(handler):
        return handler


ASSETS = Path(__file__).parent / "assets"
_PARSER = argparse.ArgumentParser(prog="python app.py", description="Serve the page.")
arguments.add(_PARSER)
GIVEN = _PARSER.parse_args(None if __name__ == "__main__" else [])  # a server that imports the page has arguments of its own
DEFAULT_MODEL = GIVEN.model
MAX_QUESTION = 500  # characters
NO_WORDS = "(the model ended its answer without a word)"
CLIPS = sorted(str(path) for path in (ASSETS / "examples").glob("*.*") if path.suffix in (".mp4", ".webm", ".wav", ".mp3"))
QUESTIONS = (
    "Is the bell making sound in the audio?",
    "Is the car visible in the video?",
    "Are the contexts of audio and visual content matching?",
    "What color is the car?",
    "How many objects are visible?",
    "Describe what you see and hear in a single sentence.",
)
RULES = [
    ("keep what the model's rule keeps", "model"),
    ("keep all", "all"),
    ("keep the first 750 positions", "first(750)"),
    ("remove all audio and video", "none"),
    ("remove at random", "random"),
    ("remove most attended", "top-attentive"),
    ("remove least attended", "low-attentive"),
    ("remove most informative", "top-informative"),
    ("remove least informative", "low-informative"),
]
FINE = [("remove least attended", "low"), ("remove most attended", "top"), ("remove at random", "random")]
ABOUT = (
    "The built-in model, FastAV-tiny, knows a small drawn world: simple objects and the sounds they make. "
    "It cannot understand real-life footage."
)


class Sessions:
    """The loaded model; one at a time, because two large ones may not fit. Safe to ask from several threads."""

    def __init__(self):
        self._lock = threading.Lock()
        self._session = None

    def get(self, name: str):
        """The session of model `name`, loaded when it is first asked for. Raises UserError when it cannot be.

        Device, dtype and attention are those of the command line; checkpoint, revision and device map are for its model alone.
        """
        models.check_name(name)
        with self._lock:
            if self._session is None or self._session.model_name != name:
                from fastav import session

                self._session = None
                gc.collect()  # its memory goes before the next model comes
                options = arguments.options(GIVEN)
                if name != GIVEN.model:
                    options |= {"revision": None, "device_map": None}
                self._session = session.load(name, GIVEN.checkpoint if name == GIVEN.model else None, **options)
            return self._session

    def preload(self) -> None:
        """Load the default model ahead of the first question; what fails here is told when somebody asks."""
        try:
            self.get(DEFAULT_MODEL)
        except UserError as error:
            print(f"the default model is not loaded: {error}")


sessions = Sessions()


@functools.lru_cache(maxsize=2)
def read(model: str, path: str):
    """The decoded clip; the preview and the run after it share one decoding. Uploads lie at a path named by their content."""
    return sessions.get(model).read(path)


def toasts(handler):
    """Show a UserError of this generator as a toast with its text."""

    @functools.wraps(handler)
    def run(*args):
        try:
            yield from handler(*args)
        except UserError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return run


def checked(file: str | None, question: str | None, model: str, *setting):
    """(session, clip, question, method) of one request, after every check that a browser or an API client could have skipped."""
    question = (question or "").strip()
    if not file:
        raise UserError("There is no clip yet: add a video or audio file, or pick an example.")
    if not question:
        raise UserError("The question is empty: ask something about the clip.")
    if len(question) > MAX_QUESTION:
        raise UserError(f"The question has {len(question)} characters; at most {MAX_QUESTION} are allowed.")
    session = sessions.get(model)
    method = str(methods.parse(method_text(*setting), session.n_layers))
    return session, read(model, file), question, method


def method_text(start: float, p: float, rule: str, fine: str, trim: bool = False) -> str:
    """The settings as the text form that the command line and the share link use. Raises UserError for impossible ones."""
    method = methods.FastAV(start=int(start), p=int(p), rule=rule, fine=fine)
    return str(methods.Trim(method) if trim else method)


def status(text: str) -> str:
    return f'<p class="fa-status" role="status"><i></i>{html.escape(text)}</p>'


def timed(name: str, result) -> str:
    return f"{name} · first token after {result.prefill_sec * 1e3:,.0f} ms"


def problem(error: UserError) -> str:
    """Stays on the page after the toast has gone."""
    return f'<p class="fa-status">{html.escape(str(error))}</p>'


def shown(comparison: Comparison, clip) -> dict:
    """Both answers and every figure of a comparison, by component."""
    vanilla, pruned = comparison.vanilla, comparison.pruned
    return {
        vanilla_box: gr.update(value=vanilla.answer or NO_WORDS, label=timed("Vanilla", vanilla)),
        pruned_box: gr.update(value=pruned.answer or NO_WORDS, label=timed("FastAV", pruned)),
        headline_box: f'<p class="fa-headline" role="status">{html.escape(plots.headline(comparison))}</p>'
        f'<p class="fa-conditions">{html.escape(plots.conditions(pruned))}</p>',
        results: gr.update(visible=True),
        map_box: plots.token_map(pruned, clip.frames),
        table_box: plots.table(comparison),
    }


@toasts
def preview(file: str | None, model: str) -> Iterator[dict | None]:
    """What was uploaded: a player at once, then the frames that the model sees."""
    if not file:
        yield None
        return
    guess = "audio" if (mimetypes.guess_type(file)[0] or "").startswith("audio") else "video"
    yield {"path": file, "kind": guess, "pictures": [], "facts": "Reading the clip"}
    try:
        clip = read(model, file)
    except UserError as error:
        yield {"path": file, "kind": "unreadable", "pictures": [], "facts": str(error)}
        raise
    missing = ["" if clip.has_video else "no video", "" if clip.has_audio else "no sound"]
    seen = f"the model sees these {len(clip.frames)} frames" if clip.has_video else ""
    yield {
        "path": file,
        "kind": "video" if clip.has_video else "audio",
        "pictures": plots.thumbnails(clip.frames, min(len(clip.frames), 16)),
        "facts": " · ".join(filter(None, [clip.name, f"{clip.duration_sec:.1f} s", seen, *missing, *clip.notes])),
    }


@gpu
@toasts
def compare(file, question: str, model: str, start: float, p: float, rule: str, fine: str, trim: bool = False) -> Iterator[dict]:
    """Stream the vanilla answer, then the pruned one, then the figures.

    Closing the generator, which is what Stop does, ends the run at the next token.
    """
    # Every step repeats both boxes in full: text that only grows reaches the page as short additions.
    boxes = {vanilla_box: gr.update(value="", label="Vanilla"), pruned_box: gr.update(value="", label="FastAV")}
    yield boxes | {headline_box: status("Reading the clip (1 of 3)"), results: gr.update(visible=False)}
    try:
        session, clip, question, method = checked(file, question, model, start, p, rule, fine, trim)
        finished = []
        for step, box, name, text in ((2, vanilla_box, "Vanilla", "vanilla"), (3, pruned_box, "FastAV", method)):
            now = {headline_box: status(f"{name} is answering ({step} of 3)")}
            yield boxes | now
            with closing(session.stream(clip, question, text)) as pieces:
                for piece in pieces:
                    if isinstance(piece, str):
                        boxes[box] = gr.update(value=piece, label=name)
                        yield boxes | now
                    else:
                        finished.append(piece)
        yield shown(Comparison(*finished), clip)
    except UserError as error:
        yield {headline_box: problem(error)}
        raise


@gpu
@toasts
def measure(file, question: str, model: str, start: float, p: float, rule: str, fine: str, trim: bool = False) -> Iterator[dict]:
    """The same comparison with timings to rely on: medians of interleaved repeats."""
    yield {headline_box: status("Measuring: both ways in turn, five times each. This takes longer than a single run.")}
    try:
        session, clip, question, method = checked(file, question, model, start, p, rule, fine, trim)
        yield shown(session.measure(clip, question, method), clip)
    except UserError as error:
        yield {headline_box: problem(error)}
        raise


def fit(model: str, method: str | None = None) -> dict:
    """The controls as this model allows them, set to `method` or to the model's default.

    Raises UserError for a method that does not fit.
    """
    session = sessions.get(model)
    chosen = methods.parse(method or session.default_method, session.n_layers)
    trim = isinstance(chosen, methods.Trim)
    chosen = chosen.inner if trim else chosen
    if not isinstance(chosen, methods.FastAV) or not 0 <= chosen.p <= 90:
        raise UserError(f"the link asks for {method!r}; the page can show fastav and trim+fastav with p from 0 to 90")
    plain = methods.FastAV(start=chosen.start, p=chosen.p, rule=chosen.rule, fine=chosen.fine)
    if method and chosen != plain:
        raise UserError(f"the link asks for {method!r}; of its settings the page has start, p, rule and fine")
    return {
        method_box: str(methods.Trim(plain) if trim else plain),
        trim_box: trim,
        start_box: gr.update(maximum=session.n_layers - 1, value=chosen.start),
        p_box: chosen.p,
        rule_box: chosen.rule,
        fine_box: chosen.fine,
        about_box: session.about,
    }


@toasts
def describe(*setting) -> Iterator[str]:
    yield method_text(*setting)


@toasts
def change_model(model: str) -> Iterator[dict]:
    yield fit(model)


@toasts
def restore(request: gr.Request) -> Iterator[dict]:
    """Fill the page from the address (?model=...&method=...&question=...), after checking each part."""
    asked = dict(request.query_params)
    model = asked.get("model", DEFAULT_MODEL)
    question = asked.get("question", "")[:MAX_QUESTION]
    if question:
        yield {question_box: question}
    yield {model_box: model} | fit(model, asked.get("method"))


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


def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


with gr.Blocks(title="FastAV", delete_cache=(600, 3600), analytics_enabled=False) as demo:
    gr.Markdown("# **FastAV** fewer tokens, the same model")
    about_box = gr.Markdown(ABOUT, elem_classes="fa-about")
    with gr.Row(equal_height=False):
        with gr.Column(min_width=300):
            file_box = gr.File(label="Clip: video or audio", file_types=["video", "audio"], height=150, elem_id="clip")
            preview_box = gr.HTML(None, html_template=asset("preview.html"), js_on_load=asset("preview.js"), elem_id="preview")
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
                model_box = gr.Dropdown(models.names(), value=DEFAULT_MODEL, label="Model")
                with gr.Row():
                    # Any first(N) may be typed.
                    rule_box = gr.Dropdown(
                        RULES, value="model", label="Once, at the start layer", allow_custom_value=True, min_width=220
                    )
                    fine_box = gr.Dropdown(FINE, value="low", label="After every layer from there", min_width=220)
                with gr.Row():
                    # 4 of 8 layers is FastAV-tiny; `fit` sets the limits of the model at hand.
                    start_box = gr.Slider(1, 7, value=4, step=1, label="Start layer", min_width=220, buttons=[])
                    p_box = gr.Slider(0, 90, value=20, step=1, label="Percent per layer (P)", min_width=220, buttons=[])
                trim_box = gr.Checkbox(label="Before the decoder: leave out encoded audio padding (trim)")
                method_box = gr.Textbox(
                    method_text(4, 20, "model", "low"), label="As text", interactive=False, buttons=["copy"], elem_id="method"
                )
                share_button = gr.Button("Link to these settings", size="sm")
    with gr.Row():
        with gr.Column(min_width=300):  # a column each, or gradio joins the two boxes into one
            vanilla_box = gr.Textbox(label="Vanilla", lines=3, interactive=False, elem_classes="fa-answer", elem_id="vanilla")
        with gr.Column(min_width=300):
            pruned_box = gr.Textbox(label="FastAV", lines=3, interactive=False, elem_classes="fa-answer", elem_id="pruned")
    headline_box = gr.HTML("", elem_id="headline")
    with gr.Row(visible=False) as results:
        with gr.Column(scale=3, min_width=300):
            map_box = gr.HTML(None, html_template=asset("token_map.html"), js_on_load=asset("token_map.js"), elem_id="map")
        with gr.Column(scale=2, min_width=300):
            table_box = gr.HTML("", elem_id="figures")

    settings = [start_box, p_box, rule_box, fine_box, trim_box]
    inputs = [file_box, question_box, model_box, *settings]
    outputs = [vanilla_box, pruned_box, headline_box, results, map_box, table_box]
    one_at_a_time = {"concurrency_id": "device", "concurrency_limit": 1, "show_progress_on": headline_box}
    run = gr.on([run_button.click, question_box.submit], compare, inputs, outputs, api_name="compare", **one_at_a_time)
    measured = measure_button.click(measure, inputs, outputs, api_name="measure", **one_at_a_time)
    stopped = '<p class="fa-status">Stopped.</p>'
    stop_button.click(lambda: stopped, None, headline_box, cancels=[run, measured], queue=False, api_visibility="private")
    file_box.change(preview, [file_box, model_box], preview_box, show_progress="minimal", api_visibility="private")
    gr.on(
        [box.input for box in settings], describe, settings, method_box,
        trigger_mode="always_last", show_progress="hidden", api_visibility="private",
    )  # fmt: skip
    fitted = [*settings, method_box, about_box]
    model_box.input(change_model, model_box, fitted, api_visibility="private")
    share_button.click(None, [model_box, method_box, question_box], None, js=SHARE)
    demo.load(restore, None, [question_box, model_box, *fitted], show_progress="hidden", api_visibility="private")
demo.queue(max_size=64)

if os.environ.get("SPACES_ZERO_GPU"):
    sessions.preload()  # there a handler runs in a forked process: what is loaded in it is lost

if __name__ == "__main__":
    port = int(os.environ.get("GRADIO_SERVER_PORT", 7860))
    look = {"theme": THEME, "css": asset("page.css"), "footer_links": ["api"]}
    demo.launch(server_port=port, max_file_size="200mb", prevent_thread_lock=True, **look)
    threading.Thread(target=sessions.preload, daemon=True).start()
    demo.block_thread()
