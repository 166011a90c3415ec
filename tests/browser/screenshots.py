"""`python tests/browser/screenshots.py CLIP QUESTION`: make the README's two pictures from a measured run, on an idle machine."""

import sys
import tempfile
from pathlib import Path

from conftest import ROOT, answered, ask, chromium, opened, serve, upload
from PIL import Image
from playwright.sync_api import expect

SIZES = (("demo_light.png", 1440, "light"), ("demo_dark_390.png", 390, "dark"))

if __name__ == "__main__":
    clip, question = sys.argv[1:]
    target = ROOT / "assets/screenshots"
    target.mkdir(exist_ok=True)
    clip = str(Path(clip).resolve())
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as (address, _), chromium() as browser:
        for name, width, scheme in SIZES:
            with opened(browser, address, width=width, scheme=scheme) as page:
                upload(page, clip)
                ask(page, question, "Measure")  # medians: a single run's times are no picture to show around
                expect(page.locator(".fa-conditions")).to_contain_text("median", timeout=120_000)
                answered(page)
                page.wait_for_timeout(1500)
                page.screenshot(path=target / name, full_page=True)
                Image.open(target / name).convert("RGB").quantize(256).save(target / name, optimize=True)  # a third of the bytes
                print(target / name, (target / name).stat().st_size, "bytes")
