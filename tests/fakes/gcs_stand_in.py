"""Emulate Google Cloud Storage in memory for gcsfs, TensorStore and google-cloud-storage.

The clients are the real ones. `served` sets their address. The stand-in accepts no credentials and
checks preconditions, so that a writer that loses a race gets an error.
"""

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

BUCKET = 'shelf'
# Path of a bucket, its list of objects, an object, and the copy of an object.
_RESOURCE_PATH = (
    r'(?:/download)?/storage/v1/b/([^/]+)(?:/o(?:/([^/]+)(?:/rewriteTo/b/([^/]+)/o/([^/]+))?)?)?'
)


@dataclasses.dataclass(frozen=True)
class Stored:
    """Hold the bytes of an object, and the number that changes with each write."""

    data: bytes
    generation: int


class Storage:
    """Hold the contents of the bucket.

    Attributes:
        objects: Objects by name, without the name of the bucket.
        refuse: Function of the method and path of each request. If it returns a status, the
            stand-in answers with it.
        requests: Method and path of each request so far.
    """

    def __init__(self):
        self.objects: dict[str, Stored] = {}
        self.refuse: Callable[[str, str], int | None] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.sessions: dict[str, tuple[str, dict, bytearray]] = {}
        self._numbers = itertools.count(1)

    def clear(self) -> None:
        """Delete all objects and settings."""
        self.objects.clear()
        self.requests.clear()
        self.refuse = lambda method, path: None

    def put(self, name: str, data: bytes) -> Stored:
        self.objects[name] = Stored(bytes(data), next(self._numbers))
        return self.objects[name]

    def under(self, folder: str) -> dict[str, bytes]:
        """Return the objects in a folder by their names within it."""
        return {
            name.removeprefix(folder + '/'): stored.data
            for name, stored in sorted(self.objects.items())
            if name.startswith(folder + '/')
        }


