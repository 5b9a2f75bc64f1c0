"""To the hub and from it, against a stand-in that speaks the few calls that are needed."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import numpy as np
import pytest

from lit_metric import hub
from lit_metric.commands.export import export
from lit_metric.encoders import AttentionPooling, TextEncoder
from tests.encoders.conftest import tiny  # noqa: F401

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


class Hub(BaseHTTPRequestHandler):
    """Repositories in memory: their files by revision, and whether they are private."""

    files: dict[str, dict[str, dict[str, bytes]]]
    private: dict[str, bool]

    def log_message(self, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if found := re.fullmatch(r"/api/models/(.+?)/tree/(.+)", path):
            revision = next(name for name, sha in COMMITS.items() if sha == found[2])
            rows = (self.repository(found[1], revision) or {}).items()
            files = [{"type": "file", "path": each, "size": len(content)} for each, content in rows]
            self.answer([{"oid": "0" * 40, **each} for each in files])
        elif found := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", path):
            name, revision = found[1], found[2] or "main"
            if not (repository := self.repository(name, revision)):
                return
            siblings = [{"rfilename": each} for each in repository]
            self.answer({"id": name, "sha": COMMITS[revision], "private": False, "siblings": siblings})
        elif found := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path):
            revision = next((name for name, sha in COMMITS.items() if found[2] in (name, sha)), found[2])
            if (repository := self.repository(found[1], revision)) is None:
                return
            content = repository[found[3]]
            headers = {"X-Repo-Commit": COMMITS[revision], "ETag": f'"{hash(content)}"'}
            self.answer(content, headers=headers)
        else:
            self.answer({"error": self.path}, 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(self.path.partition("?")[0])
        if self.headers.get("Authorization") != "Bearer secret":
            self.answer({"error": "no rights"}, 401)
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            given = json.loads(body)
            name = "/".join(filter(None, (given.get("organization") or "somebody", given["name"])))
            status = 409 if name in self.files else 200
            self.files.setdefault(name, {"main": {}})
            self.private.setdefault(name, given.get("visibility") == "private" or given.get("private", False))
            self.answer({"url": f"{self.address}/{name}", "id": name}, status)
        elif found := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            rows = json.loads(body)["files"]
            answers = [
                {"path": row["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for row in rows
            ]
            self.answer({"files": answers})
        elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in body.splitlines():
                row = json.loads(line)
                if row["key"] == "file":
                    content = base64.b64decode(row["value"]["content"])
                    self.files[found[1]]["main"][row["value"]["path"]] = content
            url = f"{self.address}/{found[1]}/commit/{COMMITS['main']}"
            self.answer({"success": True, "commitOid": COMMITS["main"], "commitUrl": url})
        else:
            self.answer({"error": self.path}, 404)

    @property
    def address(self) -> str:
        return f"http://{self.headers['Host']}"

    def repository(self, name: str, revision: str) -> dict[str, bytes] | None:
        if name not in self.files:
            code = "RepoNotFound"
        elif revision not in self.files[name]:
            code = "RevisionNotFound"
        else:
            return self.files[name][revision]
        self.answer({"error": code}, 404, {"X-Error-Code": code})
        return None

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A hub of this machine, in the place of the real one."""
    kind = type("OwnHub", (Hub,), {"files": {}, "private": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    yield kind
    server.shutdown()
    server.server_close()


def test_a_model_goes_to_the_hub_and_comes_back(
    stand_in: type[Hub],
    tiny: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = TextEncoder(tiny, AttentionPooling(heads=2), 4)
    encoder.save(tmp_path / "model")
    export(str(tmp_path / "model"), str(tmp_path / "out"), push="org/mine", private=True)
    assert stand_in.private == {"org/mine": True}
    files = stand_in.files["org/mine"]["main"]
    local = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert {name: content for name, content in files.items() if name != ".gitattributes"} == local
    assert b'SentenceTransformer("org/mine", trust_remote_code=True)' in files["README.md"]

    stand_in.files["org/mine"]["v1"] = dict(files)
    other = TextEncoder(tiny, AttentionPooling(heads=2), 3)
    hub.export(other, tmp_path / "other")
    hub.push(tmp_path / "other", "org/mine")
    monkeypatch.chdir(tmp_path)
    expected = encoder.encode(["w5 w6"])
    np.testing.assert_allclose(hub.load("org/mine", revision="v1").encode(["w5 w6"]), expected, atol=1e-5)
    assert hub.load("org/mine").dimension == 3

    with pytest.raises(FileNotFoundError, match=r"org/mine at revision v9: .* it has no revision 'v9'"):
        hub.load("org/mine", revision="v9")
    with pytest.raises(FileNotFoundError, match=r"org/none: .* has none of this name, or it is private"):
        hub.load("org/none")
    with pytest.raises(ValueError, match="revision='v1' is for models of the hub"):
        hub.load(tmp_path / "out", revision="v1")
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(OSError, match=r"org/mine was not uploaded: log in by `hf auth login`.*is complete"):
        hub.push(tmp_path / "other", "org/mine")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match=r"org/none: .*HF_HUB_OFFLINE is set.*name its folder"):
        hub.load("org/none")
    assert hub.load("org/mine").dimension == 3  # from the cache


def test_without_a_network_an_export_stays(
    stand_in: type[Hub],
    tiny: str,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    TextEncoder(tiny).save(tmp_path / "model")
    with pytest.raises(OSError, match=r"org/mine was not uploaded: .*out is complete"):
        export(str(tmp_path / "model"), str(tmp_path / "out"), push="org/mine")
    assert hub.load(tmp_path / "out").dimension == 32
