"""Plays to each decoder what fuzzing found worth keeping; fuzzing itself: make fuzz SECONDS=600."""

from __future__ import annotations

from pathlib import Path

import pytest
from decoders import DECODERS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", DECODERS)
def test_corpus(name: str) -> None:
    found = sorted((CORPUS / name).iterdir())
    assert found
    for path in (*found, None):
        DECODERS[name](path.read_bytes() if path else b"")
