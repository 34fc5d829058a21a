"""`motiontune view` in a real Chromium: open, choose, play, switch views, ask, filter, drop a bad file.

These tests need Debian's `chromium` and `chromium-driver`, or Chrome and its driver on the PATH.
"""

import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import training
from commands import command, refused
from motiontune import MotionModel
from motiontune.datasets.dataset_info import make_sample, write_dataset
from motiontune.motion.options import MotionOptions
from motiontune.viewer.controls import Settings
from motiontune.viewer.library import Library
from motiontune.viewer.server import serving


BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)
BROWSERS_OWN = ("data:", "blob:", "chrome:", "chrome-untrusted:", "about:")  # the last ones: its empty first page
ANSWERS = ("The square moves left quickly.", "It <b>stops</b>.", "Nothing can be seen.", "Spinning.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of a moving, a still and a broken clip, and one that lies elsewhere."""
    folder = tmp_path_factory.mktemp("view")
    data = folder / "data"
    moving, still = shutil.copy(training.clips()[0], folder), training.write_clip(data / "still.mp4", dx=0, dy=0)
    (data / "moving.mp4").write_bytes(Path(moving).read_bytes())
    (data / "broken.mp4").write_bytes(b"no video")
    paths = [data / "moving.mp4", still, data / "broken.mp4", training.clips()[1]]
    rows = [make_sample(str(path), "What happens?", said) for path, said in zip(paths, ANSWERS, strict=True)]
    write_dataset(data, "toy", rows)
    return data


@pytest.fixture(scope="module")
def address(folder) -> Iterator[str]:
    training.start()
    keys = {**training.BOTH, "learning_rate": 1e-2, "motion_scale": 0.1, "max_steps": 40}  # it says words
    model = MotionModel.from_pretrained(training.run(**training.toy(4), **keys), fps=8.0, max_frames=16)
    # as slow as a model that is not tiny, so that the browser can show the answer's pieces one by one
    model.model.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    settings = Settings(MotionOptions(), "toy", "What happens?", max_new_tokens=48)
    with serving(Library(str(folder)), model.reader, settings, [model], port=0) as (address, _):
        yield address


class Browser:
    """A page in Chromium that can reach this machine alone."""

    def __init__(self, browser: str, driver: str, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--window-size=1500,1200",
            f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.asked_for: set[str] = set()

    def js(self, script: str, *arguments: object) -> object:
        return self.driver.execute_script(f"return {script}", *arguments)

    def wait(self, script: str, seconds: float = 30) -> object:
        """Wait until an expression is true, and return what it is."""
        end = time.monotonic() + seconds
        while not (value := self.js(script)):
            assert time.monotonic() < end, f"{script}\n{self.js('document.body.innerText')}"
            time.sleep(0.03)
        return value

    def click(self, selector: str) -> None:
        self.wait(f"document.querySelector({selector!r})")
        self.js("arguments[0].click()", self.driver.find_element("css selector", selector))

    def text(self, selector: str) -> str:
        return str(self.js(f"document.querySelector({selector!r}).innerText"))

    def reload(self, address: str) -> None:
        self.driver.get(address)
        self.wait("document.querySelectorAll('#clips tbody td').length > 1")
        self.wait(PLAYS)  # the first clip is opened: what is chosen before that would be opened twice

    def choose(self, name: str) -> None:
        """Click on a clip in the table, and wait for its film or for what is wrong with it."""
        self.wait(f"document.querySelector('#clips').innerText.includes({name!r})")
        before = self.js("document.querySelector('#film video')?.getAttribute('src')")
        cells = self.driver.find_elements("css selector", "#clips tbody td")
        next(cell for cell in cells if cell.text.strip() == name).click()
        other = f"document.querySelector('#film video').getAttribute('src') != {json.dumps(before)}"
        plays = f"{PLAYS} && {other} && document.querySelector('#facts').innerText.includes({name!r})"
        self.wait(f"document.querySelector('#line .mt-error')?.innerText.includes({name!r}) || ({plays})")

    def requests(self) -> set[str]:
        """Every address that was asked for since the browser was started."""
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self.asked_for.add(message["params"]["request"]["url"])
        return self.asked_for


PLAYS = "document.querySelector('#film video')?.readyState >= 3"
COLOURFUL = """(() => { const film = document.querySelector('#film video'), canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [film.videoWidth, film.videoHeight];
  const context = canvas.getContext('2d'); context.drawImage(film, 0, 0);
  const pixels = context.getImageData(0, 40, canvas.width, canvas.height - 40).data; let sum = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    const [r, g, b] = pixels.slice(i, i + 3); sum += Math.max(r, g, b) - Math.min(r, g, b); }
  return 4 * sum / pixels.length; })()"""


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory) -> Iterator[Browser]:
    pytest.importorskip("selenium", reason="selenium is not installed: it is in the extra `dev`")
    found = [next(filter(None, map(shutil.which, names)), None) for names in (BROWSERS, DRIVERS)]
    if not all(found):
        pytest.skip("no Chromium with its driver: apt-get install chromium chromium-driver")
    one = Browser(*found, tmp_path_factory.mktemp("profile"))
    yield one
    one.driver.quit()


def film(browser: Browser, other_than: object = None) -> object:
    """Where the film is that plays now."""
    script = "document.querySelector('#film video')?.getAttribute('src')"
    browser.wait(f"{PLAYS} && {script} != {json.dumps(other_than)}")
    return browser.js(script)


def pause_at(browser: Browser, number: int) -> None:
    """Step to a frame, counted from 1, with the page's own buttons."""
    for _ in range(40):
        browser.wait("!document.querySelector('#film video').seeking")
        if browser.text(".mt-time").startswith(f"frame {number} of"):
            return
        browser.click("[data-step='1']")
        time.sleep(0.05)
    raise AssertionError(browser.text(".mt-time"))


def test_a_clip_is_chosen_and_plays(browser, address):
    browser.reload(address)
    assert browser.text("#progress").strip() == "4 of 4 clips"
    browser.choose("moving.mp4")
    film(browser)
    facts = browser.text("#facts")
    assert "moving.mp4" in facts and ANSWERS[0] in facts
    assert "h264, 56×56" in facts and "16 frames of 56×56 px, 4×4 patches" in facts and "codec+flow" in facts
    browser.wait("document.querySelector('#film video').currentTime > 0.3")
    browser.click("[data-step='1']")
    browser.wait("document.querySelector('#film video').paused")
    first = browser.text(".mt-time")
    browser.click("[data-step='-1']")
    browser.wait(f"document.querySelector('.mt-time').innerText != {first!r}")
    browser.click("[data-speed='0.25']")
    assert browser.js("document.querySelector('#film video').playbackRate") == 0.25
    assert browser.js("document.querySelector('#film video').duration") == pytest.approx(16 / 8, abs=0.3)


def test_the_motion_is_shown_in_three_ways(browser, address):
    browser.reload(address)
    browser.choose("moving.mp4")
    seen, last = {}, None
    for show in ("arrows", "none", "colours"):
        if last is not None:
            browser.click(f"#show input[value={show}]")
        last = film(browser, last)
        pause_at(browser, 5)
        seen[show] = browser.js(COLOURFUL)
    assert seen["none"] + 5 < seen["arrows"] and seen["none"] + 5 < seen["colours"], seen


def test_the_model_answers_beside_the_target(browser, address):
    browser.reload(address)
    browser.choose("moving.mp4")
    before = film(browser)
    assert browser.js("document.querySelector('#prompt textarea, #prompt input').value") == "What happens?"
    browser.driver.execute_script(
        "window.said = []; setInterval(() => { const now = document.querySelector('#answer textarea').value;"
        " if (now.trim() && said[said.length - 1] != now) said.push(now); }, 4)"
    )
    browser.click("#ask")
    browser.wait("document.querySelector('.mt-curve svg')")
    film(browser, before)
    said = browser.js("window.said")
    grown = [one for one, then in zip(said, said[1:], strict=False) if then.startswith(one) and then != one]
    assert grown, said  # the text came in pieces
    shape = browser.js("(v => [v.videoWidth, v.videoHeight])(document.querySelector('#film video'))")
    assert shape == [3 * 240, 26 + 240]  # target, prediction and error
    assert "end-point error" in browser.text("#details") and "no motion" in browser.text("#details")
    # the cursor on the curve follows the film, and the film goes where the curve is clicked
    pause_at(browser, 9)
    here = float(str(browser.js("parseFloat(document.querySelector('.mt-cursor').style.left)")))
    pause_at(browser, 12)
    assert here < float(str(browser.js("parseFloat(document.querySelector('.mt-cursor').style.left)")))
    browser.driver.execute_script(
        "const c = document.querySelector('.mt-curve'), r = c.getBoundingClientRect();"
        "c.dispatchEvent(new MouseEvent('click', {bubbles: true, clientX: r.x + arguments[0] / 100 * r.width}))",
        here,
    )
    browser.wait("document.querySelector('.mt-time').innerText.startsWith('frame 9 of')")
    browser.choose("still.mp4")  # another clip has no answer yet
    browser.wait("!document.querySelector('.mt-curve') && !document.querySelector('#answer textarea').value")


def test_all_sources_are_compared(browser, address):
    browser.reload(address)
    browser.choose("moving.mp4")
    before = film(browser)
    browser.click("#sources")
    browser.wait("document.querySelector('.mt-sources')")
    film(browser, before)
    rows = browser.js("[...document.querySelectorAll('.mt-sources tbody th')].map(one => one.innerText)")
    assert rows == ["auto", "codec", "codec+flow", "blockmatch", "blockmatch+flow", "flow"]
    assert browser.js("document.querySelector('#film video').videoHeight") == 2 * (26 + 240)


def test_clips_are_measured_and_filtered(browser, address):
    browser.reload(address)
    browser.click("#kind input[value=still]")
    browser.wait("document.querySelector('#progress').innerText.includes('4 are not measured yet')")
    browser.click("#measuring button")
    browser.click("#measure")
    browser.wait("document.querySelector('#progress').innerText.includes('1 of 4 clips')")
    names = "[...document.querySelectorAll('#clips tbody td')].map(one => one.innerText.trim()).filter(Boolean)"
    browser.wait(f"{names}.includes('still.mp4') && !{names}.includes('moving.mp4')")
    browser.click("#kind input[value=unreadable]")
    browser.wait(f"{names}.includes('broken.mp4') && !{names}.includes('still.mp4')")
    cells = browser.js(names)
    assert any("cannot be read as a video" in cell for cell in cells)
    assert training.clips()[1].name not in cells  # it lies elsewhere, and is read
    browser.click("#kind input[value=moving]")
    browser.wait(f"{names}.includes('moving.mp4') && !{names}.includes('broken.mp4')")


def test_clips_that_cannot_be_shown_say_why(browser, address, folder):
    browser.reload(address)
    browser.choose("broken.mp4")
    assert browser.text("#line .mt-error") == "broken.mp4: cannot be read as a video (Invalid data found when " + (
        "processing input)"
    )
    assert not browser.js("document.querySelector('#film video')")


def test_a_clip_that_lies_elsewhere_is_shown(browser, address):
    browser.reload(address)
    browser.choose(training.clips()[1].name)
    film(browser)


def test_files_are_dropped(browser, address, tmp_path):
    browser.reload(address)
    bad = tmp_path / "dropped <i>.mp4"
    bad.write_bytes(training.clips()[0].read_bytes()[:900])
    field = browser.driver.find_element("css selector", "#drop input[type=file]")
    field.send_keys(str(bad))
    browser.wait("document.querySelector('#line .mt-error')")
    said = browser.text("#line .mt-error")
    assert said.startswith("dropped") and "cannot be read as a video" in said
    browser.click("#drop button[aria-label='Clear'], #drop button[title='Clear'], #drop .icon-button-wrapper button")
    browser.wait("document.querySelector('#drop input[type=file]')")
    good = shutil.copy(training.clips()[2], tmp_path / "good.webm")
    browser.driver.find_element("css selector", "#drop input[type=file]").send_keys(str(good))
    film(browser)
    assert "good.webm" in browser.text("#facts") and "vp9" in browser.text("#facts")
    browser.click("#ask")
    browser.wait("document.querySelector('.mt-curve svg')")


OPENED = "document.querySelector('.mt-name')?.innerText"


def test_the_first_clip_is_open_at_once_and_a_link_opens_another(browser, address):
    browser.driver.get(address)
    browser.wait(f"{PLAYS} && {OPENED} == 'moving.mp4'")
    browser.wait("location.search == '?dataset=toy&row=0&clip=moving.mp4'")
    assert browser.js("document.querySelector('#clips [aria-selected] td').innerText") == "0"
    browser.driver.get(f"{address}?dataset=toy&row=0&clip=still.mp4")  # rows may have moved since: the name decides
    browser.wait(f"{PLAYS} && {OPENED} == 'still.mp4'")
    browser.driver.get(f"{address}?dataset=toy&clip=none.mp4")
    browser.wait("document.querySelector('#trouble .mt-error')?.innerText.includes('no clip none.mp4 in toy')")


def test_arrow_keys_go_from_clip_to_clip_and_from_frame_to_frame(browser, address):
    press = "document.querySelector('h1').dispatchEvent(new KeyboardEvent('keydown', {key: %r, bubbles: true}))"
    browser.driver.get(address)
    browser.wait(f"{PLAYS} && {OPENED} == 'moving.mp4'")
    browser.js(press % "ArrowDown")
    browser.wait(f"{PLAYS} && {OPENED} == 'still.mp4'")
    browser.js(press % "ArrowUp")
    browser.wait(f"{PLAYS} && {OPENED} == 'moving.mp4'")
    pause_at(browser, 4)
    browser.js(press % "ArrowRight")
    browser.wait("document.querySelector('.mt-time').innerText.startsWith('frame 5 of')")
    browser.js(press % "ArrowLeft")
    browser.wait("document.querySelector('.mt-time').innerText.startsWith('frame 4 of')")


def test_every_frame_is_shown_and_the_film_is_downloaded(browser, address):
    browser.driver.get(address)
    before = film(browser)
    browser.click("#every input")
    film(browser, before)
    browser.wait("document.querySelector('.mt-time').innerText.includes('of 16')")
    link = browser.js("(a => [a.href, a.download])(document.querySelector('.mt-bar a'))")
    assert link[1] == "moving.motion.mp4"
    with urllib.request.urlopen(link[0]) as answer:
        assert answer.read(12)[4:8] == b"ftyp"


INSIDE = """(() => { const page = document.documentElement, table = document.querySelector('#clips');
  return page.scrollWidth <= innerWidth && table.scrollWidth <= table.clientWidth; })()"""


@pytest.mark.parametrize("width", [1500, 1000, 800, 420])
def test_the_page_fits_windows_of_every_width(browser, address, width):
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        browser.reload(address)
        browser.wait(f"{PLAYS} && {OPENED} == 'moving.mp4'")
        assert browser.js(INSIDE), width
        end = "document.querySelector('.mt-bar').getBoundingClientRect().bottom"
        if width == 1500:
            assert browser.js(end) <= 1000
        browser.driver.execute_script("scrollTo(0, 0); document.querySelectorAll('#clips [data-row]')[1].click()")
        browser.wait(f"{PLAYS} && {OPENED} == 'still.mp4'")
        seen = (
            "(r => r.top >= 0 && r.top + 200 <= innerHeight)(document.querySelector('#film').getBoundingClientRect())"
        )
        browser.wait(seen)
    finally:
        browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_labels_are_text_and_nothing_else(browser, address):
    browser.reload(address)
    browser.choose("still.mp4")
    film(browser)
    assert ANSWERS[1] in browser.text("#facts") and not browser.js("document.querySelector('#facts b')")


def test_nothing_was_asked_of_another_machine(browser, address):
    """After all that the other tests did."""
    browser.reload(address)
    asked = browser.requests()
    assert any(one.startswith(address) for one in asked)
    assert not [one for one in asked if not one.startswith((address, *BROWSERS_OWN))]
    refused = [
        entry["message"] for entry in browser.driver.get_log("browser") if "Security Policy" in entry["message"]
    ]
    assert not refused


# ---- the server, without a browser ----


def ask_for(address: str, path: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, headers=headers)) as answer:
            return answer.status, answer.read().decode("utf-8", "replace"), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, "", dict(error.headers)


