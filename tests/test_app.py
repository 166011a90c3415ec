"""The page's handlers, called directly with a stub session. Oracle: what the stub was asked and gave."""

import ast
import dataclasses
import html
import inspect
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from test_view import PRUNED_SEEN, make_comparison, make_result

import app
from fastav import methods
from fastav.__main__ import main
from fastav.clip.clip import clip_from_arrays
from fastav.errors import UserError
from fastav.methods.setting import setting
from fastav.page.controls import Controls

GOLDEN = Path(__file__).with_name("golden")
TEXT = "fastav:start=4,p=20,rule=model,fine=low,protect=text,seed=0"
SETTINGS = ("tiny", TEXT)


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
    monkeypatch.setattr(app.sessions, "get", lambda name: stub)
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
    file = "only-here.mp4"  # decoded clips outlive a test
    at_once, shown = app.preview(file, "tiny")
    list(app.compare(file, "Is the bell visible?", *SETTINGS))
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
        (("bell.mp4", "What?", "tiny", "fastav:start=8"), "from 1 to 7"),
        (("bell.mp4", "What?", "tiny", "fastav:p=91"), "from 0 to 90"),
        (("bell.mp4", "What?", "tiny", "fastav:p=101"), "from 0 to 100"),
        (("bell.mp4", "What?", "tiny", "fastav:rule=first(x)"), "unknown rule"),
        (("bell.mp4", "What?", "tiny", "trim+fastav:p=20,plan=plan.json"), "plan names a file"),
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


NO_METHODS = [  # of an API client; a browser sends none of these but what an emptied or overfull number box makes
    (None, "the method must be text"),
    (4, "the method must be text"),
    (True, "the method must be text"),
    (["fastav"], "the method must be text"),
    ({"a": 1}, "the method must be text"),
    ("", "the method must be text"),
    (f"fastav:rule=first({'9' * 5000})", "the method must be text"),
    ("fastav:rule=first(\u0663)", "the method must be text"),  # an Arabic three
    ("fastav:p=20\n", "the method must be text"),
    ("Fastav", "the method must be text"),
    ("fastav:start=null", "start must be a whole number"),
    ("fastav:start=", "start must be a whole number"),
    ("fastav:start=4.9", "start must be a whole number"),
    ("fastav:start=4.0", "start must be a whole number"),
    ("fastav:start=nan", "start must be a whole number"),
    ("fastav:start=true", "start must be a whole number"),
    ("fastav:start=0", "start must be a whole number of at least 1"),
    ("fastav:start=99", "start must be from 1 to 7"),
    ("fastav:p=abc", "p must be a whole number"),
    ("fastav:p=20.5", "p must be a whole number"),
    ("fastav:p=-1", "p must be a whole number from 0 to 100"),
    ("fastav:p=95", "p must be a whole number from 0 to 90, got 95"),
    ("fastav:p=20,p=30", "p is given twice"),
    ("fastav:rule=null", "unknown rule 'null'; allowed: model, all"),
    ("fastav:rule=first(n)", "unknown rule"),
    ("stride:keep=1.5", "keep must be a number from 0 to 1"),
    ("stride:p=20", "unknown setting 'p=20' of stride; allowed: start=, keep="),
    ("trim+trim", "trims twice"),
    ("yes", "unknown method 'yes'; allowed: diverse, divprune, "),
]


def refusal(handler, *args):
    """What a handler raised, of whatever class; None where it went through."""
    try:
        list(handler(*args))
    except Exception as error:
        return error
    return None


def visit(**query):
    return SimpleNamespace(query_params=query)


@pytest.mark.parametrize(("method", "said"), NO_METHODS, ids=lambda value: str(value)[:30])
@pytest.mark.parametrize("handler", ["compare", "measure", "link"])
def test_a_method_that_is_none_is_refused_and_never_changed(session, handler, method, said):
    if handler == "link" and method is None:
        return  # a bare address
    args = ("bell.mp4", "What?", "tiny", method)
    error = refusal(app.restore, visit(method=method)) if handler == "link" else refusal(getattr(app, handler), *args)
    assert isinstance(error, gr.Error) and html.escape(said, quote=True) in error.message and len(error.message) < 400
    assert not error.print_exception and session.asked == []


