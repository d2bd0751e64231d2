"""LangChain: `python langchain_client.py [URL [MODEL [EMBEDDER]]]`. Tried with langchain-openai 1.7.3."""

import os
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

URL = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
MODEL = sys.argv[2] if len(sys.argv) > 2 else "smollm2-135m-instruct"
EMBEDDER = sys.argv[3] if len(sys.argv) > 3 else None  # a model published with its pooling
QUESTION = "What is the capital of France? Answer in one sentence."


class Capital(BaseModel):
    city: str
    country: str


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


chat = ChatOpenAI(base_url=URL, api_key="any", model=MODEL, temperature=0, max_completion_tokens=48)

print("whole:", chat.invoke(QUESTION).content)

print("streamed: ", end="")
for chunk in chat.stream(QUESTION):
    print(chunk.content, end="", flush=True)
print()

print("structured:", chat.with_structured_output(Capital).invoke(QUESTION))

(call,) = chat.bind_tools([weather], tool_choice="weather").invoke(QUESTION).tool_calls
print("tool:", call["name"], call["args"])

if EMBEDDER:  # the front end counts tokens: OpenAI's tokenizer does not know its models
    embeddings = OpenAIEmbeddings(base_url=URL, api_key="any", model=EMBEDDER, check_embedding_ctx_length=False)
    print("embedding:", len(embeddings.embed_query(QUESTION)), "numbers")
