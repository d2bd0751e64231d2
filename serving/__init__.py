"""The front door: OpenAI-compatible API, held requests, router, streams."""
