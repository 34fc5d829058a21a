"""Without a network what is cached is used at once, and nobody waits for a hub that does not answer."""

import os
import socket
import time

import pytest
from huggingface_hub import constants

from motiontune.model import hub


@pytest.fixture(autouse=True)
def online(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that what is set here is undone
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub._answers.cache_clear()
    yield
    hub._answers.cache_clear()


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
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    assert not goes_offline("Qwen/Qwen2-VL-2B-Instruct")
