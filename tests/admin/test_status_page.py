"""The status page in a real browser: it shows what happens, without a script too, and changes only what it may.

Each test ends with a look at the browser's console: an error there, a violation of the Content-Security-Policy or a
request to somewhere else fails it.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from launch import Launched, launched, wait_for
from pronghorn.admin.feed import MOST_STREAMS

webdriver: Any = pytest.importorskip("selenium.webdriver")
exceptions: Any = pytest.importorskip("selenium.common.exceptions")
pytest.importorskip("h11")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("chromium and chromedriver are not installed (Debian: chromium-driver)", allow_module_level=True)
pytestmark = pytest.mark.slow

HANDLER = Path(__file__).parent.parent / "status_page_under_test.py"
TOKEN = "only-for-this-test-0123456789"
HOSTILE = "<img src=x onerror=\"document.title='taken'\">\u202e'&"


class Browser:
    """A browser with one tab, and the server whose page it shows."""

    def __init__(self, driver: Any, server: Launched) -> None:
        self.driver, self.server = driver, server
        self.place = server.report["admin"][0]
        self.url = f"http://{self.place}/"

    def open(self) -> None:
        """The page anew, once its script has heard from the server."""
        self.driver.get(self.url)
        wait_for(lambda: self.text("#live") == "live", "a view")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector))

    def column(self, table: str, column: int) -> list[str]:
        rows = "[...document.querySelectorAll(arguments[0] + ' tbody tr')]"
        script = f"return {rows}.map(row => row.cells[arguments[1]].textContent)"
        return list(self.run(script, f"#{table}", column))

    def click(self, selector: str) -> None:
        """Once it can be: the next view may replace an element, or a question still be on its way."""
        wait_for(lambda: self._clicked(selector), f"{selector} to click on")

    def _clicked(self, selector: str) -> bool:
        try:
            self.driver.find_element("css selector", selector).click()
        except (exceptions.StaleElementReferenceException, exceptions.ElementNotInteractableException):
            return False
        return True

    def emulate(self, scheme: str = "light", width: int = 1280, *, script: bool = True) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})

    def faults(self) -> list[str]:
        """What the console has, and requests to somewhere else, since the last time."""
        found = [each["message"] for each in self.driver.get_log("browser")]
        for each in self.driver.get_log("performance"):
            message = json.loads(each["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                found += [] if url.startswith((self.url, "data:", "about:", "chrome:")) else [f"asked for {url}"]
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("page") / "<b>\"&'"
    folder.mkdir()
    handler = folder / "<script>alert(1)<!--.py"
    handler.write_bytes(HANDLER.read_bytes())
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    about = {"admin": "127.0.0.1:0", "admin_write": True, "admin_token_file": str(token)}
    with launched(folder, f"{handler}:shout", workers=2, model="epoll", **about) as server:
        server.ready(2)
        yield server


@pytest.fixture(scope="module")
def running(server: Launched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("profile")
    for each in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "no-first-run", f"user-data-dir={profile}"):
        options.add_argument(f"--{each}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        yield Browser(driver, server)
    finally:
        driver.quit()


@pytest.fixture
def browser(running: Browser) -> Iterator[Browser]:
    running.emulate()
    running.open()
    yield running
    assert running.faults() == []


@contextmanager
def talking(server: Launched, count: int) -> Iterator[list[socket.socket]]:
    """So many clients that have said something."""
    with ExitStack() as undo:
        clients = [undo.enter_context(server.connect()) for _ in range(count)]
        for each in clients:
            each.sendall(b"hello\n")
            assert each.recv(100) == b"HELLO\n"
        yield clients


@pytest.mark.timeout(150)
def test_it_shows_what_happens_without_being_loaded_anew(browser: Browser) -> None:
    wait_for(lambda: is_well(browser), "the end of what other tests have done, which is told for a minute", 80)
    browser.run("window.kept = true")
    assert len(browser.column("workers", 0)) == 2
    with talking(browser.server, 12):
        wait_for(lambda: "12 connections" in browser.text("#verdict"), "the count in the first line")
        wait_for(lambda: sum(map(int, browser.column("workers", 4))) == 12, "the counts of workers")
        wait_for(lambda: len(browser.column("longest", 0)) == 10, "the list of connections")
    wait_for(lambda: "serve 0 connections" in browser.text("#verdict") and is_well(browser))
    curves = "return [...document.querySelectorAll('figure svg .curve')].filter(each => each.getAttribute('d')).length"
    assert browser.run(curves) >= 5
    assert browser.run("return window.kept")


def is_well(browser: Browser) -> bool:
    return browser.text("#verdict").startswith("All is well") and browser.driver.title.startswith("OK")


def test_a_worker_that_is_killed_shows_by_itself(browser: Browser) -> None:
    before = set(browser.column("workers", 2))
    with talking(browser.server, 4):
        os.kill(int(min(before)), signal.SIGKILL)
        wait_for(lambda: "died" in browser.text("#verdict"), "the alarm")
    assert browser.run("return document.querySelector('header').dataset.level") in ("warn", "bad")
    wait_for(lambda: len(set(browser.column("workers", 2)) - before) == 1, "the new worker")


def test_a_supervisor_that_is_stopped_stands_in_the_first_line(browser: Browser) -> None:
    os.kill(browser.server.pid, signal.SIGSTOP)
    try:
        wait_for(lambda: "supervisor does not answer" in browser.text("#verdict"), "the alarm")
        assert len(browser.column("workers", 0)) == 2, "what was seen last stands there"
    finally:
        os.kill(browser.server.pid, signal.SIGCONT)
    wait_for(lambda: "supervisor does not answer" not in browser.text("#verdict"), "its end")


def test_what_others_say_is_text(browser: Browser) -> None:
    with browser.server.connect() as client:
        client.sendall(f"warn {HOSTILE}\n".encode())
        client.recv(1000)
        wait_for(lambda: "img src=x" in "".join(browser.column("records", 3)), "the record")
    record = next(each for each in browser.column("records", 3) if "img" in each)
    assert "\\u202e" in record and "\u202e" not in browser.driver.page_source
    assert "<script>alert(1)" in browser.text("#about") and browser.driver.title != "taken"
    assert browser.run("return [document.images.length, document.scripts.length]") == [0, 1]
    browser.driver.refresh()
    wait_for(lambda: browser.text("#live") == "live")
    assert browser.run("return [document.images.length, document.scripts.length]") == [0, 1]


def test_light_and_dark_and_narrow(browser: Browser) -> None:
    colour = "return getComputedStyle(document.documentElement).backgroundColor"
    light = browser.run(colour)
    browser.emulate("dark")
    dark = browser.run(colour)
    assert light != dark
    choose = (
        "const it = document.getElementById('theme'); it.value = arguments[0]; it.dispatchEvent(new Event('change'))"
    )
    browser.run(choose, "light")
    assert browser.run(colour) == light
    browser.open()
    assert browser.run(colour) == light, "the choice is kept"
    browser.run(choose, "auto")
    assert browser.run(colour) == dark
    browser.emulate(width=390)
    assert browser.run("return document.documentElement.scrollWidth") <= 390


def test_a_chart_is_read_by_keys(browser: Browser) -> None:
    chart = browser.driver.find_element("css selector", "figure svg")
    before = chart.get_attribute("aria-valuetext")
    chart.send_keys("\ue012")  # the left arrow
    assert chart.get_attribute("aria-valuenow") == "-1" and chart.get_attribute("aria-valuetext") != before
    wait_for(lambda: chart.get_attribute("aria-valuetext").startswith("1 s ago: open "), "a history of a second")


def test_a_page_without_news_says_so(browser: Browser) -> None:
    with urllib.request.urlopen(f"{browser.url}status.json", timeout=15) as response:
        (side,) = json.load(response)["status"]["side_processes"]
    os.kill(side["pid"], signal.SIGSTOP)
    try:
        browser.run("const now = Date.now; Date.now = () => now() + 60000")  # a minute later
        wait_for(lambda: "no news" in browser.text("#verdict"), "the warning")
        assert browser.driver.title.startswith("NO NEWS")
    finally:
        os.kill(side["pid"], signal.SIGCONT)
    wait_for(lambda: "no news" not in browser.text("#verdict"), "the next view")


def test_it_is_whole_without_a_script(running: Browser) -> None:
    running.emulate(script=False)
    with talking(running.server, 3):
        running.driver.get(running.url)
        found = running.driver.find_elements("css selector", "#workers tbody tr")
        assert len(found) == 2
        assert running.driver.find_element("css selector", "#verdict").text
        assert running.driver.find_element("css selector", "noscript meta").get_attribute("content") == "5"
    running.emulate()
    assert running.faults() == []


def answer(browser: Browser) -> str:
    return browser.text("#answer")


def test_whoever_has_the_token_may_change_the_server(browser: Browser) -> None:
    assert not browser.driver.find_element("css selector", "[data-action=drain]").is_displayed()
    browser.driver.find_element("css selector", "#token").send_keys("guess\n")
    wait_for(lambda: answer(browser) == "The token is wrong.")
    wait_for(lambda: any("401" in each for each in browser.faults()), "what the console says of it")
    browser.driver.find_element("css selector", "#token").send_keys(TOKEN + "\n")
    wait_for(lambda: answer(browser) == "The token is right.")
    count = browser.driver.find_element("css selector", "#count")
    count.send_keys(webdriver.Keys.BACKSPACE * 5 + "3")  # clear() is no input, and the page would fill it in again
    browser.click("[data-action=resize]")
    assert "Resize to 3 workers?" in browser.text("#question")
    browser.click("#question button[value=no]")
    assert answer(browser) == "The token is right."
    browser.click("[data-action=resize]")
    browser.click("#yes")
    wait_for(lambda: answer(browser).startswith("Resized to 3"))
    wait_for(lambda: len(browser.column("workers", 0)) == 3, "the third worker")
    with talking(browser.server, 1) as (client,):
        wait_for(lambda: len(browser.column("longest", 0)) == 1, "the connection")
        browser.click("#longest tbody button")
        browser.click("#yes")
        wait_for(lambda: answer(browser).endswith("was ended."), "the end")
        try:
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass
    browser.click("[data-action=reload]")
    browser.click("#yes")
    wait_for(lambda: answer(browser).startswith("Reloaded: generation "))
    count.send_keys(webdriver.Keys.BACKSPACE * 5 + "2")
    browser.click("[data-action=resize]")
    browser.click("#yes")
    wait_for(lambda: len(browser.column("workers", 0)) == 2, "as many workers as before, for other tests")
    assert TOKEN not in browser.driver.page_source + browser.server.log + browser.driver.current_url


def asked(place: str, method: str, path: str, body: str | None = None, **headers: str) -> int:
    connection = http.client.HTTPConnection(place, timeout=15)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def test_an_order_needs_its_token_its_form_and_its_page(server: Launched) -> None:
    place = server.report["admin"][0]
    right = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}
    order = json.dumps({"action": "check"})
    assert asked(place, "POST", "/actions", order, **right) == 200
    assert asked(place, "POST", "/actions", order, **{**right, "Authorization": "Bearer guess"}) == 401
    assert asked(place, "POST", "/actions", order, **{**right, "Content_Type": "text/plain"}) == 415
    assert asked(place, "POST", "/actions", order, **right, Origin="http://evil.example") == 403
    assert asked(place, "POST", "/actions", order, **right, Sec_Fetch_Site="cross-site") == 403
    assert asked(place, "POST", "/actions", '{"action": "stop"}', **right) == 400
    assert asked(place, "GET", "/actions", **right) == 405
    assert asked(place, "POST", "/", order, **right) == 405


def test_streams_are_counted(server: Launched) -> None:
    host, _, port = server.report["admin"][0].rpartition(":")
    with ExitStack() as undo:
        answers = []
        for _ in range(MOST_STREAMS + 1):
            stream = undo.enter_context(socket.create_connection((host, int(port)), timeout=15))
            stream.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            answers.append(stream.recv(12))
        assert answers[-1] == b"HTTP/1.1 503" and answers.count(answers[-1]) <= 4, "the browser may have some"
        assert asked(f"{host}:{port}", "GET", "/events") == 503
        assert asked(f"{host}:{port}", "GET", "/") == 200
    wait_for(lambda: _is_streamed(host, int(port)), "room for another stream")


def _is_streamed(host: str, port: int) -> bool:
    with socket.create_connection((host, port), timeout=15) as sock:
        sock.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        return sock.recv(12) == b"HTTP/1.1 200"