def test_files_of_the_machine_are_not_handed_out(address, folder):
    for path in ("/etc/passwd", folder / "moving.mp4", folder / "dataset_info.json", Path(__file__)):
        assert ask_for(address, f"gradio_api/file={path}")[0] in (403, 404)
    assert ask_for(address, "films/..%2fuploads")[0] == 404
    assert ask_for(address, Host="evil.example")[0] == 400
    status, page, headers = ask_for(address)
    assert status == 200 and "default-src 'self'" in headers["content-security-policy"]
    assert "cdnjs" not in page and "googleapis" not in page and '<link rel="preconnect"' not in page


def run_event(address: str, event: int, *data: object) -> dict[str, Any]:
    """Do what the page does when something happens on it; return what the server says at last."""
    body = json.dumps({"data": data, "fn_index": event, "session_hash": "forged"}).encode()
    post = urllib.request.Request(f"{address}gradio_api/queue/join", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(post) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=forged", timeout=30) as lines:
        said = [json.loads(line[5:]) for line in lines if line.startswith(b"data:")]
    return next(one for one in said if one["msg"] == "process_completed")


def test_a_forged_upload_is_not_opened(address, folder, tmp_path):
    """A file of the machine is named where the page would name one that was uploaded."""
    config = json.loads(ask_for(address, "config")[1])
    (drop,) = [one["id"] for one in config["components"] if one["props"].get("elem_id") == "drop"]
    (event,) = [one["id"] for one in config["dependencies"] if [drop, "upload"] in map(list, one["targets"])]
    (opened,) = [one["id"] for one in config["dependencies"] if one["trigger_after"] == event]
    outside = shutil.copy(training.clips()[0], tmp_path / "outside.mp4")
    for path in (outside, folder / "moving.mp4", "/etc/passwd", "http://127.0.0.1:9/x.mp4"):
        said = run_event(address, event, {"path": str(path), "meta": {"_type": "gradio.FileData"}})
        assert said["success"] is False, said
        shown = run_event(address, opened, None, "arrows", "auto", False)
        assert shown["success"] and "Choose a clip in the table" in json.dumps(shown)  # nothing was chosen


# ---- the command ----


def test_what_cannot_be_viewed(tmp_path, capfd, folder):
    assert "has no video in it" in refused(capfd, "view", tmp_path)
    assert "dataset_info.json does not exist" in refused(capfd, "view", "--dataset-dir", tmp_path)
    message = refused(capfd, "view", "--dataset-dir", folder, "--dataset", "tou")
    assert "'tou' is none of toy: did you mean 'toy'?" in message
    write_dataset(tmp_path, "gone", [make_sample("gone.mp4", "What?", "That.")])
    message = refused(capfd, "view", "--dataset-dir", tmp_path, "--model", "nothing")  # before the model
    assert "none of the 1 clips of 'gone' is there" in message
    (tmp_path / "dataset_info.json").unlink()
    assert "'radar' is none of" in refused(capfd, "view", "--target", "radar")
    assert "--beside is for a second model" in command(capfd, "view", "--beside", "m")[2]
    assert "only read with the source file, not auto" in refused(capfd, "view", "--motion-dir", tmp_path)
    assert "is no model" in refused(capfd, "view", "--model", tmp_path)
    code, _, err = command(capfd, "view", "--template", "qwen2_vl")
    assert code == 2 and "are for --model" in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1, --port {port}: " in refused(capfd, "view", "--port", port)


@pytest.mark.parametrize("ends", ["SIGINT", "SIGTERM"])
def test_the_command_serves_until_it_is_interrupted(ends, folder, tmp_path):
    """In a process of its own, without a model: LLaMA-Factory is not loaded. It leaves nothing."""
    import os
    import signal
    import subprocess
    import sys

    code = (
        "import sys; from motiontune.cli import main\ntry: main()\nfinally: assert 'llamafactory' not in sys.modules"
    )
    arguments = ["view", str(folder / "moving.mp4"), "--dataset-dir", str(folder), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(training.REPOSITORY / "src"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # a shell lets what it starts in the background ignore this signal, and so all that follows from it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        lines = iter(process.stdout.readline, "")
        address = next(line for line in lines if "http" in line).split()[2]
        assert address.startswith("http://127.0.0.1:")
        assert ask_for(address)[0] == 200
        assert list(tmp_path.glob("motiontune-view-*"))
        process.send_signal(signal.Signals[ends])
        assert process.wait(20) == 0 and "Traceback" not in process.stderr.read()
        assert not list(tmp_path.glob("motiontune-view-*"))
