"""`motiontune view`: a page in the browser to look through clips, their motion, and what a model answers and predicts.

The page is Gradio's, served on this machine. It asks nothing of any other: what Gradio would load from elsewhere is
taken out, and the browser is told to refuse the rest. Films are drawn into a temporary folder, which is the only one
that files are handed out from; a clip is opened only where a data set names it, or the user.
"""

import contextlib
import io
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from motiontune.errors import ConfigError
from motiontune.training.names import Name, check
from motiontune.video.reader import Reader
from motiontune.viewer.controls import Films, Settings, Viewer
from motiontune.viewer.layout import build
from motiontune.viewer.library import Library
from motiontune.viewer.model import Model
from motiontune.viewer.recorded import Recorded


GRADIO = "5.50.0"
NAMES = [Name("gradio.blocks:Block", "__init__", "keeps the page to uploaded files", mentions="has_launched")]

_LOCAL = "127.0.0.1"
_PORTS = range(7860, 7960)
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_ELSEWHERE = re.compile(
    r'<(?:link|script)\b[^>]*?\s(?:href|src)="https?://[^>]*>(?:\s*</script>)?|<link rel="manifest"[^>]*>'
)


class _Guard:
    """Keeps the page to this machine: an ASGI application around another.

    Gradio's page names scripts and fonts of other servers; they are taken out, and every answer tells the browser to
    load nothing from elsewhere.
    """

    # Any: ASGI has mappings whose values are of every kind, and its frameworks differ in their types for it
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun: Any = None
        body = bytearray()

        async def guarded(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
                message = {**message, "headers": headers}
                if scope["path"] == "/":
                    begun = message
                    return
            elif begun is not None:
                body.extend(message.get("body", b""))
                if message.get("more_body"):
                    return
                page = _ELSEWHERE.sub("", body.decode("utf-8")).encode("utf-8")
                kept = [(name, value) for name, value in begun["headers"] if name.lower() != b"content-length"]
                await send({**begun, "headers": [*kept, (b"content-length", str(len(page)).encode())]})
                message = {**message, "body": page}
            await send(message)

        await self.app(scope, receive, guarded)


@contextlib.contextmanager
def serving(
    library: Library,
    reader: Reader,
    settings: Settings,
    models: Sequence[Model | Recorded] = (),
    host: str = _LOCAL,
    port: int | None = None,
) -> Iterator[tuple[str, threading.Thread]]:
    """Serve the page from a thread while the context lasts.

    Args:
        library: the clips.
        reader: reads them.
        settings: how the page begins.
        models: at most two, side by side; none for target motion alone.
        host: the address to listen at.
        port: None is the first free one from 7860.

    Yields:
        The page's address, and the thread.

    Raises:
        ConfigError: if the address cannot be had.
        MotiontuneError: if Gradio is a version that would hand out any file.
    """
    listening = _listen(host, port)
    with tempfile.TemporaryDirectory(prefix="motiontune-view-") as folder:
        uploads, drawn = Path(folder, "uploads"), Path(folder, "films")
        for made in (uploads, drawn):
            made.mkdir()
        before = {key: os.environ.get(key) for key in ("GRADIO_TEMP_DIR", "GRADIO_ANALYTICS_ENABLED")}
        os.environ |= {"GRADIO_TEMP_DIR": str(uploads), "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            import gradio as gr
            import uvicorn
            from fastapi import FastAPI
            from starlette.middleware.trustedhost import TrustedHostMiddleware
            from starlette.staticfiles import StaticFiles

            check(NAMES, "gradio", GRADIO, f"pip install gradio=={GRADIO}")
            library.folders.append(uploads.resolve())
            page = build(Viewer(library, reader, settings, Films(drawn), models))
            app = FastAPI(openapi_url=None)
            app.mount("/films", StaticFiles(directory=drawn))
            if host == _LOCAL:  # no name of another site may be made to lead here
                app.add_middleware(TrustedHostMiddleware, allowed_hosts=[_LOCAL, "localhost"])
            with contextlib.redirect_stdout(io.StringIO()):  # Gradio prints where it mounts
                app = gr.mount_gradio_app(app, page, "/", show_api=False, ssr_mode=False)
            page.has_launched = True  # else Gradio 5.50 takes the path of any file for that of an uploaded one
            config = uvicorn.Config(_Guard(app), log_level="warning", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            while thread.is_alive() and not server.started:
                time.sleep(0.02)
            try:
                if not server.started:
                    raise RuntimeError("the page's server ended before it could be reached: its messages are above")
                yield f"http://{host}:{listening.getsockname()[1]}/", thread
            finally:
                server.should_exit = True
                thread.join(10)
                library.folders.remove(uploads.resolve())
        finally:
            listening.close()
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value


def _listen(host: str, port: int | None) -> socket.socket:
    problem: OSError | None = None
    for number in _PORTS if port is None else [port]:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, number))
            return listening
        except OSError as error:
            problem = error
            listening.close()
    where = f"--port {port}" if port is not None else f"ports {_PORTS.start} to {_PORTS.stop - 1}"
    raise ConfigError(f"{host}, {where}: {problem}; choose another --port or --host")


def view(
    library: Library,
    reader: Reader,
    settings: Settings,
    models: Sequence[Model | Recorded] = (),
    host: str = _LOCAL,
    port: int | None = None,
) -> None:
    """Serve the page until Ctrl+C or SIGTERM; the arguments are those of `serving`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # else it would leave its folder behind
    print("motiontune view: loading Gradio", flush=True)
    with serving(library, reader, settings, models, host, port) as (address, thread):
        print(f"motiontune view: {address}   (Ctrl+C ends it)", flush=True)
        if host != _LOCAL:
            print(
                f"motiontune view: everyone who reaches {host} can see these clips: there is no password", flush=True
            )
        with contextlib.suppress(KeyboardInterrupt):
            thread.join()
