"""`python app.py` as a process: what is wrong is one line on stderr and exit code 2 before anything is served; what an API
client sends that no browser would is answered in one sentence. Oracle: exit codes, stderr, the server's log, plain HTTP.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / "assets" / "examples" / "dog_car.mp4"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(*options: str, gradio: Path | None = None, log=subprocess.PIPE, **environment) -> subprocess.Popen:
    """`python app.py` on a free port. `gradio`: a folder with a module of that name; `log`: where stdout and stderr go."""
    paths = [str(gradio)] * bool(gradio) + os.environ.get("PYTHONPATH", "").split(os.pathsep)
    environment = {"GRADIO_SERVER_PORT": str(free_port()), "PYTHONPATH": os.pathsep.join(filter(None, paths))} | environment
    return subprocess.Popen(
        [sys.executable, str(ROOT / "app.py"), *options],
        env=os.environ | environment,
        cwd=ROOT,
        stdout=log,
        stderr=log,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a test run may have been told to ignore it
    )


@pytest.fixture
def no_gradio(tmp_path):
    """A gradio that ends the program when it is imported: whoever gets there began to build the page."""
    (tmp_path / "gradio.py").write_text("raise SystemExit('the page was built')")
    return tmp_path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "nosuch"], "unknown model 'nosuch'; allowed: qwen2.5-omni, tiny"),
        (["--checkpoint", "/nonexistent"], "/nonexistent has no model.safetensors"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--attn", "magic"], "unknown attention 'magic'; allowed: sdpa"),
    ],
)
def test_a_model_that_cannot_be_had_is_told_before_the_page(no_gradio, options, said):
    process = start(*options, gradio=no_gradio)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2 and out == ""
    assert len(err.splitlines()) == 1 and said in err


@pytest.mark.parametrize("port", ["abc", "99999", "0", "-1", "", "78.6"])
def test_a_port_that_is_none_is_one_line(port):
    process = start(GRADIO_SERVER_PORT=port)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1 and f"GRADIO_SERVER_PORT must be a port number from 1 to 65535, got '{port}'" in err


def test_a_busy_port_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(GRADIO_SERVER_PORT=str(port))
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1 and f"port {port} is in use; set another one with GRADIO_SERVER_PORT=" in err


def test_an_address_of_another_machine_is_one_line():
    process = start(GRADIO_SERVER_NAME="192.0.2.1")  # of the block that is kept for documentation
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert len(err.splitlines()) == 1 and "cannot serve on 192.0.2.1" in err


def test_ctrl_c_while_the_page_is_built_is_one_line(tmp_path):
    """Imports take seconds. Oracle: 128 + SIGINT, as shells have it."""
    (tmp_path / "gradio.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)")
    process = start(gradio=tmp_path)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == "stopped\n"


def test_help_says_how_to_offer_more_models():
    process = start("--help")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "--allow-model NAME" in out and "GRADIO_SERVER_PORT" in out


class Client:
    """An API client without gradio's own checks."""

    def __init__(self, address: str):
        self.http = httpx.Client(base_url=f"{address}/gradio_api", timeout=120)
        with CLIP.open("rb") as file:
            path = self.http.post("/upload", files={"files": file}).json()[0]
        self.clip = {"path": path, "meta": {"_type": "gradio.FileData"}}

    def asked(self, values: list, name: str = "compare") -> str:
        """The error's text; "complete" where there is an answer."""
        body = json.dumps({"data": values})  # writes nan as NaN
        headers = {"content-type": "application/json"}
        event = self.http.post(f"/call/{name}", content=body, headers=headers).json()["event_id"]
        lines = self.http.get(f"/call/{name}/{event}").text.splitlines()
        *_, kind, data = (line for line in lines if line)
        return str(json.loads(data.removeprefix("data: "))["error"]) if kind == "event: error" else "complete"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A served page: its client, process, and log, which stderr and stdout go to."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    with (folder / "log").open("w") as log:
        process = start(log=log, GRADIO_SERVER_PORT=str(port), GRADIO_TEMP_DIR=str(folder / "uploads"))
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}").status_code == 200:
                break
        except httpx.TransportError:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
    yield Client(f"http://127.0.0.1:{port}"), process, folder / "log"
    process.kill()
    process.wait()


def test_what_no_browser_sends_is_refused_in_one_sentence(server):
    client, _, log = server
    good = [client.clip, "Is the car visible in the video?", "tiny", "fastav:start=4,p=20"]
    refused = {
        "the method must be text": [(3, value) for value in (None, 4.9, True, [], {"a": 1}, "", "fastav:rule=../../etc/passwd")],
        "start must be": [(3, f"fastav:start={value}") for value in (99, 0, "nan", 4.9, "null")],
        "p must be a whole number": [(3, f"fastav:p={value}") for value in ("abc", 20.5, -1, 91)],
        "unknown rule": [(3, "fastav:rule=best")],
        "plan names a file": [(3, "fastav:plan=plan.json"), (3, "trim+fastav:plan=plan.json")],
        "question must be text": [(1, 5), (1, ["What?"])],
        "this page has tiny": [(2, None), (2, ["tiny"]), (2, "x"), (2, "qwen2.5-omni")],
        "There is no clip yet": [(0, None)],
        "uploaded": [(0, {**client.clip, "path": "/etc/passwd"}), (0, "/etc/passwd"), (0, [client.clip]), (0, 3), (0, {})],
    }
    for said, changes in refused.items():
        for place, value in changes:
            answer = client.asked([*good[:place], value, *good[place + 1 :]])
            assert said in answer and len(answer) < 400, (place, value, answer)
    for values in (good[:3], good[:1], [], [*good, 1]):
        expected = "expected 4 values (file, question, model, method), got"
        assert client.asked(values) == client.asked(values, "measure") == f"{expected} {len(values)}"
    assert "rule" in client.asked([*good[:3], "fastav:rule=best"], "measure")
    assert client.asked([*good[:3], "trim+stride:keep=0.25"]) == "complete"
    assert "Traceback" not in log.read_text()


def test_ctrl_c_ends_the_server_in_one_line(server):
    """Runs last in this file, on the server of the tests above."""
    _, process, log = server
    before = len(log.read_text())
    process.send_signal(signal.SIGINT)
    process.wait(30)
    assert process.returncode == 130 and log.read_text()[before:].splitlines() == ["stopped"]
