"""What must not be read by people."""

from __future__ import annotations

import pytest

from tidemill.core.scrub import scrub


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://app:s3cret@db/x", "postgresql://app:***@db/x"),
        ("postgresql://app:a/b@c@db/x", "postgresql://app:***@db/x"),
        ("redis://:s3cret@host:6379", "redis://:***@host:6379"),
        ("at postgresql://u:p@h/d, then sqlite:///x.db", "at postgresql://u:***@h/d, then sqlite:///x.db"),
        ("Endpoint=sb://x/;SharedAccessKey=abc=;Entity=q", "Endpoint=sb://x/;SharedAccessKey=***;Entity=q"),
        ("AccountKey=abc==", "AccountKey=***"),
        ("https://x/q?sig=abc%3D&se=1", "https://x/q?sig=***&se=1"),
        ("password='two words' user=me", "password=*** user=me"),
        ("sqlite:///tidemill.db", "sqlite:///tidemill.db"),
        ("https://host:8081/livez", "https://host:8081/livez"),
        ("nothing here", "nothing here"),
    ],
)
def test_scrub(text: str, shown: str) -> None:
    assert scrub(text) == shown
