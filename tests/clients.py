"""Bodies of requests as real clients send them, by the shape of recorded ones; shorter, and the wording is ours.

`house` is a server with a random model of a long context: what it says is noise, but every template, token and step is
real.
"""

import json
import threading
from contextlib import contextmanager
from dataclasses import replace

import tiny
from smelt.api.app import create_app
from smelt.api.serve import Server
from smelt.api.settings import Settings
from smelt.engine.options import Options
from smelt.engine.service import Service

EPHEMERAL = {"type": "ephemeral"}
WORDS = "Read files before you edit them, keep answers short, and say what you did. "


def prose(characters):
    return (WORDS * (characters // len(WORDS) + 1))[:characters]


def schema(*required, **properties):
    made = {name: {"type": kind} if isinstance(kind, str) else kind for name, kind in properties.items()}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}
    return head | {"properties": made, "required": list(required), "additionalProperties": False}


SCHEMAS = {
    "Bash": schema("command", command="string", timeout="number", run_in_background={"type": "boolean", "default": False}),
    "Read": schema("file_path", file_path="string", offset={"type": "integer", "minimum": 0}, limit="number"),
    "Edit": schema("file_path", "old_string", "new_string", file_path="string", old_string="string", new_string="string"),
    "Glob": schema("pattern", pattern="string", path={"anyOf": [{"type": "string"}, {"type": "null"}]}),
    "Grep": schema("pattern", pattern="string", output_mode={"type": "string", "enum": ["content", "count"]}),
    "TodoWrite": schema("todos", todos={"type": "array", "items": schema("content", content="string")}),
}


def attribution(session):
    """The line that changes with every session, and within one with every build of the client."""
    return {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2.1.330.{session}; cc_entrypoint=cli; cch={session};"}


def claude_code(session="a1b2c", turns=1, **fields):
    """A request of Claude Code in the middle of some work: `turns` rounds of a call and its result."""
    return {
        "model": "claude-sonnet-4-5-20250929",
        "messages": claude_messages(turns),
        "system": [
            attribution(session),
            {"type": "text", "text": "You are Claude Code, a command line for coding.", "cache_control": EPHEMERAL},
            {"type": "text", "text": prose(1500), "cache_control": EPHEMERAL},
        ],
        "tools": claude_tools(),
        "metadata": {"user_id": json.dumps({"device_id": "d", "account_uuid": "", "session_id": session})},
        "max_tokens": 32000,
        "thinking": {"type": "adaptive", "display": "omitted"},
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "output_config": {"effort": "high"},
        "stream": True,
        **fields,
    }


CLAUDE_HEADERS = {
    "x-api-key": "none",
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,effort-2025-11-24",
    "anthropic-dangerous-direct-browser-access": "true",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "User-Agent": "claude-cli/2.1.330 (external, cli)",
    "X-Stainless-Helper-Method": "stream",
    "x-app": "cli",
}


def claude_tools():
    made = [{"name": name, "description": prose(150), "input_schema": given} for name, given in SCHEMAS.items()]
    made.append({"name": "ToolSearch", "description": prose(150), "input_schema": schema("query", query="string")})
    deferred = {"name": "WebFetch", "description": "Fetches.", "input_schema": schema("url", url="string")}
    return [*made, deferred | {"defer_loading": True}]


def claude_messages(turns):
    asked = [
        {"type": "text", "text": "<system-reminder>\nThe user's notes come here.\n</system-reminder>"},
        {"type": "text", "text": "Make the tests pass.", "cache_control": EPHEMERAL},
    ]
    made = [{"role": "user", "content": asked}, {"role": "system", "content": prose(500)}]
    for turn in range(turns):
        made += claude_turn(f"toolu_{turn}")
    return made


def claude_turn(ident):
    said = [
        {"type": "thinking", "thinking": "I should look at the file.", "signature": "smelt"},
        {"type": "text", "text": "I look at the file."},
        {"type": "tool_use", "id": ident, "name": "Read", "input": {"file_path": "/a.py"}},
    ]
    content = [{"type": "text", "text": "1\tdef f():"}, {"type": "text", "text": "2\t    return 1"}]
    result = {"type": "tool_result", "tool_use_id": ident, "content": content, "cache_control": EPHEMERAL}
    return [
        {"role": "assistant", "content": said},
        {"role": "user", "content": [result]},
        {"role": "system", "content": [{"type": "text", "text": "The todo list is empty."}]},
    ]


PATCH = """start: begin change+ end
begin: "*** Begin Patch" LF
end: "*** End Patch" LF?
change: "*** Delete File: " /[^\\n]+/ LF
%import common.LF
"""


def codex_tools():
    shell = schema("command", command={"type": "array", "items": {"type": "string"}}, workdir="string")
    patch = {"type": "grammar", "syntax": "lark", "definition": PATCH}
    search = schema("query", query="string", limit="number")
    return [
        {"type": "function", "name": "shell", "description": prose(100), "strict": False, "parameters": shell},
        {"type": "custom", "name": "apply_patch", "description": prose(100), "format": patch},
        {"type": "namespace", "name": "mcp__docs__", "description": "Documents.", "tools": [
            {"type": "function", "name": "find", "description": "Finds.", "strict": False, "parameters": search},
            {"type": "function", "name": "later", "parameters": search, "defer_loading": True}]},
        {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": search},
        {"type": "web_search", "external_web_access": False, "search_content_types": ["text"]},
        {"type": "image_generation", "output_format": "png"},
    ]  # fmt: skip


def codex_input():
    def said(role, text):
        return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}

    output = {"type": "function_call_output", "call_id": "call_1", "output": "a.py\nb.py"}
    return [
        said("developer", prose(400)),
        said("developer", "<permissions>read only</permissions>"),
        said("user", "<environment_context>\n  <cwd>/w</cwd>\n</environment_context>"),
        said("user", "Rename f to g.") | {"id": "msg_1"},
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Look first."}],
         "content": None, "encrypted_content": "of-another-service"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look."}],
         "phase": "commentary"},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "shell", "arguments": '{"command":["ls"]}'},
        output,
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_2", "name": "apply_patch", "input": "*** Begin Patch",
         "status": "completed"},
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "Done"},
        {"type": "tool_search_call", "call_id": "call_3", "execution": "client", "arguments": {"query": "x"},
         "status": "completed"},
        {"type": "tool_search_output", "call_id": "call_3", "execution": "client", "status": "completed", "tools": [
            {"type": "function", "name": "found", "description": "Found.", "parameters": schema("a", a="string")}]},
        {"type": "additional_tools", "role": "developer", "tools": [
            {"type": "function", "name": "more", "parameters": schema("b", b="string")}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}},
        said("user", "Go on."),
    ]  # fmt: skip


