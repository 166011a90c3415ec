"""The page's handlers, called directly with a stub session. Oracle: what the stub was asked and gave."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from test_plots import PRUNED_SEEN, make_comparison, make_result

import app
from fastav.errors import UserError
from fastav.media import clip_from_arrays

SETTINGS = ("tiny", 4, 20, "model", "low")
TEXT = "fastav:start=4,p=20,rule=model,fine=low,protect=text,seed=0"


class StubSession:
    """Answers in two pieces and remembers what it was asked."""

    model_name, n_layers, default_method, about = "tiny", 8, TEXT, "knows nothing"

    def __init__(self):
        self.asked, self.reads, self.n_running = [], 0, 0

    def read(self, path):
        self.reads += 1
        if "bad" in path:
            raise UserError("bad.mp4: not a clip")
        return clip_from_arrays(np.zeros((8, 12, 16, 3), np.uint8), 2, np.zeros(64000, np.float32), name="bell.mp4")

    def stream(self, clip, question, method):
        self._ask(question, method)
        self.n_running += 1
        try:
            yield "yes"
            yield "yes it is"
            seen = {} if method == "vanilla" else {"layers_seen": PRUNED_SEEN, "lengths": (15, 15, 8, 7)}
            yield replace(make_result(**seen), answer="yes it is", method=method, question=question)
        finally:
            self.n_running -= 1

    def measure(self, clip, question, method):
        self._ask(question, method)
        return make_comparison(n_repeats=5, n_new_tokens=32)

    def _ask(self, question, method):
        self.asked.append((question, method))
        if "unicorn" in question:
            raise UserError("unknown word 'unicorn'")


@pytest.fixture
def session(monkeypatch):
    stub = StubSession()
    monkeypatch.setattr(app, "sessions", SimpleNamespace(get=lambda name: stub))
    app.read.cache_clear()
    return stub


def collect(generator, steps):
    """What was shown stays in `steps` also when the generator raises."""
    for step in generator:
        steps.append(step)


def last(steps, box):
    """What a box shows in the end."""
    values = [step[box] for step in steps if box in step]
    return values[-1]["value"] if isinstance(values[-1], dict) and "value" in values[-1] else values[-1]


def test_importing_the_page_imports_nothing_heavy():
    """A fresh interpreter: torch alone would cost the first page two seconds, transformers five."""
    code = "import app, sys; print([m for m in ('torch', 'transformers', 'fvcore', 'accelerate', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=app.ASSETS.parent)
    assert done.stdout.strip() == "[]"


def test_both_answers_stream_and_the_figures_follow(session):
    steps = list(app.compare("bell.mp4", " Is the bell visible? ", *SETTINGS))
    assert session.asked == [("Is the bell visible?", "vanilla"), ("Is the bell visible?", TEXT)]
    for box in (app.vanilla_box, app.pruned_box):
        assert list(dict.fromkeys(step[box]["value"] for step in steps)) == ["", "yes", "yes it is"]
    assert last(steps, app.pruned_box) == "yes it is"
    assert "same answer" in last(steps, app.headline_box) and "single run" in last(steps, app.headline_box)
    assert last(steps, app.map_box)["lengths"] == [15, 15, 8, 7]
    assert "Prefill FLOPs" in last(steps, app.table_box)
    assert steps[0][app.results]["visible"] is False and steps[-1][app.results]["visible"] is True


def test_measured_figures_say_that_they_are_medians(session):
    steps = list(app.measure("bell.mp4", "Is the bell visible?", *SETTINGS))
    assert "median of 5 runs" in last(steps, app.headline_box)


def test_preview_and_run_decode_once(session):
    at_once, shown = app.preview("bell.mp4", "tiny")
    list(app.compare("bell.mp4", "Is the bell visible?", *SETTINGS))
    assert session.reads == 1
    assert at_once["kind"] == shown["kind"] == "video"
    assert len(shown["pictures"]) == 8 and shown["facts"].startswith("bell.mp4 · 4.0 s")


def test_closing_the_generator_ends_the_run(session):
    """Gradio closes the generator on Stop and when the tab is closed; the session's own generator has to end with it."""
    steps = app.compare("bell.mp4", "Is the bell visible?", *SETTINGS)
    while not session.n_running:
        next(steps)
    steps.close()
    assert session.n_running == 0 and len(session.asked) == 1


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ((None, "What?", *SETTINGS), "no clip yet"),
        (("bell.mp4", "  ", *SETTINGS), "question is empty"),
        (("bell.mp4", "x" * 501, *SETTINGS), "at most 500"),
        (("bell.mp4", "What?", "tiny", 8, 20, "model", "low"), "from 1 to 7"),
        (("bell.mp4", "What?", "tiny", 4, 101, "model", "low"), "from 0 to 100"),
        (("bell.mp4", "What?", "tiny", 4, 20, "first(x)", "low"), "unknown rule"),
        (("bell.mp4", "What?", "tiny", 4, 20, "model", "plan=/etc/passwd"), "unknown fine"),
        (("bad.mp4", "What?", *SETTINGS), "not a clip"),
        (("bell.mp4", "Is the unicorn visible?", *SETTINGS), "unknown word"),
    ],
)
@pytest.mark.parametrize("handler", ["compare", "measure"])
def test_what_a_person_can_fix_is_a_toast_and_stays_on_the_page(session, handler, request_, said):
    steps = []
    with pytest.raises(gr.Error, match=said) as error:
        collect(getattr(app, handler)(*request_), steps)
    assert not error.value.print_exception
    assert said in last(steps, app.headline_box)


