"""Look at the built site: each page is HTML that a strict parser takes, each internal link and anchor leads somewhere,
and nothing is fetched from elsewhere.

    python scripts/check_site.py site
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import html5lib

ELSEWHERE = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//", re.I)


def mistakes(site: Path) -> Iterator[str]:
    pages = {page: page.read_text("utf-8") for page in sorted(site.rglob("*.html"))}
    anchors = {page: set(re.findall(r"\bid=[\"']?([^\"'\s>]+)", text)) for page, text in pages.items()}
    for page, text in pages.items():
        name = page.relative_to(site)
        parser = html5lib.HTMLParser()
        parser.parse(text)
        yield from (f"{name}:{line}: {code}" for (line, _), code, _ in parser.errors)
        if ELSEWHERE.search(text):
            yield f"{name}: something is fetched from elsewhere"
        if page.name != "404.html":  # its links are absolute, for it stands in for any page
            yield from (f"{name}: {link} leads nowhere" for link in _links(text) if not _leads(page, link, anchors))


def _links(text: str) -> list[str]:
    return re.findall(r"<a\b[^>]*\bhref=[\"']?([^\"'\s>]+)", text)


def _leads(page: Path, link: str, anchors: dict[Path, set[str]]) -> bool:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
    if target.is_dir():
        target /= "index.html"
    known = {one.resolve(): ids for one, ids in anchors.items()}
    if target not in known:
        return target.exists()
    return not parts.fragment or parts.fragment == "__skip" or unquote(parts.fragment) in known[target]


if __name__ == "__main__":
    found = list(mistakes(Path(sys.argv[1])))
    print("\n".join(found) or "all pages are valid and all links hold")
    sys.exit(bool(found))
