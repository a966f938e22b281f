"""A web server on this machine, and functions that read sources on servers."""

import gzip
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from sft_cli.config.schema.data import SourceConfig
from sft_cli.data.sources import remote
from sft_cli.data.sources.source_rows import read_source, source_slices
from sft_cli.errors import SftError

ROWS = b"".join(b'{"a": %d}\n' % number for number in range(2000))


class Server(BaseHTTPRequestHandler):
    """Serve the files of a site and count the requests for a body."""

    def __init__(self, site, *arguments):
        self.site = site
        super().__init__(*arguments)

    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def log_message(self, format, *arguments):
        pass

    def _answer(self, body):
        path = self.path.partition("?")[0]
        if self.site.password and self.headers.get("Authorization") != f"Basic {self.site.password}":
            self.send_error(401)
            return
        if path.strip("/").isdigit():
            self.send_error(int(path.strip("/")))
            return
        if path not in self.site.files:
            self.send_error(404)
            return
        content, status = self.site.files[path], 200
        byte_range = self.headers.get("Range") if self.site.ranges else None
        if byte_range:
            start, _, stop = byte_range.removeprefix("bytes=").partition("-")
            content, status = content[int(start) : int(stop) + 1], 206
        self.send_response(status)
        if self.site.versions:
            self.send_header("ETag", f'"{self.site.version}"')
        if path.endswith(".html"):
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content) + self.site.missing + (0 if body else self.site.promised)))
        self.end_headers()
        if body:
            self.site.gets.append(self.path)
            self.wfile.write(content)


class Site:
    """A web server on this machine."""

    def __init__(self):
        self.files = {"/d/rows.jsonl": ROWS, "/rows.jsonl.gz": gzip.compress(ROWS), "/page.html": b"<html>"}
        self.files["/rows.xlsx"] = b"PK"
        self.ranges, self.versions, self.version, self.missing, self.gets = True, True, 1, 0, []
        self.promised, self.password = 0, ""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, self))
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def clear_remote_caches():
    """Clear the caches of found and downloaded files, like a new process."""
    remote.find_files.cache_clear()
    remote.download.cache_clear()


def row_values(path):
    """Return the place and the value of each row of a source."""
    return [(row.where, row.values["a"]) for row in read_source(SourceConfig(path=path), "mine", "train")]


def source_error(**config):
    """Return the message of the error of a source, which must raise."""
    with pytest.raises(SftError) as caught:
        source_slices(SourceConfig(**config), "mine", "train")
    return str(caught.value)
