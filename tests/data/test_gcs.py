"""gs:// paths, by the real clients, gcsfs and ArrayRecord's own, against a stand-in for the server.

The stand-in answers what Google documents of the JSON API: listing, metadata, ranges of bytes.
"""

import http.server
import json
import os
import re
import subprocess
import sys
import threading
import urllib.parse

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from epsilon_vae.data.records import Record, pack
from tests.processes import ROOT

pytest.importorskip("gcsfs", reason="gs:// needs gcsfs: pip install -e '.[gcs]'")


class Bucket(http.server.BaseHTTPRequestHandler):
    """Objects of one bucket, read-only."""

    objects: dict[str, bytes] = {}

    def do_GET(self):  # noqa: N802, the base class's name
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        name = re.fullmatch(r"(?:/download)?/storage/v1/b/bucket/o(?:/(.+))?", url.path)[1]
        if name is None:
            self._answer(200, self._list(query.get("prefix", ""), query.get("delimiter")))
        elif urllib.parse.unquote(name) not in self.objects:
            self._answer(404, {"error": {"code": 404, "message": "Not Found"}})
        elif query.get("alt") == "media":
            self._answer_bytes(self.objects[urllib.parse.unquote(name)])
        else:
            self._answer(200, self._metadata(urllib.parse.unquote(name)))

    def _list(self, prefix: str, delimiter: str | None) -> dict:
        found = {"items": [], "prefixes": set()}
        for name in sorted(self.objects):
            inside, deeper, _ = name[len(prefix) :].partition(delimiter or "\0")
            if name.startswith(prefix) and deeper:
                found["prefixes"].add(prefix + inside + deeper)
            elif name.startswith(prefix):
                found["items"].append(self._metadata(name))
        return found | {"prefixes": sorted(found["prefixes"])}

    def _metadata(self, name: str) -> dict:
        size = str(len(self.objects[name]))
        return {"name": name, "bucket": "bucket", "size": size, "generation": "1"}

    def _answer(self, code: int, content: dict) -> None:
        self._send(code, json.dumps(content).encode())

    def _answer_bytes(self, body: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self._send(200, body)
            return
        first = int(wanted[1]) if wanted[1] else max(len(body) - int(wanted[2]), 0)
        last = int(wanted[2]) if wanted[1] and wanted[2] else len(body) - 1
        part = body[first : last + 1]
        self._send(206, part, {"Content-Range": f"bytes {first}-{last}/{len(body)}"})

    def _send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        """Nothing: requests need not be told."""


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Environment of a process for which gs://bucket is the stand-in's."""
    shard = tmp_path_factory.mktemp("shards") / "train-00000.array_record"
    writer = ArrayRecordWriter(str(shard), "group_size:1")
    for index in range(5):
        writer.write(pack(Record(b"\xff%d" % index, index, f"image {index}")))
    writer.close()
    listed = json.dumps({"shards": {shard.name: 5}, "classes": []})
    Bucket.objects = {
        "folder/train/cats/1.png": b"one",
        "folder/train/dogs/deep/2.JPEG": b"two",
        "shards/train-00000.array_record": shard.read_bytes(),
        "shards/train.json": listed.encode(),
        "shards/val.json": b'{"shards": {"val-00000.array_record": 3}, "classes": []}',
    }
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    yield {"STORAGE_EMULATOR_HOST": address, "CLOUD_STORAGE_EMULATOR_ENDPOINT": address}
    server.shutdown()


READ = """
import pickle, sys
from epsilon_vae.data.sources import open_source
source = pickle.loads(pickle.dumps(open_source(*sys.argv[1:3], split=sys.argv[3])))
for record in source:
    print(record.data, record.label, record.name)
"""


def read(environment: dict[str, str], source: str, path: str, split: str):
    command = [sys.executable, "-c", READ, source, path, split]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=120
    )


def test_folder_in_a_bucket(bucket):
    process = read(bucket, "folder", "gs://bucket/folder", "train")
    assert process.stdout.splitlines() == [
        "b'one' 0 gs://bucket/folder/train/cats/1.png",
        "b'two' 1 gs://bucket/folder/train/dogs/deep/2.JPEG",
    ], process.stderr


def test_array_records_in_a_bucket(bucket):
    process = read(bucket, "array_record", "gs://bucket/shards", "train")
    lines = [rf"b'\xff{index}' {index} image {index}" for index in range(5)]
    assert process.stdout.splitlines() == lines, process.stderr


def test_missing_split_in_a_bucket_is_named(bucket):
    process = read(bucket, "folder", "gs://bucket/folder", "val")
    assert process.returncode == 1
    assert "DataError: gs://bucket/folder/val: no such folder" in process.stderr


def test_missing_shard_in_a_bucket_is_named(bucket):
    process = read(bucket, "array_record", "gs://bucket/shards", "val")
    assert process.returncode == 1
    assert "DataError: gs://bucket/shards/val-00000.array_record: no records" in process.stderr
