"""What an HTTP server shows of a directory: a page of links, as nginx, Apache and Python's `http.server` make
it."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

_BASE = "http://host"


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
        if parts.query or not name or "/" in name.rstrip("/") or name.startswith("/"):
            continue
        names[name] = None
    return list(names)


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for name, value in attrs if name == "href" and value]