@contextlib.contextmanager
def served() -> Iterator[Storage]:
    """Serve a bucket to all clients of this process and its subprocesses."""
    storage = Storage()
    handler = type('Handler', (_Handler,), {'storage': storage})
    server = ThreadingHTTPServer(('localhost', 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={'poll_interval': 0.05}, daemon=True
    )
    thread.start()
    address = f'http://localhost:{server.server_port}'
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            'STORAGE_EMULATOR_HOST': address,
            'TENSORSTORE_GCS_HTTP_URL': address,
            'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # uses another service over gRPC
            'GOOGLE_CLOUD_PROJECT': 'stand-in',
            'NO_GCE_CHECK': 'true',
        }.items():
            patch.setenv(name, value)
        try:
            yield storage
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True  # otherwise every answer takes 40 ms
    wbufsize = 1 << 16
    storage: Storage

    def log_message(self, *_) -> None:
        pass

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # a client that closed the connection
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().finish()

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_DELETE = do_GET

    def _handle(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        query = {
            key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()
        }
        path = parts.path
        self.storage.requests.append((self.command, unquote(path)))
        if status := self.storage.refuse(self.command, unquote(path)):
            self._error(status)
            return
        with self.storage.lock:
            self._answer(path, query, body)

    def _body(self) -> bytes:
        if 'chunked' not in self.headers.get('Transfer-Encoding', ''):
            return self.rfile.read(int(self.headers.get('Content-Length') or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b';')[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(chunks)

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> None:
        if self.command == 'POST' and path == '/batch/storage/v1':
            self._batch(body)
        elif match := re.fullmatch(r'/upload/(?:resumable/)?storage/v1/b/([^/]+)/o', path):
            if unquote(match[1]) == BUCKET:
                self._upload(query, body)
            else:
                self._error(404)
        elif match := re.fullmatch(_RESOURCE_PATH, path):
            bucket, name, target_bucket, target = (
                part and unquote(part) for part in match.groups()
            )
            if bucket != BUCKET or target_bucket not in (None, BUCKET):
                self._error(404)
            elif name is None and path.endswith('/o'):
                self._list(query)
            elif name is None:
                self._json(
                    {'kind': 'storage#bucket', 'id': bucket, 'name': bucket, 'location': 'US'}
                )
            elif name not in self.storage.objects:
                self._error(404)
            elif target is not None:
                self.storage.put(target, self.storage.objects[name].data)
                self._json(
                    {
                        'kind': 'storage#rewriteResponse',
                        'done': True,
                        'resource': self._resource(target),
                    }
                )
            elif self.command == 'DELETE':
                if self._check_preconditions(query, name):
                    del self.storage.objects[name]
                    self._send(204, b'')
            elif query.get('alt') == 'media':
                self._download(query, name)
            else:
                self._json(self._resource(name))
        else:
            self._error(501)

    def _resource(self, name: str) -> dict:
        stored = self.storage.objects[name]
        return {
            'kind': 'storage#object',
            'bucket': BUCKET,
            'name': name,
            'id': f'{BUCKET}/{name}/{stored.generation}',
            'generation': str(stored.generation),
            'metageneration': '1',
            'size': str(len(stored.data)),
            'md5Hash': base64.b64encode(hashlib.md5(stored.data).digest()).decode(),
            'contentType': 'application/octet-stream',
            'timeCreated': '2026-01-01T00:00:00.000Z',
            'updated': '2026-01-01T00:00:00.000Z',
            'etag': str(stored.generation),
        }

    def _list(self, query: dict[str, str]) -> None:
        prefix, delimiter = query.get('prefix', ''), query.get('delimiter')
        begin, end = query.get('startOffset', ''), query.get('endOffset')
        items, folders = [], set()
        for name in sorted(self.storage.objects):
            if not name.startswith(prefix) or name < begin or (end and name >= end):
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(name)
        entries = sorted([*items, *folders])
        first = int(query.get('pageToken') or 0)
        last = first + int(query.get('maxResults') or 1000)
        page = entries[first:last]
        more = {'nextPageToken': str(last)} if last < len(entries) else {}
        self._json(
            {
                'kind': 'storage#objects',
                'items': [self._resource(name) for name in page if name not in folders],
                'prefixes': [name for name in page if name in folders],
                **more,
            }
        )

    def _check_preconditions(self, query: dict[str, str], name: str) -> bool:
        """Check the preconditions, and answer the request if they do not hold.

        A missing object has generation 0.
        """
        stored = self.storage.objects.get(name)
        generation = str(stored.generation) if stored else '0'
        if query.get('ifGenerationMatch', generation) != generation:
            self._error(412)
        elif query.get('ifGenerationNotMatch') == generation:
            self._send(304, b'')
        else:
            return True
        return False

    def _download(self, query: dict[str, str], name: str) -> None:
        if not self._check_preconditions(query, name):
            return
        stored = self.storage.objects[name]
        data = stored.data
        headers = {
            'x-goog-generation': str(stored.generation),
            'Content-Type': 'application/octet-stream',
        }
        if match := re.fullmatch(r'bytes=(\d*)-(\d*)', self.headers.get('Range', '')):
            first, last = match.groups()
            begin = int(first) if first else max(0, len(data) - int(last))
            end = min(len(data), int(last) + 1) if first and last else len(data)
            if begin >= end:
                self._error(416)
                return
            self._send(
                206,
                data[begin:end],
                {**headers, 'Content-Range': f'bytes {begin}-{end - 1}/{len(data)}'},
            )
        else:
            self._send(200, data, headers)

    def _upload(self, query: dict[str, str], body: bytes) -> None:
        if 'upload_id' in query:
            self._continue_upload(query['upload_id'], body)
            return
        upload_type, name = query.get('uploadType'), query.get('name', '')
        if upload_type == 'multipart':
            (boundary,) = re.findall(r'boundary="?([^";]+)', self.headers['Content-Type'])
            border = b'--' + boundary.encode()
            metadata, content = body.partition(border)[2].rpartition(border)[0].split(border, 1)
            line = b'\r\n' if metadata.startswith(b'\r\n') else b'\n'
            name = json.loads(metadata.split(line * 2, 1)[1])['name']
            body = content.split(line * 2, 1)[1].removesuffix(line)
        elif upload_type == 'resumable':
            name = name or json.loads(body)['name']
            session = f'session{len(self.storage.sessions)}'
            self.storage.sessions[session] = name, query, bytearray()
            url = f'http://{self.headers["Host"]}{urlsplit(self.path).path}'
            location = f'{url}?uploadType=resumable&upload_id={session}'
            self._send(200, b'', {'Location': location})
            return
        if self._check_preconditions(query, name):
            self.storage.put(name, body)
            self._json(self._resource(name))

    def _continue_upload(self, session: str, body: bytes) -> None:
        name, query, data = self.storage.sessions[session]
        data += body
        match = re.fullmatch(
            r'bytes (?:\d+-\d+|\*)/(\d+|\*)', self.headers.get('Content-Range', '')
        )
        if match and (match[1] == '*' or len(data) < int(match[1])):
            self._send(308, b'', {'Range': f'bytes=0-{len(data) - 1}'} if data else {})
        elif self._check_preconditions(query, name):
            self.storage.put(name, bytes(data))
            self._json(self._resource(name))

    def _batch(self, body: bytes) -> None:
        """Delete several objects, which gcsfs requests in one batch."""
        answers = []
        for number, target in enumerate(re.findall(rb'DELETE \S*/o/(\S+?)(?:\?\S*)? HTTP', body)):
            gone = self.storage.objects.pop(unquote(target.decode()), None)
            answers.append(
                '--border\r\nContent-Type: application/http\r\nContent-ID:'
                f' <response-{number + 1}>\r\n\r\nHTTP/1.1'
                f' {"204 No Content" if gone else "404 Not Found"}\r\n\r\n\r\n'
            )
        self._send(
            200,
            ''.join([*answers, '--border--']).encode(),
            {'Content-Type': 'multipart/mixed; boundary=border'},
        )

    def _json(self, values: dict) -> None:
        self._send(200, json.dumps(values).encode(), {'Content-Type': 'application/json'})

    def _error(self, status: int) -> None:
        values = {'error': {'code': status, 'message': f'the stand-in says {status}', 'errors': []}}
        self._send(status, json.dumps(values).encode(), {'Content-Type': 'application/json'})

    def _send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status not in (204, 304):
            self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if status not in (204, 304):
            self.wfile.write(data)
