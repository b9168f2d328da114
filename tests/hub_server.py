"""A server of this machine that answers huggingface_hub as the Hugging Face Hub does."""

import base64
import contextlib
import hashlib
import http.server
import json
import pathlib
import re
import threading
from collections.abc import Iterator

SHA = "0123456789" * 4  # of the one commit
_FILE = re.compile(r"(?:/datasets)?/(?P<name>[^/]+/[^/]+)/resolve/[^/]+/(?P<file>.+)")
_API = re.compile(r"/api/(?:models|datasets)/(?P<name>[^/]+/[^/]+)(?:/(?P<what>\w+)(?:/.*)?)?")


class _Hub(http.server.BaseHTTPRequestHandler):
    """Repositories are the folders OWNER/NAME; owners called 'forbidden' may not be written to."""

    root: pathlib.Path

    def do_GET(self) -> None:  # noqa: N802
        path = self.path.partition("?")[0]
        if found := _FILE.fullmatch(path):
            file = self.root / found["name"] / found["file"]
            return self._answer(*(200, file.read_bytes()) if file.is_file() else (404, b"none"))
        found = _API.fullmatch(path)
        if not found or not (self.root / found["name"]).is_dir():
            return self._answer(404, b"{}")
        files = self._files(found["name"])
        if found["what"] == "tree":
            return self._answer_json(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": _digest(content)}
                    for name, content in files.items()
                ]
            )
        siblings = [{"rfilename": name} for name in files]
        return self._answer_json({"id": found["name"], "sha": SHA, "siblings": siblings})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:  # noqa: N802
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization", "someone")
            if owner == "forbidden":
                return self._answer(403, b'{"error": "you may not"}')
            name = f"{owner}/{asked['name']}"
            is_new = not (self.root / name).exists()
            if is_new:
                (self.root / name).mkdir(parents=True)
                (self.root / f"{name}.json").write_text(json.dumps(asked))
            made = {"url": f"http://{self.headers['Host']}/{name}", "name": name}
            return self._answer_json(made, 200 if is_new else 409)
        if path == "/api/validate-yaml":
            return self._answer_json({"errors": [], "warnings": []})
        found = _API.fullmatch(path)
        if found["what"] == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": x, "uploadMode": "regular", "shouldIgnore": False} for x in names]
            return self._answer_json({"files": modes})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                (self.root / found["name"] / line["value"]["path"]).write_bytes(content)
        url = f"http://{self.headers['Host']}/{found['name']}/commit/{SHA}"
        return self._answer_json({"commitUrl": url, "commitOid": SHA})

    def _files(self, name: str) -> dict[str, bytes]:
        folder = self.root / name
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    def _answer_json(self, content: object, status: int = 200) -> None:
        self._answer(status, json.dumps(content).encode())

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{_digest(content)}"')
        self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


def _digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def serve(root: pathlib.Path, home: pathlib.Path) -> Iterator[dict[str, str]]:
    """Serves the repositories in a folder, and yields the environment that names the server.

    Args:
      root: has the folders OWNER/NAME.
      home: for the Hub's cache.
    """
    handler = type("Hub", (_Hub,), {"root": root})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_token",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
        }
        server.shutdown()
