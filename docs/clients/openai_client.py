"""OpenAI's own client: `python openai_client.py [URL [MODEL [EMBEDDER]]]`. Tried with openai 3.52.0."""

import os
import sys

from openai import OpenAI
from pydantic import BaseModel

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m-instruct"
EMBEDDER = sys.argv[3] if len(sys.argv) > 3 else None  # a model published with its pooling
QUESTION = "What is the capital of France? Answer in one sentence."


class Capital(BaseModel):
    city: str
    country: str


WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}

client = OpenAI(base_url=URL, api_key="any")
asked = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 48}

whole = client.chat.completions.create(**asked)
print("whole:", whole.choices[0].message.content)

print("streamed: ", end="")
for chunk in client.chat.completions.create(**asked, stream=True):
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

parsed = client.chat.completions.parse(**asked, response_format=Capital)
print("structured:", parsed.choices[0].message.parsed)

chosen = {"type": "function", "function": {"name": "weather"}}
called = client.chat.completions.create(**asked, tools=[WEATHER], tool_choice=chosen)
(call,) = called.choices[0].message.tool_calls
print("tool:", call.function.name, call.function.arguments)

if EMBEDDER:
    vector = client.embeddings.create(model=EMBEDDER, input=QUESTION).data[0].embedding
    print("embedding:", len(vector), "numbers")
