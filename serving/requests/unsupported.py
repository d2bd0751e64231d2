"""Fields of other servers that change an answer and that we do not have: refused by name when they ask for something."""

from collections.abc import Mapping
from typing import Any

from serving.requests.complaints import refusal

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "grammar": ("",), "json_schema": ({},), "regex": ("",), "logits_processors": ([],), "logit_processors": ([],),
    "prompt_logprobs": (), "use_beam_search": (False,), "num_beams": (1,), "length_penalty": (1, 1.0),
    "early_stopping": (False,), "bad_words": ([],), "allowed_token_ids": ([],), "no_repeat_ngram_size": (0,),
    "mirostat": (0,), "mirostat_mode": (0,), "typical_p": (1, 1.0), "tfs_z": (1, 1.0), "top_a": (0, 0.0),
    "top_n_sigma": (0, 0.0, -1, -1.0), "epsilon_cutoff": (0, 0.0), "eta_cutoff": (0, 0.0), "dynatemp_range": (0, 0.0),
    "xtc_probability": (0, 0.0), "dry_multiplier": (0, 0.0), "repeat_penalty": (1, 1.0), "n_predict": (),
    "max_new_tokens": (), "truncate_prompt_tokens": (), "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,), "add_special_tokens": (),
    "thinking_token_budget": (), "watermark": (False,), "prompt_embeds": (), "kv_transfer_params": (),
}  # fmt: skip
CHAT: Mapping[str, tuple[Any, ...]] = {
    **_NEUTRAL, "functions": ([],), "function_call": ("none", "auto"), "audio": (), "modalities": (["text"],),
    "prediction": (), "web_search_options": (), "verbosity": ("medium",), "echo": (False,), "best_of": (1,),
    "mm_processor_kwargs": ({},), "max_output_tokens": (), "instructions": ("",),
}  # fmt: skip
COMPLETION: Mapping[str, tuple[Any, ...]] = {
    **_NEUTRAL, "suffix": ("",), "max_completion_tokens": (), "max_output_tokens": (), "messages": ([],), "tools": ([],),
    "tool_choice": ("none", "auto"),
}  # fmt: skip
STRUCTURED: Mapping[str, tuple[Any, ...]] = {
    "structural_tag": (), "whitespace_pattern": (), "disable_any_whitespace": (False,),
    "disable_additional_properties": (False,),
}  # fmt: skip
"""By field, the values that ask for nothing; null never does. Among them what our other routes have."""
INSTEAD: Mapping[str, str] = {
    "functions": "tools", "function_call": "tool_choice", "json_schema": "response_format",
    "regex": "structured_outputs", "grammar": "structured_outputs", "max_output_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens", "instructions": "a message of the system", "messages": "/v1/chat/completions",
    "tools": "/v1/chat/completions", "tool_choice": "/v1/chat/completions",
}  # fmt: skip


def refuse_used(data: Any, unsupported: Mapping[str, tuple[Any, ...]], instead: Mapping[str, str] = INSTEAD) -> Any:
    """`data`, unless it is an object that uses an unsupported field; told is what there is `instead`."""
    for field, neutral in unsupported.items() if isinstance(data, dict) else ():
        value = data.get(field)
        if value is not None and not any(type(value) is type(n) and value == n for n in neutral):
            use = f": use {instead[field]}" if field in instead else ""
            raise refusal(field, f"{field} is not supported{use}")
    return data
