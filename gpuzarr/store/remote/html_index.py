"""What an HTTP server shows of a directory: a page of links, as nginx, Apache and Python's `http.server` make
it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

from gpuzarr.errors import StoreError

_BASE = "http://host"
_PAGES_BEGIN = (b"<!doctype html", b"<html", b"<head", b"<h1", b"<pre", b"<ul", b"<a")
_MOST_PAGES = 100_000
_DEPTH = 64


def names_in(page: bytes, prefix: str) -> list[str]:
    """The names right below `prefix`, a path that ends at a `/` or is empty; those of directories end at a
    `/`."""
    links = _Links()
    links.feed(page.decode("utf-8", "replace"))
    top = "/" + prefix
    names: dict[str, None] = {}
    for link in links.found:
        try:
            parts = urlsplit(urljoin(_BASE + top, link))
        except ValueError:
            continue
        path = unquote(parts.path)
        if link.startswith(("?", "#")) or not path.startswith(top):
            continue  # columns to sort by, the way up, other hosts
        name = path[len(top) :]
        if parts.query or not name or "/" in name.removesuffix("/"):
            continue
        names[name] = None
    return list(names)


def names_on(page: bytes, prefix: str) -> list[str]:
    """The same of what a server gave for `prefix`, if that is a page at all."""
    start = page[:200].lstrip().lower()
    if start and not start.startswith(_PAGES_BEGIN):
        raise StoreError(
            f"the server does not list {prefix or '/'}",
            hint="name the array, or open a group with consolidated metadata",
        )
    return names_in(page, prefix)


def walk(page: Callable[[str], list[str]], prefix: str) -> Iterator[str]:
    """Every path below `prefix`; `page` gives the names right below one. Pages may link to one another for
    ever: past some depth or number of them, seen or still to be seen, this is a StoreError."""
    left, pages = [prefix], 0
    while left:
        one = left.pop()
        pages += 1
        if one.count("/") - prefix.count("/") > _DEPTH:
            raise StoreError(f"directories at {one!r} lie more than {_DEPTH} deep: do links go round there?")
        for name in page(one):
            if not name.endswith("/"):
                yield one + name
                continue
            left.append(one + name)
            if pages + len(left) > _MOST_PAGES:
                raise StoreError(f"more than {_MOST_PAGES} directories below {prefix or '/'}")


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