def codex(**fields):
    return {
        "model": "gpt-5.2-codex",
        "instructions": prose(500),
        "input": codex_input(),
        "tools": codex_tools(),
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "0199-aa",
        "client_metadata": {"x-codex-installation-id": "i", "x-codex-turn-metadata": "{}"},
        "text": {"verbosity": "low"},
        **fields,
    }


CODEX_HEADERS = {
    "Accept": "text/event-stream",
    "Authorization": "Bearer none",
    "openai-beta": "responses=experimental",
    "originator": "codex_cli_rs",
    "session_id": "0199-aa",
    "x-codex-turn-metadata": "{}",
}


def function(name, **more):
    given = {"name": name, "description": prose(100), "parameters": SCHEMAS.get(name, schema("query", query="string"))}
    return {"type": "function", "function": given | more}


def call(ident, name, **arguments):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


USAGE = {"include_usage": True}
ASKED = [{"role": "system", "content": prose(400)}, {"role": "user", "content": "Make the tests pass."}]
WORKED = [
    *ASKED,
    {"role": "assistant", "content": "", "tool_calls": [call("c1", "Read", file_path="a.py"), call("c2", "Bash", command="ls")]},
    {"role": "tool", "tool_call_id": "c1", "content": "def f(): pass"},
    {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "a.py"}]},
]