def test_markup_in_an_error_is_escaped(session):
    steps = []
    with pytest.raises(gr.Error) as error:
        collect(app.compare("bell.mp4", "What?", "tiny", 4, 20, "<img src=x onerror=alert(1)>", "low"), steps)
    assert "<img" not in error.value.message and "<img" not in last(steps, app.headline_box)


def restored(**query):
    steps = list(app.restore(SimpleNamespace(query_params=query)))
    return {box: value for step in steps for box, value in step.items()}


def test_a_share_link_fills_the_page(session):
    method = "fastav:start=3,p=35,rule=first(200),fine=top"
    page = restored(model="tiny", method=method, question="What <b>is</b> it?")
    assert page[app.question_box] == "What <b>is</b> it?"
    assert page[app.start_box]["value"] == 3 and page[app.start_box]["maximum"] == 7
    assert (page[app.p_box], page[app.rule_box], page[app.fine_box]) == (35, "first(200)", "top")
    assert page[app.method_box] == method + ",protect=text,seed=0"


def test_trim_is_a_setting_that_runs_and_travels_in_the_link(session):
    page = restored(method="trim+fastav:start=3,p=35")
    assert page[app.trim_box] is True and page[app.method_box].startswith("trim+fastav:start=3,p=35,rule=model")
    list(app.compare("bell.mp4", "What?", *SETTINGS, True))
    assert session.asked[-1] == ("What?", "trim+" + TEXT)
    assert restored()[app.trim_box] is False


def test_a_model_and_its_checkpoint_come_from_the_command_line(monkeypatch):
    """The given checkpoint is for the given model alone."""
    asked = []
    monkeypatch.setattr("fastav.session.load", lambda *a, **k: asked.append((a, k)) or SimpleNamespace(model_name=a[0]))
    monkeypatch.setattr(
        app, "GIVEN", app._PARSER.parse_args(["--model", "video-salmonn-2", "--checkpoint", "x", "--dtype", "float32"])
    )
    sessions = app.Sessions()
    sessions.get("video-salmonn-2")
    sessions.get("tiny")
    (first, options), second = asked
    assert first == ("video-salmonn-2", "x") and options["dtype"] == "float32"
    assert second[0] == ("tiny", None)
    assert second[1] == {"revision": None, "device": None, "dtype": "float32", "device_map": None, "attn": None}


def test_choosing_a_model_whose_weights_are_not_here_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(gr.Error, match="fetch them with `hf download tsinghua-ee/video-SALMONN-2`"):
        list(app.change_model("video-salmonn-2"))


def test_a_bare_address_gives_the_models_default(session):
    page = restored()
    assert page[app.method_box] == TEXT and page[app.about_box] == session.about and app.question_box not in page


@pytest.mark.parametrize("method", ["vanilla", "nonsense", "fastav:start=9", "fastav:p=95", "fastav:plan=x", "fastav:seed=3"])
def test_a_link_that_the_page_cannot_show_is_refused(session, method):
    with pytest.raises(gr.Error):
        restored(method=method)


def test_a_link_with_a_long_question_is_cut(session):
    assert len(restored(question="x" * 9000)[app.question_box]) == app.MAX_QUESTION


def test_an_unknown_model_is_named():
    with pytest.raises(UserError, match="unknown model 'huge'"):
        app.Sessions().get("huge")


def test_timed_runs_share_one_slot():
    """Oracle: the queue's own settings of the two endpoints that use the device."""
    timed = [fn for fn in app.demo.fns.values() if fn.api_name in ("compare", "measure")]
    assert [(fn.concurrency_id, fn.concurrency_limit) for fn in timed] == [("device", 1), ("device", 1)]
