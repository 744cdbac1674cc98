"""As much of S3's protocol as obstore, s3fs, boto3 and tensorstore need: buckets in paths, listing, PUT with
conditions, DELETE one by one and many at once, uploads in parts. GET and HEAD of objects are not here, since
`ranges` answers them anyway. A bucket need not be made: it is there as soon as it holds an object.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from datetime import UTC, datetime
from urllib.parse import quote, unquote
from xml.sax.saxutils import escape, unescape

from tests.servers.http1 import Answer, Request
from tests.servers.objects import Objects

_XML = ("Content-Type", "application/xml")
_REGION = ("x-amz-bucket-region", "us-east-1")


class Uploads:
    """Uploads in parts that are not complete."""

    def __init__(self) -> None:
        self.parts: dict[str, dict[int, bytes]] = {}
        self._names = (f"upload-{i}" for i in itertools.count())

    def begin(self) -> str:
        """A new one's name."""
        name = next(self._names)
        self.parts[name] = {}
        return name


def error(status: int, code: str, *headers: tuple[str, str]) -> Answer:
    """An error as S3 tells it."""
    xml = f"<Error><Code>{code}</Code><Message>{code}</Message><RequestId>0</RequestId></Error>"
    return Answer(status, [_XML, *headers], b'<?xml version="1.0" encoding="UTF-8"?>' + xml.encode())


def answer(objects: Objects, uploads: Uploads, request: Request) -> Answer | None:
    """What a request gives; None for a GET or HEAD of an object."""
    bucket, _, key = request.key.partition("/")
    query = request.query
    if not bucket:
        return _xml("ListAllMyBucketsResult", "<Buckets/>")
    if not key:
        return _of_bucket(objects, request, bucket, query)
    if request.method == "POST" and "uploads" in query:
        return _xml("InitiateMultipartUploadResult", f"<UploadId>{uploads.begin()}</UploadId>")
    if "uploadId" in query and request.method != "GET":
        return _of_upload(objects, uploads, request, query)
    if request.method == "PUT":
        return _put(objects, request, _unframed(request))
    if request.method == "DELETE":
        objects.delete(request.key)
        return Answer(204)
    return None


def _of_bucket(objects: Objects, request: Request, bucket: str, query: dict[str, str]) -> Answer | None:
    if request.method == "PUT":
        return Answer(200, [("Location", f"/{bucket}")])
    if request.method == "HEAD":
        there = any(key.startswith(f"{bucket}/") for key in objects.every_key())
        return Answer(200 if there else 404, [_REGION])
    if request.method == "POST" and "delete" in query:
        keys = [unescape(key) for key in re.findall(r"<Key>(.*?)</Key>", request.body.decode(), re.DOTALL)]
        for key in keys:
            objects.delete(f"{bucket}/{key}")
        return _xml("DeleteResult", "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys))
    if request.method == "GET" and "location" in query:
        return _xml("LocationConstraint", "us-east-1")
    if request.method == "GET":
        return _list(objects, bucket, query)
    return None


def _list(objects: Objects, bucket: str, query: dict[str, str]) -> Answer:
    """ListObjectsV2. The token for the next page is the last key or prefix of this one."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    behind = query.get("continuation-token") or query.get("start-after", "")
    most = min(int(query.get("max-keys", "1000")), 1000)
    told = quote if query.get("encoding-type") == "url" else escape
    entries: dict[str, str] = {}
    last = ""
    for whole in objects.every_key():
        if not whole.startswith(f"{bucket}/{prefix}"):
            continue
        key = whole[len(bucket) + 1 :]
        rest, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
        name = prefix + rest + cut if cut else key
        if name <= behind or name in entries:
            continue
        if len(entries) == most:
            last = next(reversed(entries), "")
            break
        found = None if cut else objects.find(whole)
        if found is not None:
            found.close()
            entries[name] = (
                f"<Contents><Key>{told(key)}</Key><LastModified>{_date(found.modified)}</LastModified>"
                f'<ETag>"{found.etag}"</ETag><Size>{found.nbytes}</Size>'
                "<StorageClass>STANDARD</StorageClass></Contents>"
            )
        elif cut:
            entries[name] = f"<CommonPrefixes><Prefix>{told(name)}</Prefix></CommonPrefixes>"
    following = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if last else ""
    encoding = "<EncodingType>url</EncodingType>" if told is quote else ""
    return _xml(
        "ListBucketResult",
        f"<Name>{bucket}</Name><Prefix>{told(prefix)}</Prefix><KeyCount>{len(entries)}</KeyCount>"
        f"<MaxKeys>{most}</MaxKeys>{encoding}<IsTruncated>{'true' if last else 'false'}</IsTruncated>"
        f"{following}{''.join(entries.values())}",
    )


def _put(objects: Objects, request: Request, value: bytes) -> Answer:
    copied = request.headers.get("x-amz-copy-source")
    if copied is not None:
        source = objects.find(unquote(copied).removeprefix("/"))
        if source is None:
            return error(404, "NoSuchKey")
        value = bytes(source.read(0, source.nbytes))
        source.close()
    there = objects.find(request.key)
    etag = None
    if there is not None:
        there.close()
        etag = f'"{there.etag}"'
    if request.headers.get("if-none-match") == "*" and there is not None:
        return error(412, "PreconditionFailed")
    wanted = request.headers.get("if-match")
    if wanted is not None and there is None:
        return error(404, "NoSuchKey")
    if wanted not in (None, "*", etag):
        return error(412, "PreconditionFailed")
    etag = f'"{objects.put(request.key, value)}"'
    if copied is not None:
        return _xml("CopyObjectResult", f"<ETag>{etag}</ETag>")
    return Answer(200, [("ETag", etag)])


def _unframed(request: Request) -> bytes:
    """The body, out of what AWS clients call aws-chunked: lines with a size, and a signature or none."""
    body = request.body
    if "aws-chunked" not in request.headers.get("content-encoding", ""):
        return body
    pieces: list[bytes] = []
    start = 0
    while True:
        end = body.index(b"\r\n", start)
        nbytes = int(body[start:end].partition(b";")[0], 16)
        if not nbytes:
            return b"".join(pieces)
        pieces.append(body[end + 2 : end + 2 + nbytes])
        start = end + 2 + nbytes + 2


def _of_upload(objects: Objects, uploads: Uploads, request: Request, query: dict[str, str]) -> Answer:
    parts = uploads.parts.get(query["uploadId"])
    if parts is None:
        return error(404, "NoSuchUpload")
    if request.method == "PUT":
        part = parts[int(query["partNumber"])] = _unframed(request)
        etag = hashlib.md5(part, usedforsecurity=False).hexdigest()
        return Answer(200, [("ETag", f'"{etag}"')])
    if request.method == "DELETE":
        del uploads.parts[query["uploadId"]]
        return Answer(204)
    listed = [int(one) for one in re.findall(r"<PartNumber>(\d+)</PartNumber>", request.body.decode())]
    if not listed or any(one not in parts for one in listed):
        return error(400, "InvalidPart")
    put = _put(objects, request, b"".join(parts[one] for one in listed))
    if put.status != 200:
        return put
    del uploads.parts[query["uploadId"]]
    bucket, _, key = request.key.partition("/")
    etag = dict(put.headers)["ETag"]
    told = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><ETag>{escape(etag)}</ETag>"
    return _xml("CompleteMultipartUploadResult", told)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def _xml(root: str, content: str) -> Answer:
    text = f'<{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{content}</{root}>'
    return Answer(200, [_XML, _REGION], b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode())
