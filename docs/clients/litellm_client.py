"""litellm: `python litellm_client.py [URL [MODEL [EMBEDDER]]]`. Tried with litellm 1.110.2."""

import os
import sys

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks GitHub for prices when it is imported

import litellm
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

server = {"api_base": URL, "api_key": "any"}
messages = [{"role": "user", "content": QUESTION}]
asked = {**server, "model": f"openai/{MODEL}", "messages": messages, "temperature": 0, "max_tokens": 48}

print("whole:", litellm.completion(**asked).choices[0].message.content)

print("streamed: ", end="")
for chunk in litellm.completion(**asked, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

written = litellm.completion(**asked, response_format=Capital).choices[0].message.content
print("structured:", Capital.model_validate_json(written))

chosen = {"type": "function", "function": {"name": "weather"}}
(call,) = litellm.completion(**asked, tools=[WEATHER], tool_choice=chosen).choices[0].message.tool_calls
print("tool:", call.function.name, call.function.arguments)

if EMBEDDER:
    embedded = litellm.embedding(**server, model=f"openai/{EMBEDDER}", input=[QUESTION], encoding_format="float")
    print("embedding:", len(embedded.data[0]["embedding"]), "numbers")
