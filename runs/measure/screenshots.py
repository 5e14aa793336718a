"""Pages as a browser shows them: at the width of a desk and of a phone, light and dark.

usage: python runs/measure/screenshots.py PAGE.html [PAGE.html ...] OUT

Writes OUT/NAME-{1200,400}-{light,dark}.png, where NAME is the folder of the page and the page: subject-report,
batch-index, bench-report for the pages of `complete`, `batch` and `benchmark` in folders of such names.

Needs Chromium and its driver (`apt-get install chromium chromium-driver`) and selenium (extra `dev`). Prints what the
browser complained of, and pages that are wider than their window; status 1 for either.
"""

import base64
import shutil
import sys
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

WIDTHS = (1200, 400)
READY = "return [...document.querySelectorAll('.viewer')].every(viewer => viewer.dataset.ready)"
TALLEST = 6000  # pixels


def main() -> None:
    """Four pictures a page."""
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    *pages, out = (Path(argument) for argument in sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    driver = shutil.which("chromedriver")
    if driver is None:  # or selenium would look for one in the network
        raise SystemExit("chromedriver is not installed")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        faults = [fault for page in pages for fault in shots(browser, page.resolve(), out)]
    finally:
        browser.quit()
    print("\n".join(faults) or "nothing to complain of")
    sys.exit(bool(faults))


def shots(browser: webdriver.Chrome, page: Path, out: Path) -> list[str]:
    """Take the pictures of a page; what is wrong with it."""
    faults = []
    for width in WIDTHS:
        for light in ("light", "dark"):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            scheme = {"features": [{"name": "prefers-color-scheme", "value": light}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
            browser.get(page.as_uri())
            WebDriverWait(browser, 120).until(lambda driver: driver.execute_script(READY))
            wide, high = browser.execute_script(
                "const page = document.documentElement; return [page.scrollWidth, page.scrollHeight]"
            )
            name = f"{page.parent.name}-{page.stem}-{width}-{light}"
            if wide > width:
                faults.append(f"{name}: the page is {wide} pixels wide")
            faults += [f"{name}: {entry['message']}" for entry in browser.get_log("browser")]
            clip = {"x": 0, "y": 0, "width": width, "height": min(high, TALLEST), "scale": 1}
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
            (out / f"{name}.png").write_bytes(base64.b64decode(shot["data"]))
    return faults


if __name__ == "__main__":
    main()
