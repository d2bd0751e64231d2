"""A front end over the shared cluster, and OpenAI's own client for it; databases for a history."""

from collections.abc import Iterator

import openai
import pytest

from tests.asking import openai_of
from tests.serving.databases import database, postgres_database, postgres_server, sqlite_database

__all__ = ["database", "postgres_database", "postgres_server", "sqlite_database"]


@pytest.fixture
def api(frontend: str) -> Iterator[openai.OpenAI]:
    with openai_of(frontend, 60) as client:
        yield client