@pytest.mark.parametrize("question", [5, ["What?"], {"a": 1}])
def test_a_question_that_is_no_text_is_refused(session, question):
    error = refusal(app.compare, "bell.mp4", question, *SETTINGS)
    assert isinstance(error, gr.Error) and "must be text" in error.message


def test_markup_in_an_error_is_escaped(session):
    steps = []
    with pytest.raises(gr.Error) as error:
        collect(app.compare("bell.mp4", "What?", "tiny", "<img src=x onerror=alert(1)>"), steps)
    assert "<img" not in error.value.message and "<img" not in last(steps, app.headline_box)


def restored(**query):
    return app.asked(visit(**query)) | app.restore(visit(**query))


def box(name: str):
    return app.controls.boxes[name]


def test_a_share_link_fills_the_page(session):
    method = "fastav:start=3,p=35,rule=first(200),fine=top"
    page = restored(model="tiny", method=method, question="What <b>is</b> it?")
    assert page[app.question_box] == "What <b>is</b> it?"
    assert page[box("fastav:start")]["value"] == 3 and page[box("fastav:start")]["maximum"] == 7
    assert [page[box(f"fastav:{name}")]["value"] for name in ("p", "rule", "fine")] == [35, "first(200)", "top"]
    assert page[app.method_box] == method + ",protect=text,seed=0"


def test_a_link_to_another_method_shows_its_controls_alone(session):
    """By hand: keep as in the link, all else by default, 4 being the middle of 8 layers."""
    page = restored(method="trim+stride:keep=0.25")
    assert page[app.method_box] == "trim+stride:start=4,keep=0.25"
    assert page[box("name")]["value"] == "stride" and page[box("trim")] is True
    assert [name for name in methods.METHODS if page[box(f"{name}:")]["visible"]] == ["stride"]
    assert [page[box(f"stride:{name}")]["value"] for name in ("start", "keep")] == [4, 0.25]
    assert [page[box(f"{name}")]["value"] for name in ("fastav:p", "random:keep", "divprune:start")] == [20, 0.5, 0]


def test_trim_is_a_setting_that_runs_and_travels_in_the_link(session):
    page = restored(method="trim+fastav:start=3,p=35")
    assert page[box("trim")] is True and page[app.method_box].startswith("trim+fastav:start=3,p=35,rule=model")
    steps = list(app.compare("bell.mp4", "What?", "tiny", "trim+" + TEXT))
    assert session.asked[-1] == ("What?", "trim+" + TEXT)
    assert steps[-1][app.pruned_box]["label"].startswith("Trim + FastAV · first token after")
    assert restored()[box("trim")] is False


# --- methods and their controls: oracle, the methods themselves and the session's own reading of a text form


@pytest.mark.parametrize("trim", [False, True])
@pytest.mark.parametrize("name", methods.METHODS)
def test_every_method_can_be_chosen_linked_and_run(session, name, trim):
    text = str(methods.parse(f"trim+{name}" if trim else name, 8))
    rows = app.choose(name)
    assert {row: update["visible"] for row, update in rows.items()} == {box(f"{each}:"): each == name for each in methods.METHODS}
    page = restored(method=text)
    assert page[app.method_box] == text and page[box("trim")] is trim and page[box("name")]["value"] == name
    list(app.compare("bell.mp4", "What?", "tiny", text))
    list(app.measure("bell.mp4", "What?", "tiny", text))
    assert [method for _, method in session.asked] == ["vanilla", text, text]


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_has_a_control_for_each_setting_but_files(name):
    shown = {key.partition(":")[2] for key in app.controls.boxes if key.startswith(f"{name}:")} - {""}
    every = {field.name for field in dataclasses.fields(methods.METHODS[name])}
    assert every - shown == ({"plan"} if name == "fastav" else set())
    method = methods.METHODS[name]().fit(8)
    assert all(box(f"{name}:{setting}").value == getattr(method, setting) for setting in shown)


def test_the_controls_of_fastav_are_those_of_the_paper():
    """By hand. FastAV-tiny has 8 layers, of which a layer must come before the first that computes on less."""
    start, p, rule, fine, seed = (box(f"fastav:{name}") for name in ("start", "p", "rule", "fine", "seed"))
    assert (start.minimum, start.maximum, start.step, start.value) == (1, 7, 1, 4)
    assert (p.minimum, p.maximum, p.step, p.value) == (0, 90, 1, 20)
    names = ["model", "all", "none", "no-video", "no-audio", "first(750)"]
    assert [value for _, value in rule.choices][:6] == names and rule.allow_custom_value
    assert ("keep the first 750 positions", "first(750)") in rule.choices
    assert [value for _, value in fine.choices] == ["low", "top", "random", "lookahead"] and not fine.allow_custom_value
    assert isinstance(seed, gr.Number) and p.label == "Percent per layer (P)"
    assert p.info == "percent of the unprotected tokens that leave after each layer"
    assert box("stride:keep").step == 0.001


