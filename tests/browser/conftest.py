"""A real server as a child process and a headless Chromium; the steps that several tests share."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def serve(folder: Path, *options: str):
    """`python app.py` with `options` on a free port; (address, seconds until the first page)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(folder / "uploads")}
    began = time.monotonic()
    with (folder / "server.log").open("w") as log:
        command = [sys.executable, str(ROOT / "app.py"), *options]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            address = f"http://127.0.0.1:{port}"
            yield address, _first_page(server, address, began)
        finally:
            server.terminate()
            server.wait(20)


def _first_page(server, address: str, began: float) -> float:
    while time.monotonic() - began < 60:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        try:
            if httpx.get(address).status_code == 200:
                return time.monotonic() - began
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("no page after 60 s")


@contextmanager
def chromium():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    with serve(folder) as (address, first_page_sec):
        yield {"address": address, "first_page_sec": first_page_sec, "log": folder / "server.log"}


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium found; on Debian: apt install chromium")
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(server, browser):
    """A 1440 px light page. Whatever it does, it may ask no other host for anything and no script may fail."""
    with opened(browser, server["address"]) as page:
        yield page


@contextmanager
def opened(browser, address: str, width=1440, height=900, scheme="light", query=""):
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True)
    page = context.new_page()
    outside, failed = [], []
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address + query)
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible(timeout=30_000)
    yield page
    assert not outside and not failed
    context.close()


def upload(page, path) -> None:
    """Give the page a clip and wait until it tells what it read."""
    page.locator("#clip input[type=file]").set_input_files(str(path))
    expect(page.locator("#preview figcaption")).to_contain_text(" · ", timeout=30_000)


def ask(page, question: str, button: str = "Run") -> None:
    page.locator("#question textarea").fill(question)
    page.get_by_role("button", name=button, exact=True).click()


def answered(page) -> None:
    """Two answers, a headline, the table and a map that has been drawn."""
    expect(page.locator(".fa-headline")).to_be_visible(timeout=60_000)
    for box in ("#vanilla textarea", "#pruned textarea"):
        expect(page.locator(box)).to_have_value(re.compile(r"\w+"))
    expect(page.locator("#figures tbody tr").first).to_be_visible()
    expect(page.locator(".fa-kept")).to_have_text(re.compile(r"\d+ of \d+ kept"))
