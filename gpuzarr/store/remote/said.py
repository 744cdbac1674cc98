"""What obstore, and the servers behind it, say went wrong → our errors.

obstore keeps a server's status and words in its text:

    Generic S3 error: Error performing GET URL in 1ms - Server returned non-2xx status code: 403 Forbidden:
    <?xml …><Error><Code>ExpiredToken</Code><Message>…</Message></Error>

    Debug source: …             and below, somewhere, the cause of a failed connection
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from obstore import exceptions as theirs

from gpuzarr.errors import ChangedError, ForbiddenError, ReadOnlyError, StoreError
from gpuzarr.store.remote.retry import Again
from gpuzarr.store.remote.transport import DeniedError, OutOfRange, Unchanged, shown

_STATUS = re.compile(r"status code: (\d{3})([\w \-]*)")
_CODE = re.compile(r"<Code>([\w.]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})")
_PREAMBLE = re.compile(r"^Generic \S+ error: (?:Error performing \w+ \S+ in \S+ - )?")
_CAUSE = re.compile(
    r'(?:message|error): "([^"]+)"|(?<=\n)\s+(InvalidMessage|UnknownIssuer|Invalid\w+|NotValid\w+)\(?'
)
_NOBODY = ("dns error", "error sending request", "connection refused", "tcp connect")
_NO_RANGES = ("non-partial response", "Range request not supported")
_NO_CREDENTIALS = ("169.254.169.254", "metadata token", "metadata.google.internal", "credential")
_LASTING = ("Version required", "not implemented", "not supported by")
_ANON = 'storage_options={"anon": True} for public data'
_HINTS = {
    "InvalidAccessKeyId": "the key is not known there; " + _ANON,
    "SignatureDoesNotMatch": "the secret does not fit the key",
    "ExpiredToken": "the credentials have run out: get new ones",
    "InvalidToken": "the session token does not fit the key",
    "TokenRefreshRequired": "the credentials have run out: get new ones",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "AuthorizationHeaderMalformed": 'storage_options={"region": "…"}, the one of the bucket',
    "PermanentRedirect": 'storage_options={"region": "…"}, the one of the bucket',
    "NoSuchBucket": "is the name of the bucket right, and the endpoint?",
}


def failure(error: Exception, path: str, secrets: Sequence[str], write: bool) -> Exception | None:
    """Our error for theirs; None for what is not there. Raise it outside of the handler of theirs, whose text
    may hold a signature."""
    text = str(error)
    code = found[1] if (found := _CODE.search(text)) else None
    said, status = _said(text, code, secrets), _status(text)
    hint = _HINTS.get(code or "")
    if code == "NoSuchBucket":
        return StoreError(f"there is no such bucket: {said}", hint=hint)
    if isinstance(error, FileNotFoundError):
        return ChangedError(f"{path} is gone") if write else None
    if isinstance(error, theirs.NotModifiedError):
        return Unchanged()
    if isinstance(error, (theirs.PreconditionError, theirs.AlreadyExistsError)):
        return ChangedError(f"{path} was replaced meanwhile", hint="read it again")
    if isinstance(error, theirs.UnauthenticatedError):
        hint = hint or "credentials go in storage_options"
        return ForbiddenError(f"may not use {path}: {said}", chunk=path, hint=hint)
    if isinstance(error, theirs.PermissionDeniedError):
        if code in (None, "AccessDenied", "AllAccessDisabled", "Forbidden", "AuthorizationFailure"):
            return DeniedError(f"may not use {path}: {said}", chunk=path)
        return ForbiddenError(f"may not use {path}: {said}", chunk=path, hint=hint)
    if isinstance(error, theirs.InvalidPathError):
        return StoreError(f"{path!r} cannot be a key there: {said}")
    if status == 416 or "Invalid range" in text or "InvalidGetRange" in text:
        return OutOfRange()
    if status in (405, 501) and write:
        return ReadOnlyError(f"the server does not take {path}: {said}")
    if hint is None and "redirect" in text.lower() and "region" in text:
        hint = _HINTS["PermanentRedirect"]
    if hint is not None:
        return StoreError(f"{path}: {said}", hint=hint)
    if status is None and any(one in text for one in _NO_CREDENTIALS):
        return ForbiddenError(f"no credentials for {path}: {said}", hint=_ANON)
    return _passing(text, said, status, path)


def _passing(text: str, said: str, status: int | None, path: str) -> Exception:
    """What may not last, as far as one can tell."""
    if any(one in text for one in _NO_RANGES):
        return Again(f"{said}: it gave all of {path} instead of a part", most=4)
    if "Content-Length Header missing" in text:
        return Again(said, most=4, hint='storage_options={"backend": "fsspec"} takes such answers')
    if any(one in text for one in _LASTING) or (
        status is not None and 400 <= status < 500 and status not in (408, 425, 429)
    ):
        return StoreError(f"{path}: {said}")
    nobody = status is None and any(one in text for one in _NOBODY)
    return Again(said, slow=status in (429, 503), alive=not nobody)


def _status(text: str) -> int | None:
    found = _STATUS.search(text)
    return int(found[1]) if found else None


def _said(text: str, code: str | None, secrets: Sequence[str]) -> str:
    """The server's own words; without any, obstore's first line, and the cause that stands far below it."""
    found = _STATUS.search(text)
    if found and code:
        message = _MESSAGE.search(text)
        return shown(f"{found[1]} {code}{f': {message[1]}' if message else ''}", secrets)
    if found:
        return shown(f"{found[1]}{found[2]}".strip(), secrets)
    line = _PREAMBLE.sub("", shown(text, secrets))
    causes = [one or other for one, other in _CAUSE.findall(text)]
    causes = [cause for cause in causes if cause not in line]
    return f"{line}: {shown(causes[-1], secrets)}" if causes else line