def test_the_doors_name_no_methods_class():
    """Read from the source: what a class is called, in code and not in a sentence."""
    root, classes = app.ASSETS.parent, {kind.__name__ for kind in (*methods.METHODS.values(), methods.Trim)}
    files = [root / "app.py", root / "fastav/session.py", *(root / "fastav/page").glob("*.py"), *(root / "eval").rglob("*.py")]
    for file in files:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        named = {getattr(node, "id", getattr(node, "attr", getattr(node, "name", None))) for node in nodes}
        assert not named & classes, file


@dataclasses.dataclass(frozen=True)
class KeepFirst(methods.Method):
    """The first `n` tokens stay. Nobody knows of it but METHODS."""

    name = "keep-first"

    n: int = setting(3, "how many stay", low=0)
    share: float = setting(0.25, "of the rest", low=0, high=2)
    begin: int | None = setting(None, "where", low=0, layer=True)
    way: str = setting("left", "from which side", choices=("left", "right"))
    strict: bool = setting(True, "whether")
    text_note: str = setting("a", "of yours")
    most: int | None = setting(None, "none for all", low=1, high=9)
    source: str | None = setting(None, "from a file", file=True)

    def cuts(self, layout, n_layers):
        return {}


def test_a_new_method_is_one_class_and_its_place_in_methods(session, monkeypatch, capsys):
    monkeypatch.setitem(methods.METHODS, "keep-first", KeepFirst)
    with gr.Blocks():
        made = Controls("keep-first", n_layers=8)
    boxes = {name.partition(":")[2]: box for name, box in made.boxes.items() if name.startswith("keep-first:")}
    assert "keep-first" in [value for _, value in made.boxes["name"].choices] and boxes.pop("").visible
    assert [(name, type(box), box.label, box.info, box.value) for name, box in boxes.items()] == [
        ("n", gr.Number, "N", "how many stay", 3),
        ("share", gr.Slider, "Share", "of the rest", 0.25),
        ("begin", gr.Slider, "Begin", "where", 4),
        ("way", gr.Dropdown, "Way", "from which side", "left"),
        ("strict", gr.Checkbox, "Strict", "whether", True),
        ("text_note", gr.Textbox, "Text note", "of yours", "a"),
        ("most", gr.Textbox, "Most", "none for all", None),
    ]
    text = "keep-first:n=3,share=0.25,begin=4,way=left,strict=true,text_note=a"
    list(app.compare("bell.mp4", "What?", "tiny", "keep-first"))
    list(app.compare("bell.mp4", "What?", "tiny", "trim+" + text))
    assert [method for _, method in session.asked[1::2]] == [text, "trim+" + text]
    for method in (
        "keep-first:source=x",
        "keep-first:begin=8",
        "keep-first:share=2.1",
        "keep-first:way=up",
        "keep-first:strict=1",
    ):
        assert isinstance(refusal(app.compare, "bell.mp4", "What?", "tiny", method), gr.Error), method
    assert main(["methods", "keep-first"]) == 0
    said = capsys.readouterr().out
    assert said.splitlines()[:4] == [
        "keep-first",
        "  The first `n` tokens stay.",
        "    n=          how many stay",
        "                a whole number of at least 0; default: 3",
    ]
    assert all(
        part in said for part in ("a number from 0 to 2; default: 0.25", "the middle layer", "true or false; default: True")
    )


def test_a_model_and_its_checkpoint_come_from_the_command_line(monkeypatch):
    """The given checkpoint is for the given model alone."""
    asked = []
    monkeypatch.setattr("fastav.session.load", lambda *a, **k: asked.append((a, k)) or SimpleNamespace(model_name=a[0]))
    options = ["--model", "video-salmonn-2", "--checkpoint", "x", "--dtype", "float32", "--allow-model", "tiny"]
    sessions = app.Sessions(app.command.parse(options))
    sessions.get("video-salmonn-2")
    sessions.get("tiny")
    (first, options), second = asked
    assert first == ("video-salmonn-2", "x") and options["dtype"] == "float32"
    assert second[0] == ("tiny", None)
    assert second[1] == {"revision": None, "device": None, "dtype": "float32", "device_map": None, "attn": None}


