"""A stand-in of the Hugging Face Hub on this machine: one table of repositories, served and written over HTTP.

It speaks the part of the Hub's interface that `snapshot_download`, `create_repo` and `create_commit` use.
`HubOfFolders` is `snapshot_download` itself, asking such a stand-in.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

REVISION = "a" * 40


def files_of(folder: Path) -> dict[str, bytes]:
    """What a folder holds, by path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


asked: list[str] = []
"""Files that any stand-in of this process was asked for, in order."""


@contextmanager
def hub_stand_in(repositories: dict[str, dict[str, bytes]]) -> Iterator[str]:
    """The address of a server that gives and takes the files of the repositories "owner/name"."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def answer_json(self, value: Any) -> None:
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) in repositories:
                name = "/".join(parts[2:4])
                siblings = [{"rfilename": file} for file in repositories[name]]
                self.answer_json({"id": name, "sha": REVISION, "siblings": siblings})
            elif len(parts) > 4 and parts[2] == "resolve" and "/".join(parts[:2]) in repositories:
                data = repositories["/".join(parts[:2])].get("/".join(parts[4:]))
                asked.append("/".join(parts[4:]))
                if data is None:
                    self.answer(404, b"{}", X_Error_Code="EntryNotFound", X_Repo_Commit=REVISION)
                    return
                tag = f'"{hashlib.sha256(data).hexdigest()}"'
                self.answer(200, data, ETag=tag, X_Repo_Commit=REVISION)
            else:
                self.answer(401, b"{}", X_Error_Code="RepoNotFound")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = self.path.partition("?")[0].strip("/").split("/")
            host = f"http://{self.headers['Host']}"
            if parts == ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                repositories.setdefault(name, {})
                self.answer_json({"url": f"{host}/{name}"})
            elif parts == ["api", "validate-yaml"]:
                self.answer_json({"errors": [], "warnings": []})
            elif parts[4] == "preupload":
                files = json.loads(body)["files"]
                modes = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files
                ]
                self.answer_json({"files": modes})
            else:
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        content = base64.b64decode(entry["value"]["content"])
                        repositories["/".join(parts[2:4])][entry["value"]["path"]] = content
                name = "/".join(parts[2:4])
                self.answer_json({"commitUrl": f"{host}/{name}/commit/{REVISION}", "commitOid": REVISION})

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class HubOfFolders:
    """Folders of this machine by "owner/name", in the place of huggingface_hub's `snapshot_download`.

    asked: the further arguments of each call.
    """

    def __init__(self, folders: dict[str, Path], cache: Path) -> None:
        self.repositories = {name: files_of(folder) for name, folder in folders.items()}
        self.cache, self.asked = cache, list[dict[str, Any]]()

    def __call__(self, model_id: str, **wanted: Any) -> str:
        from huggingface_hub import snapshot_download
        from huggingface_hub.utils._http import reset_sessions

        reset_sessions()  # one that a test without the Hub made would stay without it
        self.asked.append(wanted)
        with hub_stand_in(self.repositories) as address:
            return snapshot_download(model_id, endpoint=address, cache_dir=self.cache, token=False, **wanted)

    def held(self, name: str) -> list[str]:
        """What its cache holds of a model, by path."""
        (folder,) = (self.cache / f"models--{name.replace('/', '--')}/snapshots").iterdir()
        return sorted(files_of(folder))
