"""The report in a real browser, opened from disk: no error, no request, and the numbers of the files."""

import json
import shutil
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrsynth.contrasts import Contrast
from mrsynth.reports.index_page import index_html
from mrsynth.reports.montage import Panel, montage
from mrsynth.reports.record import InputRecord, OutputRecord, Report, SamplerRecord, WeightsRecord
from mrsynth.reports.subject_page import notebook_html, report_html
from mrsynth.reports.viewer import SubjectPicture, viewer_data
from mrsynth.scans.views import png

SHAPE = (30, 36, 24)
ENDS = {"T1": (0.0, 1500.0), "synthetic T1ce": (0.0, 1000.0), "true T1ce": (20.0, 820.0), "difference": (0.0, 1.0)}
KINDS = ("input", "synthetic", "reference", "difference")
WIDTHS = {"desk": 1200, "phone": 400}


@pytest.fixture(scope="module")
def volumes() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {title: rng.random(SHAPE, np.float32) for title in ENDS}


@pytest.fixture(scope="module")
def page(volumes: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    panels = [
        Panel(title, voxels, kind, ENDS[title])  # type: ignore[arg-type]
        for (title, voxels), kind in zip(volumes.items(), KINDS, strict=True)
    ]
    picture = SubjectPicture(montage(panels, np.ones(SHAPE, bool)), viewer_data(panels, np.ones(SHAPE, bool)))
    path = tmp_path_factory.mktemp("page") / "report.html"
    report = Report(
        version="0",
        created=datetime(2026, 11, 28, tzinfo=UTC),
        subject="p1",
        layout="BraTS 2021",
        inputs=(InputRecord(contrast="t1", file="t1.nii", sha256="0", shape=SHAPE, spacing=(1, 1, 1), axes="LPS"),),
        selection="the only one",
        weights=WeightsRecord(name="w", sha256=None, licence="CC0", method="fgc2f"),
        sampler=SamplerRecord(name="ddim", steps=1, seed=0, precision="fp32", device="cpu"),
        outputs=(OutputRecord(contrast="t1ce", file="t1ce.nii", sidecar="t1ce.json", sha256="0"),),
    )
    path.write_text(report_html(report, {Contrast.T1CE: picture}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium without a window, driven through loopback; skips where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver")
    driver, browser = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and browser):
        pytest.skip("no browser: chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = browser
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield window
    window.quit()


@pytest.fixture(params=WIDTHS)
def opened(request: pytest.FixtureRequest, chromium: Any, page: Path) -> Any:
    """The page at the width of a desk's or a phone's window, when its viewer is ready."""
    from selenium.webdriver.support.ui import WebDriverWait

    size = {"width": WIDTHS[request.param], "height": 900, "deviceScaleFactor": 1, "mobile": request.param == "phone"}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    for kind in ("browser", "performance"):
        chromium.get_log(kind)  # of the page before
    chromium.get(page.as_uri())
    WebDriverWait(chromium, 60).until(lambda d: d.execute_script(f"return {VIEWER}.root.dataset.ready"))
    return chromium


VIEWER = "mrsynthViewers[0]"


def shown(browser: Any) -> dict[str, float]:
    """Title -> value under the crosshair, as a reader sees them."""
    lines = browser.find_elements("css selector", ".viewer .values > span")
    cells = [[cell.text for cell in line.find_elements("css selector", "*")] for line in lines[1:]]
    return {title: float(value.removeprefix("\u2265 ")) for title, value in cells}


def place(browser: Any) -> tuple[int, ...]:
    """Where the crosshair is, as a reader sees it."""
    text = browser.find_element("css selector", ".viewer .values > span b").text
    return tuple(int(n) for n in text.split(", "))


def press(browser: Any, *keys: str) -> None:
    viewer = browser.find_element("css selector", ".viewer")
    for key in keys:
        viewer.send_keys(key)


def test_it_opens_from_disk_without_an_error_or_a_request_and_fits_the_window(opened: Any) -> None:
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]

    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert sum(url.startswith("file:") for url in asked) == 1
    assert opened.get_log("browser") == []
    assert opened.execute_script("return document.documentElement.scrollWidth <= innerWidth")


def test_values_under_the_crosshair_are_those_of_the_files_within_one_grey_step(
    opened: Any, volumes: dict[str, Any]
) -> None:
    for at in ((3, 30, 20), (29, 0, 11), (14, 17, 0)):
        opened.execute_script(f"{VIEWER}.at = {list(at)}; {VIEWER}.draw()")
        values = shown(opened)
        assert place(opened) == at and list(values) == list(ENDS)
        for title, value in values.items():
            low, high = ENDS[title]
            assert abs(low + (high - low) * float(volumes[title][at]) - value) <= (high - low) / 255 + 0.5 * (high > 9)


def test_no_figure_and_no_short_text_is_broken(opened: Any) -> None:
    lines = opened.execute_script(
        "return [...document.querySelectorAll('td.number, td.short')].map(cell => {"
        "  const range = document.createRange(); range.selectNodeContents(cell);"
        "  return new Set([...range.getClientRects()].map(r => Math.round(r.top))).size; })"
    )

    assert len(lines) > 5 and max(lines) == 1


def test_keys_slider_and_click_move_the_crosshair(opened: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    i, j, k = place(opened)
    press(opened, Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_RIGHT)
    assert place(opened) == (i + 1, j, k + 2)

    axial, coronal, _ = opened.find_elements("css selector", ".viewer .plane")
    opened.execute_script(
        "arguments[0].value = 7; arguments[0].dispatchEvent(new Event('input'))",
        axial.find_element("css selector", "input"),
    )
    assert place(opened) == (i + 1, j, 7)

    canvas = coronal.find_element("css selector", "canvas")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(opened).move_to_element_with_offset(canvas, canvas.size["width"] // 4, 0).click().perform()
    x, y, z = place(opened)
    assert y == j and x == pytest.approx(0.75 * SHAPE[0], abs=1) and z == pytest.approx(SHAPE[2] / 2, abs=1)


def test_space_flickers_between_two_volumes_and_what_is_synthetic_is_marked(opened: Any) -> None:
    def pressed() -> tuple[str, bool, str]:
        viewer = opened.find_element("css selector", ".viewer")
        button = viewer.find_element("css selector", "button[aria-pressed=true]")
        framed = "synthetic" in (viewer.get_attribute("class") or "").split()
        return button.text, framed, viewer.find_element("css selector", ".mark").text

    assert pressed() == ("synthetic T1ce", True, "SYNTHETIC")
    press(opened, " ")
    assert pressed() == ("true T1ce", False, "")
    press(opened, " ")
    assert pressed() == ("synthetic T1ce", True, "SYNTHETIC")
    press(opened, "1")
    assert pressed() == ("T1", False, "")
    press(opened, " ")
    assert pressed() == ("synthetic T1ce", True, "SYNTHETIC")


def test_planes_are_drawn_as_a_radiologist_looks_at_them(opened: Any, volumes: dict[str, Any]) -> None:
    """Grey of a drawn pixel against the voxel that must be there: right is left, anterior and superior are up."""
    opened.execute_script(f"{VIEWER}.at = [9, 12, 6]; {VIEWER}.show(0); {VIEWER}.draw()")
    u = volumes["T1"]
    expected = {0: u[:, :, 6].T, 1: u[:, 12, ::-1].T, 2: u[9, :, ::-1].T}
    for number, plane in expected.items():
        flat = opened.execute_script(
            f"const c = {VIEWER}.planes[{number}].image;"
            "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
        )
        drawn = np.asarray(flat, float).reshape(*plane.shape, 4)[..., 0]
        np.testing.assert_allclose(drawn, plane * 255, atol=0.51)


def test_an_overlay_colours_only_where_it_says_something(opened: Any) -> None:
    def colourful() -> bool:
        flat = opened.execute_script(
            f"const c = {VIEWER}.planes[0].image;"
            "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
        )
        pixels = np.asarray(flat).reshape(-1, 4)
        return bool((pixels[:, 0] != pixels[:, 2]).any())

    assert not colourful() and not opened.find_element("css selector", ".viewer .scale").is_displayed()
    press(opened, "o")
    assert colourful() and opened.find_element("css selector", ".viewer .scale").is_displayed()


def test_zoom_stays_within_its_bounds_and_shows_what_is_around_the_crosshair(opened: Any) -> None:
    press(opened, *"+" * 12)
    zoom = opened.execute_script(f"return {VIEWER}.zoom")
    view = opened.execute_script(f"return {VIEWER}.view(2)")
    at = place(opened)

    assert zoom == 8
    assert view["x"] <= at[0] <= view["x"] + view["width"] and view["y"] <= at[1] <= view["y"] + view["height"]
    press(opened, *"-" * 12)
    assert opened.execute_script(f"return {VIEWER}.zoom") == 1


def test_the_frame_of_a_notebook_shows_the_viewer(chromium: Any, volumes: dict[str, Any], tmp_path: Path) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    panels = [Panel("T1", volumes["T1"], "input"), Panel("synthetic T1ce", volumes["synthetic T1ce"], "synthetic")]
    path = tmp_path / "cell.html"
    cell = notebook_html("p1", {Contrast.T1CE: viewer_data(panels, np.ones(SHAPE, bool))})
    path.write_text(f"<!DOCTYPE html><p>a cell</p>{cell}", encoding="utf-8")
    chromium.get_log("browser")
    chromium.get(path.as_uri())
    chromium.switch_to.frame(chromium.find_element("css selector", "iframe"))
    try:
        WebDriverWait(chromium, 60).until(lambda d: d.execute_script(f"return {VIEWER}.root.dataset.ready"))
        assert list(shown(chromium)) == ["T1", "synthetic T1ce"]
        assert "SYNTHETIC" in chromium.find_element("css selector", "header").text
    finally:
        chromium.switch_to.default_content()
    assert chromium.get_log("browser") == []


def test_on_a_phone_the_index_of_a_batch_shows_each_picture_beside_its_subject(chromium: Any, tmp_path: Path) -> None:
    thumbnail = b64encode(png(np.zeros((96, 96), np.uint8))).decode()
    usual = {"status": "done", "reason": "", "made": ("t1ce",), "weights": "w", "seconds": 3.0, "warnings": ("a",)}
    records = [{**usual, "subject": f"s{n}", "score": 20.0, "thumbnail": thumbnail} for n in range(3)]
    path = tmp_path / "index.html"
    path.write_text(index_html(records, []), encoding="utf-8")
    for width, wide in ((400, True), (1200, False)):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        chromium.get(path.as_uri())
        ends = chromium.execute_script(
            "return [...document.querySelectorAll('#subjects img')].map(i => i.getBoundingClientRect().right)"
        )
        assert len(ends) == 3 and max(ends) <= width
        label = "return getComputedStyle(document.querySelector('#subjects td[data-label]'), '::before').content"
        assert ("self-check" in chromium.execute_script(label)) == wide


def test_the_index_of_a_batch_sorts_names_by_all_of_their_letters_and_counts_by_number(
    chromium: Any, tmp_path: Path
) -> None:
    usual = {"status": "done", "reason": "", "made": ("t1ce",), "weights": "w", "seconds": 3.0, "thumbnail": ""}
    told = {"2021-02-03": (20.5, 1), "2021-02-01": (9.0, 12), "2021-02-02": (None, 2)}
    records = [
        {**usual, "subject": name, "score": score, "warnings": ("3 slices are dark.",) * count}
        for name, (score, count) in told.items()
    ]
    path = tmp_path / "index.html"
    path.write_text(index_html(records, []), encoding="utf-8")
    chromium.get(path.as_uri())

    def days_by(heading: int) -> list[str]:
        chromium.find_elements("css selector", "#subjects th")[heading].click()
        rows = chromium.find_elements("css selector", "#subjects tbody tr")
        return [row.get_attribute("data-subject")[-1] for row in rows]

    assert days_by(0) == ["1", "2", "3"]
    assert days_by(0) == ["3", "2", "1"]
    assert days_by(3) == ["1", "3", "2"]
    assert days_by(4) == ["3", "2", "1"]


def test_marks_to_keep_and_redo_are_saved_as_tsv(chromium: Any, tmp_path: Path) -> None:
    usual = {"status": "done", "reason": "", "made": ("t1ce",), "weights": "w", "seconds": 3.0, "thumbnail": ""}
    names = ("a", "b\tc", "d")
    path = tmp_path / "index.html"
    records = [{**usual, "subject": name, "score": 20.0, "warnings": ()} for name in names]
    path.write_text(index_html(records, []), encoding="utf-8")
    chromium.get(path.as_uri())
    for name, mark in (("a", "keep"), ("b\tc", "keep"), ("b\tc", "redo")):
        chromium.execute_script(f"document.querySelector(`input[name='{name}'][value={mark}]`).click()")
    chromium.execute_script("URL.createObjectURL = (blob) => { window.saved = blob; return '#'; };")
    chromium.find_element("id", "export").click()
    saved = chromium.execute_async_script("window.saved.text().then(arguments[0])")

    assert saved == "subject\tmark\na\tkeep\nb c\tredo\n"
