"""HTTP to what runs on this machine. httpx reads all authorities' certificates for every client, which takes a fiftieth of
a second of a core: where a condition is waited for, most of the time. Nothing here is TLS."""

import ssl
from typing import Any

import httpx
import openai

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody; made once."""


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, verify=NO_AUTHORITIES, **options)


def post(url: str, **options: Any) -> httpx.Response:
    return httpx.post(url, verify=NO_AUTHORITIES, **options)


def openai_of(url: str, timeout_s: float) -> openai.OpenAI:
    """OpenAI's own client of a front end, which does not ask again by itself."""
    http = openai.DefaultHttpxClient(verify=NO_AUTHORITIES)
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=timeout_s, http_client=http)
