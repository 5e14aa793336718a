"""A page as a browser shows it: at the width of a desk and of a phone, light and dark.

usage: python runs/measure/screenshots.py PAGE.html OUT      writes OUT/PAGE-{1200,400}-{light,dark}.png

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
    """Four pictures."""
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    page, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = shutil.which("chromedriver")
    if driver is None:  # or selenium would look for one in the network
        raise SystemExit("chromedriver is not installed")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    faults = []
    try:
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
                if wide > width:
                    faults.append(f"{width} {light}: the page is {wide} pixels wide")
                faults += [f"{width} {light}: {entry['message']}" for entry in browser.get_log("browser")]
                clip = {"x": 0, "y": 0, "width": width, "height": min(high, TALLEST), "scale": 1}
                shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
                (out / f"{page.stem}-{width}-{light}.png").write_bytes(base64.b64decode(shot["data"]))
    finally:
        browser.quit()
    print("\n".join(faults) or "nothing to complain of")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
