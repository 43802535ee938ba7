"""A small server that speaks the hub's HTTP API: repositories in memory, with faults on demand."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = 1 << 16
COMMIT = "c0ffee" + "0" * 34


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    """`repos[kind/name][file]`. `cuts`: file -> how many downloads break after half of what was asked;
    `rot`: file -> how many downloads come with a wrong byte."""

    repos: dict[str, dict[str, bytes]]
    cuts: dict[str, int] = field(default_factory=dict)
    rot: dict[str, int] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    ranges: list[str] = field(default_factory=list)
    gets: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, *, body: bool) -> None:
                path, query = unquote(urlsplit(self.path).path).strip("/"), parse_qs(urlsplit(self.path).query)
                hub.asked.append(f"{self.command} {path}")
                if path.startswith("api/"):
                    return self.send(*hub.api(path, query))
                parts = path.split("/")
                kind = "models"
                if parts[0] == "datasets":
                    kind, parts = parts[0], parts[1:]
                name, file = "/".join(parts[:2]), "/".join(parts[4:])
                data = hub.repos.get(f"{kind}/{name}", {}).get(file)
                if data is None:
                    return self.send(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
                self.file(file, data, body)

            def file(self, file: str, data: bytes, body: bool) -> None:
                sha = hashlib.sha256(data).hexdigest() if len(data) >= LARGE else blob_id(data)
                start = 0
                if wanted := self.headers.get("Range"):
                    start = int(wanted.removeprefix("bytes=").partition("-")[0])
                    hub.ranges.append(f"{file}:{start}") if body and start else None
                part = data[start:]
                self.send_response(206 if wanted else 200)
                for key, value in {
                    "X-Repo-Commit": COMMIT,
                    "ETag": f'"{sha}"',
                    "X-Linked-ETag": f'"{sha}"',
                    "X-Linked-Size": str(len(data)),
                    "Accept-Ranges": "bytes",
                    "Content-Length": str(len(part)),
                }.items():
                    self.send_header(key, value)
                if wanted:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.end_headers()
                if not body:
                    return
                hub.gets.append(file)
                if hub.rot.get(file, 0) > 0:
                    hub.rot[file] -= 1
                    part = bytes([part[0] ^ 1]) + part[1:]
                if hub.cuts.get(file, 0) > 0:
                    hub.cuts[file] -= 1
                    self.wfile.write(part[: len(part) // 2])
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                self.wfile.write(part)

            def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def api(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        _, kind, *rest = path.split("/")
        name, files = "/".join(rest[:2]), self.repos.get(f"{kind}/{'/'.join(rest[:2])}")
        if name in self.gated:
            return 403, {"error": "Access to this repo is gated"}, {"X-Error-Code": "GatedRepo"}
        if files is None:
            return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
        entries = [self.describe(file, data) for file, data in files.items()]
        if len(rest) > 2 and rest[2] == "tree":
            return 200, [{"type": "file", "path": e["rfilename"], "oid": e["blobId"], **e} for e in entries], {}
        if "blobs" not in query:
            entries = [{"rfilename": entry["rfilename"]} for entry in entries]
        return 200, {"id": name, "modelId": name, "sha": COMMIT, "siblings": entries, "private": False}, {}

    @staticmethod
    def describe(file: str, data: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": file, "size": len(data), "blobId": blob_id(data)}
        if len(data) >= LARGE:
            sha = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 134, "oid": sha}
        return entry
