"""LlamaIndex: `python llamaindex_client.py [URL [MODEL [EMBEDDER]]]`.

Tried with llama-index-llms-openai-like 0.8.1 and llama-index-embeddings-openai-like 0.4.0.
"""

import os
import sys

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m-instruct"
EMBEDDER = sys.argv[3] if len(sys.argv) > 3 else None  # a model published with its pooling
QUESTION = "What is the capital of France? Answer in one sentence."


class Capital(BaseModel):
    """A city and its country."""

    city: str
    country: str


def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


llm = OpenAILike(
    api_base=URL,
    api_key="any",
    model=MODEL,
    temperature=0,
    max_tokens=48,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
)
messages = [ChatMessage(role="user", content=QUESTION)]

print("whole:", llm.chat(messages).message.content)

print("streamed: ", end="")
for chunk in llm.stream_chat(messages):
    print(chunk.delta or "", end="", flush=True)
print()

print("structured:", llm.as_structured_llm(Capital).chat(messages).raw)

answer = llm.chat_with_tools([FunctionTool.from_defaults(weather)], chat_history=messages, tool_required=True)
call = llm.get_tool_calls_from_response(answer)[0]
print("tool:", call.tool_name, call.tool_kwargs)

if EMBEDDER:
    embedder = OpenAILikeEmbedding(api_base=URL, api_key="any", model_name=EMBEDDER)
    print("embedding:", len(embedder.get_query_embedding(QUESTION)), "numbers")
