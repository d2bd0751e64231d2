"""A front end over the shared cluster, and OpenAI's own client for it."""

from collections.abc import Iterator

import openai
import pytest


@pytest.fixture
def api(frontend: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{frontend}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client
