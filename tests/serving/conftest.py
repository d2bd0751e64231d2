"""A front end over the shared cluster, and OpenAI's own client for it."""

from collections.abc import Iterator

import openai
import pytest

from tests.asking import openai_of


@pytest.fixture
def api(frontend: str) -> Iterator[openai.OpenAI]:
    with openai_of(frontend, 60) as client:
        yield client