def test_choosing_a_model_whose_weights_are_not_here_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(app.sessions, "offered", ["tiny", "video-salmonn-2"])
    with pytest.raises(gr.Error, match="fetch them with `hf download tsinghua-ee/video-SALMONN-2`"):
        app.change_model("video-salmonn-2")


def test_a_bare_address_gives_the_models_default(session):
    page = restored()
    assert page[app.method_box] == TEXT and page[app.about_box] == session.about and app.question_box not in page


@pytest.mark.parametrize(
    "method", ["nonsense", "fastav:start=9", "fastav:p=95", "fastav:plan=x", "trim+fastav:plan=", "vanilla:p=3"]
)
def test_a_link_that_the_page_cannot_show_is_refused(session, method):
    with pytest.raises(gr.Error):
        restored(method=method)


def test_a_refused_link_leaves_the_controls_as_the_model_wants_them(session):
    """The layout is FastAV-tiny's; for a model with more layers the sliders must be set whatever the link says."""
    page = app.own_model()
    assert page[app.method_box] == TEXT and page[box("fastav:start")]["maximum"] == 7
    [event] = [event for event in app.demo.fns.values() if event.fn is app.own_model]
    assert event.trigger_only_on_failure and app.demo.fns[event.trigger_after].fn is app.restore


def test_what_fills_the_controls_comes_once(session):
    """gradio sends the last values of a generator twice; what a person typed in between would be undone."""
    filled = {box._id for name, box in app.BOXES.items() if name in ("question", "model", "method", *app.controls.boxes)}
    filling = [event.fn for event in app.demo.fns.values() if event.fn and filled & {output._id for output in event.outputs}]
    assert len(filling) == 6 and not any(map(inspect.isgeneratorfunction, filling))  # ours and that of the example questions


def test_a_method_at_given_flops_runs_and_has_no_controls(session):
    """Its settings follow from clip and question; a file in it is refused as everywhere."""
    steps = list(app.compare("bell.mp4", "What?", "tiny", "trim+seats@45"))
    assert session.asked[-1] == ("What?", "trim+seats@45") and steps[-1][app.pruned_box]["label"].startswith(
        "Trim + SEATS at 45 %"
    )
    for method, said in (
        ("seats@45", "seats@45 has no controls"),
        ("fastav@45:plan=x", "plan names a file"),
    ):
        assert said in refusal(app.restore, visit(method=method)).message


@pytest.mark.parametrize("path", ["/etc/passwd", "../plan.json", "@plan.json", "plan.json", "assets/tiny/plan-10.json"])
def test_neither_a_link_nor_an_api_call_names_a_file(session, monkeypatch, path):
    monkeypatch.setattr("fastav.plan.Plan.read", lambda path: pytest.fail(f"{path} was read"))
    texts = [f"fastav:plan={path}", f"trim+fastav:plan={path}", f"fastav:rule={path}", f"fastav:rule=plan={path}", path]
    texts += [f"fastav:start=4,p=20,rule=model,plan={path}", f"fastav:fine=low,plan={path}", f"trim+fastav:rule=all,plan={path}"]
    for method in texts:
        assert isinstance(refusal(app.restore, visit(method=method)), gr.Error), method
        for request_ in (
            ("bell.mp4", "What?", "tiny", method),
            ("bell.mp4", "What?", path, method),
            (None, "What?", "tiny", method),
        ):
            assert isinstance(refusal(app.compare, *request_), gr.Error), request_
            assert isinstance(refusal(app.measure, *request_), gr.Error), request_
    assert session.asked == []


def test_a_link_with_a_long_question_is_cut(session):
    assert len(restored(question="x" * 9000)[app.question_box]) == app.MAX_QUESTION


def test_an_unknown_model_is_named():
    with pytest.raises(UserError, match="unknown model 'huge'"):
        app.sessions.get("huge")


@pytest.fixture
def loaded(monkeypatch):
    """Names of the models that were loaded; loading costs nothing."""
    names, facts = [], {"n_layers": 8, "default_method": TEXT, "about": ""}
    monkeypatch.setattr(
        "fastav.session.load", lambda name, *a, **k: names.append(name) or SimpleNamespace(model_name=name, **facts)
    )
    monkeypatch.setattr(app.sessions, "_session", None)
    return names


