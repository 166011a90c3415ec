"""`python tests/browser/screenshots.py CLIP QUESTION`: make the README's two pictures from a real run."""

import sys
import tempfile
from pathlib import Path

from conftest import ROOT, answered, ask, chromium, opened, serve, upload

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
                for _ in range(2):  # the first run after the start is slower than the others
                    ask(page, question)
                    page.wait_for_timeout(500)
                    answered(page)
                page.wait_for_timeout(1500)
                page.mouse.move(0, 0)
                page.screenshot(path=target / name, full_page=True)
                print(target / name, (target / name).stat().st_size, "bytes")
