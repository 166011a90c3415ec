"""The page on a stand-in for ZeroGPU, as a process of its own: prints what its handlers showed as one JSON object.

As there, a marked generator runs in a forked process, what goes in and out is pickled, of an exception only the class comes
back, and what is loaded in the fork is lost, so loading anything there counts as a failure.
"""

import functools
import inspect
import json
import multiprocessing
import os
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

FORK = multiprocessing.get_context("fork")
PARENT = os.getpid()


def GPU(duration):  # noqa: N802  (its name in `spaces`)
    def mark(generator):
        assert inspect.isgeneratorfunction(generator), "of a plain function ZeroGPU returns one value"

        @functools.wraps(generator)
        def here(*args):
            ours, theirs = FORK.Pipe()
            FORK.Process(target=there, args=(theirs, pickle.dumps(args)), daemon=True).start()
            while True:
                what, value = pickle.loads(ours.recv_bytes())
                if what == "raised":
                    raise RuntimeError(f"ZeroGPU worker error: {value}")
                if what == "end":
                    return
                yield value

        def there(pipe, args):
            try:
                for value in generator(*pickle.loads(args)):
                    pipe.send_bytes(pickle.dumps(("value", value)))
                pipe.send_bytes(pickle.dumps(("end", None)))
            except BaseException as error:
                pipe.send_bytes(pickle.dumps(("raised", type(error).__name__)))

        return here

    return mark


def load(name, checkpoint, **options):
    assert os.getpid() == PARENT, "the model was loaded in the fork"
    from test_app import StubSession

    class Session(StubSession):
        def stream(self, *asked):
            for piece in super().stream(*asked):
                yield piece if isinstance(piece, str) else replace(piece, device=where())

        def measure(self, *asked):
            comparison = super().measure(*asked)
            return replace(comparison, pruned=replace(comparison.pruned, device=where()))

    return Session()


def where() -> str:
    return "the page's process" if os.getpid() == PARENT else "a forked process"


def shown(handler, question: str) -> dict:
    """Box -> the texts that it showed, in order; and what was raised."""
    texts = {name: [] for name in ("vanilla", "pruned", "headline")}
    try:
        for step in handler("bell.mp4", question, "tiny", "fastav"):
            for name in texts:
                value = step.get(getattr(app, f"{name}_box"))
                texts[name] += [] if value is None else [value["value"] if isinstance(value, dict) else value]
    except Exception as error:
        texts["raised"] = [type(error).__name__, str(error)]
    return texts


if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    os.environ["SPACES_ZERO_GPU"] = "true"
    sys.modules["spaces"] = SimpleNamespace(GPU=GPU)
    sys.modules["fastav.session"] = SimpleNamespace(load=load)
    import app

    question = "Is the bell visible?"
    runs = {"compare": shown(app.compare, question), "measure": shown(app.measure, question)}
    print(json.dumps(runs | {"refused": shown(app.compare, "Is the unicorn visible?")}))