@pytest.mark.parametrize("door", ["link", "dropdown", "compare", "measure", "preview"])
def test_a_visitor_cannot_load_a_model_that_the_operator_did_not_offer(loaded, door):
    model = "qwen2.5-omni"
    run = {
        "link": lambda: app.restore(visit(model=model)),
        "dropdown": lambda: app.change_model(model),
        "compare": lambda: app.compare("bell.mp4", "What?", model, *SETTINGS[1:]),
        "measure": lambda: app.measure("bell.mp4", "What?", model, *SETTINGS[1:]),
        "preview": lambda: app.preview("bell.mp4", model),
    }[door]
    error = refusal(run)
    assert model not in loaded
    assert all(part in error.message for part in (model, "this page has tiny", "--allow-model"))


@pytest.mark.parametrize("model", [None, ["tiny"], {"a": 1}, 3, ""])
def test_a_model_that_is_no_name_is_refused(loaded, model):
    error = refusal(app.change_model, model)
    assert isinstance(error, gr.Error) and "this page has tiny" in error.message and loaded == []


def test_the_operator_offers_more_models(loaded):
    sessions = app.Sessions(app.command.parse(["--allow-model", "qwen2.5-omni", "--allow-model", "tiny"]))
    assert sessions.offered == ["tiny", "qwen2.5-omni"]
    assert sessions.get("qwen2.5-omni").model_name == "qwen2.5-omni" == loaded[-1]
    assert app.Sessions(app.command.parse(["--model", "video-salmonn-2"])).offered == ["video-salmonn-2"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "video-salmonn-2"], "fetch them with `hf download tsinghua-ee/video-SALMONN-2`"),
        (["--allow-model", "video-salmonn-2"], "fetch them with `hf download tsinghua-ee/video-SALMONN-2`"),
        (["--allow-model", "huge"], "unknown model 'huge'"),
        (["--model", "videollama2.1-av", "--checkpoint", "/nonexistent"], "'/nonexistent' is not a folder"),
        (["--model", "videollama2.1-av", "--checkpoint", str(GOLDEN)], "config.json"),
        (["--device-map", "auto"], "leave out revision and device map"),
    ],
)
def test_weights_that_cannot_be_found_are_told_before_the_page_is_served(tmp_path, monkeypatch, options, said):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=re.escape(said)):
        app.command.check(app.Sessions(app.command.parse(options)))


def test_large_weights_are_looked_at_but_not_loaded_before_the_page(loaded, monkeypatch):
    """A hub id is not even fetched: the page would wait for gigabytes."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    for checkpoint in (str(GOLDEN / "videollama2" / "tiny"), "somebody/their-weights"):
        app.command.check(app.Sessions(app.command.parse(["--model", "videollama2.1-av", "--checkpoint", checkpoint])))
    assert loaded == []


def test_the_list_of_models_is_what_is_offered():
    assert [value for _, value in app.model_box.choices] == ["tiny"]


def test_on_zero_gpu_runs_cross_the_border_of_their_process():
    """Oracle: the texts that the stub session gives, from a fork that returns nothing but what can be pickled."""
    root, script = app.ASSETS.parent, Path(__file__).with_name("zero_gpu.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout.splitlines()[-1])
    answered, measured, refused = runs["compare"], runs["measure"], runs["refused"]
    assert "raised" not in answered and "raised" not in measured
    for box in ("vanilla", "pruned"):
        assert list(dict.fromkeys(answered[box])) == ["", "yes", "yes it is"]
    assert "same answer" in answered["headline"][-1] and "a forked process" in answered["headline"][-1]
    assert "median of 5 runs" in measured["headline"][-1] and "a forked process" in measured["headline"][-1]
    assert (
        refused["raised"][0] == "Error" and "unknown word" in refused["raised"][1] and "unknown word" in refused["headline"][-1]
    )


def test_timed_runs_share_one_slot():
    """Oracle: the queue's own settings of the two endpoints that use the device."""
    timed = [fn for fn in app.demo.fns.values() if fn.api_name in ("compare", "measure")]
    assert [(fn.concurrency_id, fn.concurrency_limit) for fn in timed] == [("device", 1), ("device", 1)]
