"""One conversation, its rendering as ChatML, and which of its tokens are learned."""

import json
import re
from dataclasses import dataclass, field

SKIP, AUX, TARGET = 0, 1, 2  # not learned, learned a little (the prompt), learned
NO_THINKING = "<think>\n\n</think>\n\n"
TOOLS_HEAD = "# Tools\n\nYou may call these functions:\n<tools>"
TOOLS_TAIL = (
    "\n</tools>\n\nTo call a function, answer with its name and arguments as JSON, one block a call:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


@dataclass
class Sample:
    """`messages` ends with the assistant's answer. `check` names how evaluation compares: text, number, calls, json, story."""

    messages: list
    tools: list = field(default_factory=list)
    thinking: bool = False
    check: str = "text"


def ask(prompt, answer, reasoning="", **kwargs):
    """A one-turn sample; thinking is on exactly when there is reasoning to learn."""
    final = {"role": "assistant", "content": answer}
    if reasoning:
        final["reasoning_content"] = reasoning
    return Sample([{"role": "user", "content": prompt}, final], thinking=bool(reasoning), **kwargs)


def call(name, arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _call_text(tool_call):
    function = tool_call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{function["name"]}", "arguments": {text}}}\n</tool_call>'


def answer_text(message):
    """What the model writes after the generation prompt, without reasoning and end of turn."""
    calls = "\n".join(_call_text(c) for c in message.get("tool_calls") or ())
    content = message.get("content") or ""
    return content + ("\n" if content and calls else "") + calls


def _reasoning(message):
    text = (message.get("reasoning_content") or "").strip()
    return f"<think>\n{text}\n</think>\n\n" if text else ""


def _system(messages, tools):
    text = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
    if tools:
        block = TOOLS_HEAD + "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools) + TOOLS_TAIL
        text = f"{text}\n\n{block}" if text else block
    return f"<|im_start|>system\n{text}<|im_end|>\n" if text else ""


def _last_query(messages):
    return max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)


def _turn(messages, i, last_query):
    message = messages[i]
    role = message["role"]
    if role == "tool":
        first = i == 0 or messages[i - 1]["role"] != "tool"
        last = i + 1 == len(messages) or messages[i + 1]["role"] != "tool"
        body = f"<tool_response>\n{message['content']}\n</tool_response>"
        return ("<|im_start|>user" if first else "") + "\n" + body + ("<|im_end|>\n" if last else "")
    if role == "assistant":
        kept = _reasoning(message) if i > last_query else ""
        return f"<|im_start|>assistant\n{kept}{answer_text(message)}<|im_end|>\n"
    return f"<|im_start|>{role}\n{message['content']}<|im_end|>\n"


def prompt_text(messages, tools=(), thinking=False):
    """The prompt as chat_template.jinja renders it with add_generation_prompt (a test compares the two)."""
    last_query = _last_query(messages)
    start = 1 if messages and messages[0]["role"] == "system" else 0
    turns = "".join(_turn(messages, i, last_query) for i in range(start, len(messages)))
    return _system(messages, tools) + turns + "<|im_start|>assistant\n" + ("" if thinking else NO_THINKING)


def segments(sample):
    """[(text, SKIP | AUX | TARGET)]: cut only where the tokenizer cuts as well, before and after special tokens."""
    prompt = prompt_text(sample.messages[:-1], sample.tools, sample.thinking)
    body, mark, tail = prompt.rpartition("<|im_start|>assistant\n")
    final = sample.messages[-1]
    answer = (_reasoning(final) if sample.thinking else "") + answer_text(final) + "<|im_end|>"
    return [*_history(body), (mark + tail, SKIP), (answer, TARGET), ("\n", SKIP)]


def _history(body):
    """Earlier answers are not learned: in history they lack the reasoning block with which an answer must begin."""
    for part in re.split(r"(<\|im_start\|>assistant\n.*?<\|im_end\|>)", body, flags=re.DOTALL):
        if part:
            yield part, SKIP if part.startswith("<|im_start|>assistant") else AUX
