"""`python app.py`: its options, what is checked before the page is served, and serving it.

Gradio takes seconds to import and is not needed here, so what is wrong is told first: one line on stderr, exit code 2.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import socket
import sys
import threading
from pathlib import Path

from fastav import models
from fastav.errors import UserError
from fastav.models import arguments
from fastav.page.sessions import Sessions


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python app.py",
        description="Serve the page on http://127.0.0.1:7860; GRADIO_SERVER_PORT and GRADIO_SERVER_NAME set another address.",
        epilog="exit code: 2 something to fix (one line on stderr says what), 130 stopped with Ctrl-C",
    )
    arguments.add(parser)
    parser.add_argument(
        "--allow-model",
        action="append",
        default=[],
        metavar="NAME",
        help="a model that visitors may load beside --model; may be repeated. One model is in memory at a time: whoever "
        "chooses another takes it from everyone (default: --model alone)",
    )
    return parser.parse_args(argv)


def begin(argv: list[str]) -> Sessions:
    """The sessions of a server about to start. Ends the program where the arguments, the address or the weights are wrong."""
    given = parse(argv)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)
    sessions = Sessions(given)
    try:
        address()
        check(sessions)
    except UserError as error:
        _end(error)
    return sessions


def address() -> tuple[str, int]:
    """(host, port) to serve on. Raises UserError for one that cannot be had."""
    host, text = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), os.environ.get("GRADIO_SERVER_PORT", "7860")
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise UserError(f"GRADIO_SERVER_PORT must be a port number from 1 to 65535, got {text!r}")
    try:
        socket.create_server((host, int(text))).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {text} is in use; set another one with GRADIO_SERVER_PORT=...") from error
        raise UserError(f"cannot serve on {host}, port {text} ({error}); see GRADIO_SERVER_NAME, GRADIO_SERVER_PORT") from error
    return host, int(text)


def check(sessions: Sessions) -> None:
    """What can be known without reading large weights. Raises UserError for what would make a page that cannot answer.

    The built-in model is small, so loading it is its check. Of the others the files' headers are read. A hub id is fetched
    when the model is loaded; what fails then is told in the page.
    """
    given = sessions.given
    for name in sessions.offered:
        models.check_name(name)
    if given == parse([]):
        return  # the page comes first, torch's seconds after it
    from fastav.models.device import resolve
    from fastav.models.estimate import estimate

    resolve(given.device, given.dtype, given.attn)
    for name in sessions.offered:
        own = name == given.model
        checkpoint, revision = (given.checkpoint, given.revision) if own else (None, None)
        if models.adapter_class(name).published:
            if not _hub_id(checkpoint):
                estimate(name, checkpoint, revision=revision, device=given.device, dtype=given.dtype)
        elif own:
            sessions.get(name)


def _hub_id(checkpoint: str | None) -> bool:
    """True for what weights.locate would fetch: written like owner/name, and no folder."""
    return bool(checkpoint and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", checkpoint) and not Path(checkpoint).is_dir())


def serve(demo, sessions: Sessions, **look) -> None:
    """Serve `demo` until Ctrl-C; the model is loaded behind the first page. `look` goes to its launch."""
    try:
        demo.launch(server_port=address()[1], prevent_thread_lock=True, **look)
        sys.stdout.flush()  # where it is a file, the address would else come at the end
        threading.Thread(target=sessions.preload, daemon=True).start()
        demo.block_thread()
    except UserError as error:
        _end(error)
    finally:
        demo.close(verbose=False)


def _stop(*_) -> None:
    """Ctrl-C, also during the seconds of imports. A second one ends the process at once."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print("stopped", file=sys.stderr)
    raise SystemExit(130)


def _end(error: UserError) -> None:
    print(f"app: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(2)
