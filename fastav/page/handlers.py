"""What happens on a click: what each box of the page shows next, by the box's name.

What takes long is a generator. What fills boxes that a person edits is not: gradio sends the last values of a generator twice,
and the second would undo what was typed in between. A UserError is shown as a toast. What runs on the GPU is behind `gpu.task`,
and boxes are app.py's: neither knows the other.
"""

from __future__ import annotations

import functools
import html
import mimetypes
from collections.abc import Iterator
from contextlib import closing, contextmanager

import gradio as gr

from fastav import methods
from fastav.errors import UserError
from fastav.page import controls, gpu, request, view
from fastav.page.sessions import Sessions
from fastav.result import Comparison, Result

NO_WORDS = "(the model ended its answer without a word)"


@contextmanager
def toast():
    """Show a UserError as a toast with its text."""
    try:
        yield
    except UserError as error:
        raise gr.Error(html.escape(str(error)), print_exception=False) from error


def toasts(handler):
    """The same generator, whose UserError is a toast."""

    @functools.wraps(handler)
    def run(*args):
        with toast():
            yield from handler(*args)

    return run


class Handlers:
    """The page's handlers on one set of sessions. Arguments come as a client sent them; `request` checks each."""

    def __init__(self, sessions: Sessions):
        self.sessions = sessions

        @gpu.task
        def answers(model: str, clip, question: str, method: str) -> Iterator[tuple[str, str | Result]]:
            """("vanilla", the answer so far) each time it grows, ("vanilla", its Result), then the same of "pruned"."""
            for name, text in (("vanilla", "vanilla"), ("pruned", method)):
                yield name, ""
                with closing(sessions.get(model).stream(clip, question, text)) as pieces:
                    for piece in pieces:
                        yield name, piece

        @gpu.task
        def measurement(model: str, clip, question: str, method: str) -> Iterator[Comparison]:
            yield sessions.get(model).measure(clip, question, method)

        self.answers, self.measurement = answers, measurement

    @toasts
    def preview(self, file: str | dict | None, model: str) -> Iterator[dict | None]:
        """What was uploaded: a player at once, then the frames that the model sees."""
        if not file:
            yield None
            return
        file = request.file(file)
        guess = "audio" if (mimetypes.guess_type(file)[0] or "").startswith("audio") else "video"
        yield {"path": file, "kind": guess, "pictures": [], "facts": "Reading the clip"}
        try:
            clip = self.sessions.read(model, file)
        except UserError as error:
            yield {"path": file, "kind": "unreadable", "pictures": [], "facts": str(error)}
            raise
        missing = ["" if clip.has_video else "no video", "" if clip.has_audio else "no sound"]
        seen = f"the model sees these {len(clip.frames)} frames" if clip.has_video else ""
        yield {
            "path": file,
            "kind": "video" if clip.has_video else "audio",
            "pictures": view.thumbnails(clip.frames, min(len(clip.frames), 16)),
            "facts": " · ".join(filter(None, [clip.name, f"{clip.duration_sec:.1f} s", seen, *missing, *clip.notes])),
        }

    @toasts
    def compare(self, file, question: str, model: str, method: str) -> Iterator[dict]:
        """Stream the vanilla answer, then the pruned one, then the figures.

        Closing the generator, which is what Stop does, ends the run at the next token.
        """
        # Every step repeats both boxes in full: text that only grows reaches the page as short additions.
        boxes = {"vanilla": gr.update(value="", label="Vanilla"), "pruned": gr.update(value="", label="Pruned")}
        yield boxes | {"headline": status("Reading the clip (1 of 3)"), "results": gr.update(visible=False)}
        finished = {}
        try:
            asked = self._checked(file, question, model, method)
            steps = {"vanilla": ("Vanilla", 2), "pruned": (methods.parse(asked[2]).title, 3)}
            with closing(self.answers(model, *asked)) as pieces:
                for name, piece in pieces:
                    label, step = steps[name]
                    if isinstance(piece, Result):
                        finished[name] = piece
                    else:
                        boxes[name] = gr.update(value=piece, label=label)
                        yield boxes | {"headline": status(f"{label} is answering ({step} of 3)")}
            yield shown(Comparison(**finished), asked[0])
        except UserError as error:
            yield {"headline": problem(error)}
            raise

    @toasts
    def measure(self, file, question: str, model: str, method: str) -> Iterator[dict]:
        """The same comparison with timings to rely on: medians of interleaved repeats."""
        yield {"headline": status("Measuring: both ways in turn, five times each. This takes longer than a single run.")}
        try:
            asked = self._checked(file, question, model, method)
            with closing(self.measurement(model, *asked)) as pieces:
                for comparison in pieces:
                    yield shown(comparison, asked[0])
        except UserError as error:
            yield {"headline": problem(error)}
            raise

    def fit(self, model: str, text: str | None = None) -> dict:
        """The boxes as this model allows them, set to the method of a text form or to the model's default.

        Raises UserError for a method that does not fit, or has no controls: a pair, or one at given FLOPs.
        """
        session = self.sessions.get(model)
        method = request.method(session.default_method if text is None else text, session.n_layers)
        trim, chosen = methods.parts(method)
        if methods.plain(chosen) != (chosen,):
            raise UserError(f"the controls show the settings of one method; {chosen.name} has no controls")
        return {"method": str(method), "trim": trim, "about": session.about, **controls.state(chosen, session.n_layers)}

    def choose(self, name: str) -> dict:
        """Show the controls of the method of that name. The page itself writes its text form."""
        return controls.visible(name)

    @toast()
    def change_model(self, model: str) -> dict:
        return self.fit(model)

    def asked(self, visit: gr.Request) -> dict:
        """The question of the address (?question=...), cut where it is too long; shown before a model is loaded."""
        question = visit.query_params.get("question", "")[: request.MAX_QUESTION]
        return {"question": question} if question else {}

    @toast()
    def restore(self, visit: gr.Request) -> dict:
        """Model and method of the address (?model=...&method=...), after checking both."""
        model = visit.query_params.get("model", self.sessions.given.model)
        return {"model": model} | self.fit(model, visit.query_params.get("method"))

    def own_model(self) -> dict:
        """Where the address was refused: the controls as the page's own model wants them."""
        try:
            return self.fit(self.sessions.given.model)
        except UserError:
            return {}  # it was this model that was refused

    def _checked(self, file, question, model, method):
        """(clip, question, method) of one request, after every check that a browser or an API client could have skipped."""
        path, question = request.file(file), request.question(question)
        method = request.method(method, self.sessions.get(model).n_layers)
        return self.sessions.read(model, path), question, str(method)


def status(text: str) -> str:
    return f'<p class="fa-status" role="status"><i></i>{html.escape(text)}</p>'


def timed(name: str, result) -> str:
    return f"{name} · first token after {result.prefill_sec * 1e3:,.0f} ms"


def problem(error: UserError) -> str:
    """Stays on the page after the toast has gone."""
    return f'<p class="fa-status">{html.escape(str(error))}</p>'


def shown(comparison: Comparison, clip) -> dict:
    """Both answers and every figure of a comparison, by the box's name."""
    vanilla, pruned = comparison.vanilla, comparison.pruned
    return {
        "vanilla": gr.update(value=vanilla.answer or NO_WORDS, label=timed("Vanilla", vanilla)),
        "pruned": gr.update(value=pruned.answer or NO_WORDS, label=timed(methods.parse(pruned.method).title, pruned)),
        "headline": f'<p class="fa-headline" role="status">{html.escape(view.headline(comparison))}</p>'
        f'<p class="fa-conditions">{html.escape(view.conditions(pruned))}</p>',
        "results": gr.update(visible=True),
        "map": view.token_map(pruned, clip.frames),
        "table": view.table(comparison),
    }
