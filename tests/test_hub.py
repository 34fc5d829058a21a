"""Without a network what is cached is used at once, and nobody waits for a hub that does not answer."""

import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from motiontune.errors import ConfigError
from motiontune.model import hub


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that what is set here is undone
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._reached.cache_clear()
    yield
    hub._reached.cache_clear()


@pytest.fixture(autouse=True)
def cached(monkeypatch, tmp_path_factory):
    """A cache in which one repository is."""
    cache = tmp_path_factory.mktemp("hub")
    repository = cache / "models--Qwen--Qwen2-VL-2B-Instruct"
    (repository / "snapshots/1").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("1")
    (repository / "snapshots/1/config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


def goes_offline(*places):
    hub.use_cache_without_network(*places)
    assert os.environ["HF_HUB_OFFLINE"] == str(int(constants.is_offline_mode()))
    return constants.is_offline_mode()


def test_a_hub_that_refuses_or_has_no_address(monkeypatch, caplog):
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    assert goes_offline("Qwen/Qwen2-VL-2B-Instruct")
    line = "hub.invalid cannot be reached: only what is in the cache can be loaded (HF_HUB_OFFLINE=1)."
    assert [record.message for record in caplog.records] == [line]


def test_a_hub_whose_name_is_looked_up_for_long(monkeypatch):
    monkeypatch.setattr(hub, "SECONDS", 0.2)
    monkeypatch.setattr(hub, "_connects", lambda *_: time.sleep(2) or False)
    started = time.monotonic()
    assert goes_offline("Qwen/Qwen2-VL-2B-Instruct") and time.monotonic() - started < 1


def test_a_hub_that_answers(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert not goes_offline(None, "Qwen/Qwen2-VL-2B-Instruct")


def test_nobody_is_asked_about_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_connects", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saves").mkdir()
    assert not goes_offline(None, "", str(tmp_path), "saves", "/not/there", "./saves/x", "saves/a/b")


def test_what_is_not_cached_is_refused_in_our_words(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    with pytest.raises(ConfigError) as error:
        hub.use_cache_without_network("Qwen/Qwen2-VL-2B-Instruct", "saves/mistyped")
    reason = "hub.invalid cannot be reached: name a folder"
    assert str(error.value) == f"saves/mistyped is no folder here, and not in the hub's cache; {reason}"
    with pytest.raises(ConfigError, match="Qwen/other is no folder here.*; HF_HUB_OFFLINE is set: name a folder"):
        hub.use_cache_without_network("Qwen/other")  # offline by now
    with pytest.raises(ConfigError, match="no folder here"):
        hub.use_cache_without_network("Qwen/Qwen2-VL-2B-Instruct", revision="another")


@pytest.mark.parametrize("code, reaches", [(200, True), (404, True), (403, False), (502, False)])
def test_behind_a_proxy_the_hub_itself_must_answer(code, reaches, monkeypatch):
    class Proxy(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(code)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
        assert goes_offline("Qwen/Qwen2-VL-2B-Instruct") != reaches