# Bodies of /v1/chat/completions, by the client.
CHAT = {
    "opencode": {
        "model": "smelt", "max_tokens": 32000, "temperature": 0, "top_p": 1, "tool_choice": "auto",
        "messages": [
            {"role": "system", "content": prose(1000)}, {"role": "system", "content": "The folder is /w."},
            {"role": "user", "content": [{"type": "text", "text": "Look at "}, {"type": "text", "text": "a.py"}]},
            {"role": "assistant", "content": None, "reasoning_content": "Hm.", "tool_calls": [call("c", "Read", file_path="a")]},
            {"role": "tool", "tool_call_id": "c", "content": "<file>\n00001| x\n</file>"}],
        "tools": [function(name) for name in SCHEMAS], "stream": True, "stream_options": USAGE,
    },
    "aider": {
        "model": "smelt", "temperature": 0, "stream": True,
        "messages": [*ASKED, {"role": "assistant", "content": "Ok."}, {"role": "user", "content": "Now edit it."}],
    },
    "aider, continued": {
        "model": "smelt", "temperature": 0, "stream": True,
        "messages": [*ASKED, {"role": "assistant", "content": "a.py\n<<<<<<< SEARCH", "prefix": True}],
    },
    "langchain": {
        "model": "smelt", "stream": True, "stream_options": USAGE, "temperature": 0.7, "max_completion_tokens": 64,
        "messages": [*WORKED, {"role": "user", "content": "And?", "name": "ann"}], "n": 1, "seed": 1,
        "tools": [function("Read"), function("Bash")], "parallel_tool_calls": False, "logprobs": False,
    },
    "litellm": {
        "model": "smelt", "max_tokens": 32, "user": "u", "stream": False, "tools": [function("Read")],
        "messages": [*ASKED, {"role": "assistant", "content": "Hm.", "function_call": None, "tool_calls": None,
                              "provider_specific_fields": {"refusal": None}}, {"role": "user", "content": "And?"}],
    },
    "pydantic-ai": {
        "model": "smelt", "stream": False, "tool_choice": "auto", "tools": [function("Read", strict=False)],
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
                     {"role": "assistant", "content": None, "tool_calls": [call("pyd_ai_1", "Read", file_path="a")]},
                     {"role": "tool", "tool_call_id": "pyd_ai_1", "content": "x"}],
    },
    "qwen-code": {
        "model": "smelt", "stream": True, "stream_options": USAGE, "max_tokens": 8000, "metadata": {"sessionId": "s"},
        "messages": [{"role": "system", "content": [{"type": "text", "text": "Help.", "cache_control": EPHEMERAL}]},
                     {"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
        "tools": [function("Read"), function("Grep")],
    },
    "ai-sdk": {
        "model": "smelt", "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "max_completion_tokens": 50, "stop": ["END"], "stream": True, "stream_options": USAGE, "reasoning_effort": "low",
        "store": False, "metadata": {"a": "b"}, "service_tier": "auto",
    },
}  # fmt: skip


@contextmanager
def house(folder):
    """(server, service) of a random model with a context of 32,768 tokens; answers are at most 6 tokens long."""
    service = Short(Options(model=str(tiny.make(folder, max_position_embeddings=32768)), max_concurrent=8))
    server = Server(create_app(service, settings := Settings(port=0, max_streams=16)), settings)
    loop = threading.Thread(target=server.run)
    loop.start()
    service.start()
    try:
        service.wait_ready(60)
        yield server, service
    finally:
        server.drain(service.close)
        loop.join(10)


class Short(Service):
    def submit(self, request):
        return super().submit(replace(request, max_tokens=min(request.max_tokens or 6, 6)))
