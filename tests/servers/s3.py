"""An S3 server: moto's, on a free port, in this process.

    with S3Server() as s3:
        s3.fill("bucket", {"a/zarr.json": b"{}"})
        ... s3.endpoint_url, s3.key, s3.secret ...

Requests have to be signed, with whatever key; those that are not get 403 unless the bucket is public. What
moto does otherwise than S3: every connection ends with its answer; If-Range is ignored; of an empty object a
suffix comes with 200, not 416; `Range: items=0-3` is taken for bytes. It is slow (150 requests and 15 MB a
second), so what is measured or repeated thousands of times runs against `ranges`, which has an S3 side too.
moto keeps its buckets for the whole process: servers that run at once hold the same ones.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any, Self
from urllib.parse import quote

_SIGNED = (
    "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
)


class S3Server:
    """The server, empty at first. Raises ImportError where moto or flask are not installed."""

    key = "key"
    secret = "secret"
    region = "us-east-1"

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import (
            DomainDispatcherApplication,
            MotoRequestHandler,
            create_backend_app,
        )
        from werkzeug.serving import make_server

        class Handler(MotoRequestHandler):
            def log(self, *_: object) -> None:
                """Not a line for each request."""

            def send_header(self, keyword: str, value: str) -> None:
                """Without moto's `server` beside werkzeug's `Server`, which aiohttp may refuse."""
                if keyword != "server":
                    super().send_header(keyword, value)

        application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
        self.port = self._server.server_port

    @property
    def endpoint_url(self) -> str:
        """Where it is, without a `/` at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def fsspec_options(self) -> dict[str, Any]:
        """`storage_options` for s3fs."""
        return {"key": self.key, "secret": self.secret, "endpoint_url": self.endpoint_url}

    @property
    def obstore_config(self) -> dict[str, Any]:
        """`config` for `obstore.store.S3Store`; `client_options={"allow_http": True}` goes with it."""
        return {
            "endpoint": self.endpoint_url,
            "access_key_id": self.key,
            "secret_access_key": self.secret,
            "region": self.region,
            "virtual_hosted_style_request": False,
        }

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._server.serve_forever, args=(0.02,), name="S3Server", daemon=True)
        self._thread.start()
        self.reset()
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def reset(self) -> None:
        """Forget every bucket."""
        self.request("POST", "/moto-api/reset")

    def fill(
        self, bucket: str, source: Mapping[str, bytes] | str | os.PathLike[str], public: bool = False
    ) -> None:
        """Make a bucket of a dict's values or a directory's files. A public one is read and listed by all."""
        self.request("PUT", f"/{bucket}")
        if public:
            allowed = '"Principal":"*","Action":["s3:GetObject","s3:ListBucket"]'
            of = f'["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]'
            policy = (
                f'{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow",{allowed},"Resource":{of}}}]}}'
            )
            self.request("PUT", f"/{bucket}?policy", policy.encode())
        for key, value in _objects(source).items():
            self.request("PUT", f"/{bucket}/{quote(key)}", value)

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """One request, signed as far as moto looks. Anything but success is an OSError."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {"Authorization": _SIGNED})
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        if response.status >= 300:
            raise OSError(f"{method} {path}: {response.status} {content[:500]!r}")
        return content


def _objects(source: Mapping[str, bytes] | str | os.PathLike[str]) -> Mapping[str, bytes]:
    if isinstance(source, Mapping):
        return source
    root = Path(source)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
