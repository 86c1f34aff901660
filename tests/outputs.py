"""What models write, by format: (name, tools' names or None for the usual, text, what it means).

A meaning is a list of strings (text), ("think", text) and (name, arguments).
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "integer"},
                    "metric": {"type": "boolean"},
                    "at": {"type": ["number", "null"]},
                    "more": {"$ref": "#/$defs/more"},
                    "tags": {"anyOf": [{"type": "array"}, {"type": "null"}]},
                },
                "$defs": {"more": {"type": "object"}},
            },
        },
    },
    {"type": "function", "function": {"name": "write_file", "parameters": {"type": "object", "properties": {
        "path": {"type": "string"}, "content": {"type": "string"}}}}},
    {"type": "function", "function": {"name": "now"}},
    {"type": "function", "function": {"name": "python", "parameters": {"type": "object", "properties": {
        "code": {"type": "string"}}}}},
]  # fmt: skip

KOELN = ("weather", {"city": "Köln"})
BONN = ("weather", {"city": "Bonn", "days": 2})

HERMES = [
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>', [KOELN]),
    ('<tool_call>{"name":"weather","arguments":{"city":"Köln"}}</tool_call>', [KOELN]),
    (
        'I look.\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "weather", "arguments": {"city": "Bonn", "days": 2}}\n</tool_call>\n',
        ["I look.", KOELN, BONN],
    ),
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>\n\nDone.\n', [KOELN, "Done.\n"]),
    ('<tool_call>{"arguments": {"city": "Köln"}, "name": "weather"}</tool_call>', [KOELN]),
    ('<tool_call>{"name": "weather", "parameters": {"city": "Köln"}}</tool_call>', [KOELN]),
    ('<tool_call>{"name": "now", "arguments": {}}</tool_call>', [("now", {})]),
    ('<tool_call>{"name": "now"}</tool_call>', [("now", {})]),
    ('<tool_call>{"name": "other", "', [("other", {})]),
    ('<tool_call>{"name": "other", "argum', [("other", {})]),
    ('<tool_call>{"name": "now", "arguments": null}</tool_call>', [("now", {})]),
    ('<tool_call>{"name": "other", "arguments": {"x": [1, {"y": null}], "z": -1.5e3}}</tool_call>',
     [("other", {"x": [1, {"y": None}], "z": -1500.0})]),
    # strings
    (r'<tool_call>{"name": "write_file", "arguments": {"path": "a\\b", "content": "\"q\"\n\t\u00e9\ud83d\ude00 \/"}}</tool_call>',
     [("write_file", {"path": "a\\b", "content": '"q"\n\té😀 /'})]),
    ('<tool_call>{"name": "write_file", "arguments": {"content": "</think> and </tool_call> literal"}}</tool_call>',
     [("write_file", {"content": "</think> and </tool_call> literal"})]),
    ('<tool_call>{"name": "write_file", "arguments": {"content": "<tool_call>{}"}}</tool_call>',
     [("write_file", {"content": "<tool_call>{}"})]),
    ('<tool_call>{"name": "write_file", "arguments": {"content": ""}}</tool_call>', [("write_file", {"content": ""})]),
    # types of the schema
    ('<tool_call>{"name": "weather", "arguments": {"city": 50667, "days": "3", "metric": "True", "at": "none"}}</tool_call>',
     [("weather", {"city": "50667", "days": 3, "metric": True, "at": None})]),
    ('<tool_call>{"name": "weather", "arguments": {"days": 2.0, "more": "{\\"a\\": 1}", "tags": "[\'x\']"}}</tool_call>',
     [("weather", {"days": 2, "more": {"a": 1}, "tags": ["x"]})]),
    ('<tool_call>{"name": "write_file", "arguments": {"content": {"a": [1, "b"]}}}</tool_call>',
     [("write_file", {"content": '{"a": [1, "b"]}'})]),
    ('<tool_call>{"name": "weather", "arguments": {"days": "soon"}}</tool_call>', [("weather", {"days": "soon"})]),
    ('<tool_call>{"name": "weather", "arguments": "{\\"city\\": \\"Köln\\"}"}</tool_call>', [KOELN]),
    ('<tool_call>{"name": "python", "arguments": "1+1"}</tool_call>', [("python", {"code": "1+1"})]),
    # other tags, attributes
    ('<tool_calls>[{"name": "weather", "arguments": {"city": "Köln"}}, {"name": "now", "arguments": {}}]</tool_calls>',
     [KOELN, ("now", {})]),
    ('<tool_request>{"name": "now"}</tool_request>', [("now", {})]),
    ('<tool>{"name": "now"}</tool_call>', [("now", {})]),
    ('<tool_call name="weather">{"city": "Köln"}</tool_call>', [KOELN]),
    ('<tool_call name="weather"><parameters>{"city": "Köln"}</parameters></tool_call>', [KOELN]),
    ('<tool_call name="weather">{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>', [KOELN]),
    ('<tool_call name="weather" arguments={"city": "Köln"}/> ok', [KOELN, "ok"]),
    ("<tool_call name='now' />", [("now", {})]),
    ('<tool_call>\n```json\n{"name": "now", "arguments": {}}\n```\n</tool_call>', [("now", {})]),
    ('<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>', [KOELN]),
    ('<tool_call>{"name": "now"}\n{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>', [("now", {}), KOELN]),
    # repairs
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln"}, {"days": 2}}</tool_call>', [KOELN]),
    ('<tool_call>[{"name": "weather", "arguments": {"city": "Köln"}}, (]</tool_call>', [KOELN]),
    ('<tool_call>{"name": "weather", "arguments": "{\\"at\\": 1e999}"}</tool_call>', ['<tool_call>{"name": "weather", "arguments": "{\\"at\\": 1e999}"}</tool_call>']),
    ('<tool_call>{"name": "weather", "arguments": {"at": 1e999}}</tool_call>', [("weather", {"at": "1e999"})]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}}</tool_call>', [KOELN]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln"}</tool_call>', [KOELN]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln"}} More.', [KOELN, "More."]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln', [KOELN]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln</tool_call>', [KOELN]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln</tool_call>\n<tool_call>{"name": "now"}</tool_call>',
     [KOELN, ("now", {})]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln", "days": 1', [KOELN]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Köln", "da', [KOELN]),
    ('<tool_call>{"name": "weather", "arg', [("weather", {})]),
    ('<tool_call>{"name": "weather", {"city": "Köln"}}</tool_call>', [KOELN]),
    ('<tool_call>{name": "weather", "arguments": {city: "Köln"}}</tool_call>', [KOELN]),
    ("<tool_call>{'name': 'weather', 'arguments': {'city': 'Köln', 'metric': True, 'at': None,}}</tool_call>",
     [("weather", {"city": "Köln", "metric": True, "at": None})]),
    ('<tool_call>{{"name": "weather", "arguments": {{"city": "Köln"}}}}</tool_call>', [KOELN]),
    ('<tool_call>{"name": {"name": {"name": "weather", "arguments": {"city": "Köln"}}}}</tool_call>', [KOELN]),
    ('<tool_call>{"name": {"name": "weather"}, "arguments": {"city": "Köln"}}</tool_call>', [KOELN]),
    ('<tool_call>{"type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}</tool_call>', [KOELN]),
    ('<tool_call>{"function": "weather", "arguments": {"city": "Köln"}}</tool_call>', [KOELN]),
    ('<tool_call>{"name": "weather", "city": "Bonn", "days": 2}</tool_call>', [BONN]),
    ('<tool_call>{"name": "weather", "arguments": {"city": "Bonn"}, "days": 2, "id": "x"}</tool_call>', [BONN]),
    ('<tool_call>{"name": "functions.Weather", "arguments": {"city": "Köln"}}</tool_call>', [KOELN]),
    ('<tool_call>{"name": "writeFile", "arguments": {"path": "a"}}</tool_call>', [("write_file", {"path": "a"})]),
    ('<tool_call>{"name": "write_file", "arguments": {"content": "say "hi", ok"}}</tool_call>',
     [("write_file", {"content": 'say "hi", ok'})]),
    ('<tool_call>{"name": "write_file", "arguments": {"content": "a", path: "b"}}</tool_call>',
     [("write_file", {"content": "a", "path": "b"})]),
    ('<tool_call>{"name": "write_file", "arguments": {"content": "a "b" c"}}</tool_call>',
     [("write_file", {"content": 'a "b" c'})]),
    ('<tool_call>{"name": "write_file", "arguments": {"content": "one\ntwo", "path": "\\d+"}}</tool_call>',
     [("write_file", {"content": "one\ntwo", "path": "\\d+"})]),
    # text
    ("Just text.\n", ["Just text.\n"]),
    ("  \n lead", ["  \n lead"]),
    ("A <toolkit> and <tool_x> a < b, <", ["A <toolkit> and <tool_x> a < b, <"]),
    ("The <tool_call> tag holds JSON.", ["The <tool_call> tag holds JSON."]),
    ("<tool_call>\nnone\n</tool_call>", ["<tool_call>\nnone\n</tool_call>"]),
    ('<tool_call>{"nom": 1}</tool_call>', ['<tool_call>{"nom": 1}</tool_call>']),
    ('<tool_call>{"name": "no name at all", "arguments": {}}</tool_call>',
     ['<tool_call>{"name": "no name at all", "arguments": {}}</tool_call>']),
    ('<tool_call>{"name": "weat', ['<tool_call>{"name": "weat']),
    ('x <tool_call> y <tool_call>{"name": "now"}</tool_call>', ["x <tool_call> y", ("now", {})]),
    ('{"name": "now", "arguments": {}}', ['{"name": "now", "arguments": {}}']),
    ('<tool_call>{"name": "weather", "arguments": [1, 2]}</tool_call>', ['<tool_call>{"name": "weather", "arguments": [1, 2]}</tool_call>']),
]  # fmt: skip

XML = [
    ("<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>", [KOELN]),
    ("<function=weather><parameter=city>Köln</parameter></function>", [KOELN]),
    ("Well.\n<function=weather>\n<parameter=city>\nBonn\n</parameter>\n<parameter=days>\n2\n</parameter>\n</function>\n",
     ["Well.", BONN]),
    ("<tool_call>\n<function=now>\n</function>\n</tool_call>", [("now", {})]),
    ('<function name="weather"><parameter name="city">Köln</parameter></function>', [KOELN]),
    # values
    ("<function=write_file>\n<parameter=content>\n\n  a\n\nb \n\n</parameter>\n</function>", [("write_file", {"content": "\n  a\n\nb \n"})]),
    ("<function=write_file>\n<parameter=content>\n<p>\n</parameter> is a tag\n</parameter>\n</function>",
     [("write_file", {"content": "<p>\n</parameter> is a tag"})]),
    ("<function=write_file>\n<parameter=content>\nA </function> B\n</think>\n</parameter>\n</function>",
     [("write_file", {"content": "A </function> B\n</think>"})]),
    ('<function=write_file>\n<parameter=content>\n{"a": 1}\n</parameter>\n</function>', [("write_file", {"content": '{"a": 1}'})]),
    ("<function=write_file>\n<parameter=content>\n</parameter>\n</function>", [("write_file", {"content": ""})]),
    ("<function=weather>\n<parameter=days>\n 3 \n</parameter>\n<parameter=metric>\nFalse\n</parameter>\n<parameter=at>\n1.50\n</parameter>\n"
     '<parameter=more>\n{"a": [1]}\n</parameter>\n<parameter=tags>\nNone\n</parameter>\n<parameter=city>\n007\n</parameter>\n</function>',
     [("weather", {"days": 3, "metric": False, "at": 1.5, "more": {"a": [1]}, "tags": None, "city": "007"})]),
    ("<function=weather>\n<parameter=more>\n{'a': True}\n</parameter>\n<parameter=days>\nmany\n</parameter>\n</function>",
     [("weather", {"more": {"a": True}, "days": "many"})]),
    ("<tool_call>\n<function=other>\n<parameter=a>\n12\n</parameter>\n<parameter=b>\n[1]\n</parameter>\n<parameter=c>\n1 2\n</parameter>\n"
     "<parameter=d>\nnull\n</parameter>\n</function>\n</tool_call>", [("other", {"a": 12, "b": [1], "c": "1 2", "d": None})]),
    # several
    ("<tool_call>\n<function=now>\n</function>\n</tool_call>\n<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n"
     "</function>\n</tool_call>", [("now", {}), KOELN]),
    ("<tool_call>\n<function=now>\n</function>\n<function=now>\n</function>\n</tool_call>", [("now", {}), ("now", {})]),
    # repairs
    ("<function=weather>\n<parameter=city>\nBonn\n<parameter=days>\n2\n</parameter>\n</function>", [BONN]),
    ("<function=write_file>\n<parameter=content>\n<parameter=x>\n<parameter=\n</parameter>\n</function>",
     [("write_file", {"content": "<parameter=x>\n<parameter="})]),
    ("<function=weather>\n<parameter=city>\nKöln\n</function>\n</tool_call>", [KOELN]),
    ("<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n</tool_call>", [KOELN]),
    ("<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n", [KOELN]),
    ("<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n", [KOELN]),
    ("<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</parameter>\n<parameter=days>\n2", [KOELN]),
    ("<tool_call>\n<function=weather>\n<parameter=city>\nKöln\n</par", [("weather", {"city": "Köln\n</par"})]),
    ('<function=weather>{"city": "Köln"}</function>', [KOELN]),
    ('<function=weather>{"city": "Köln"} and so on</function>\nOk.', [KOELN, "Ok."]),
    ('<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>', [KOELN]),
    # text
    ("Use <function=NAME> here, <functions> and <function", ["Use <function=NAME> here, <functions> and <function"]),
    ("<function=other><parameter=a>1</parameter></function>", ["<function=other><parameter=a>1</parameter></function>"]),
    ("<function=weather> is the tag", ["<function=weather> is the tag"]),
]  # fmt: skip

GEMMA = [
    ('<|tool_call>call:weather{city:<|"|>Köln<|"|>}<tool_call|>', [KOELN]),
    ('Ok.\n<|tool_call>call:weather{city:<|"|>Bonn<|"|>,days:2}<tool_call|><|tool_call>call:now{}<tool_call|>', ["Ok.", BONN, ("now", {})]),
    ('<|tool_call>call:weather{more:{a:[1,<|"|>b<|"|>,{c:null}],d:true},tags:[],at:-1.5}<tool_call|>',
     [("weather", {"more": {"a": [1, "b", {"c": None}], "d": True}, "tags": [], "at": -1.5})]),
    ('<|tool_call>call:write_file{content:<|"|>{a: "b"}, <tool_call|> \\n <b><|"|>}<tool_call|>',
     [("write_file", {"content": '{a: "b"}, <tool_call|> \\n <b>'})]),
    ('<|tool_call>call:weather{"city":"K\\"ln","days":"2"}<tool_call|>', [("weather", {"city": 'K"ln', "days": 2})]),
    ('<|tool_call>call:weather{{city:<|"|>Köln<|"|>}}<tool_call|>', [KOELN]),
    ('<|tool_call>call:weather{city:Köln}<tool_call|>', [KOELN]),
    ('<|tool_call>call:weather{city:<|"|>Köln<|"|>}', [KOELN]),
    ('<|tool_call>call:weather{city:<|"|>Köln<|"|><tool_call|>x', [KOELN, "x"]),
    ('<|tool_call>call:weather{city:<|"|>Köln', [KOELN]),
    ('<|tool_call>call:weather{city:<|"|>Köln<tool_call|>', [KOELN]),
    ('<|tool_call>call:tools.shell-exec{cmd:<|"|>ls<|"|>}<tool_call|>', [("tools.shell-exec", {"cmd": "ls"})]),
    ('<|tool_call>this is none<tool_call|>', ["<|tool_call>this is none<tool_call|>"]),
    ("call:weather{city:x}", ["call:weather{city:x}"]),
]  # fmt: skip

FUNCTION_GEMMA = [
    ("<start_function_call>call:weather{city:<escape>Köln<escape>}<end_function_call>", [KOELN]),
    ("<start_function_call>call:weather{city:<escape>Bonn<escape>,days:2}<end_function_call>", [BONN]),
]

LLAMA = [
    ('{"name": "weather", "parameters": {"city": "Köln"}}', [KOELN]),
    ('\n{"name": "weather", "parameters": {"city": "Bonn", "days": "2"}}; {"name": "now", "parameters": {}}', [BONN, ("now", {})]),
    ('{"type": "function", "name": "weather", "parameters": {"city": "Köln"}}', [KOELN]),
    ('{"type": "function", "function": {"name": "weather", "parameters": {"city": "Köln"}}}', [KOELN]),
    ('<|python_tag|>{"name": "weather", "parameters": {"city": "Köln"}}', [KOELN]),
    ('<|python_tag|>{"name": "brave_search", "parameters": {"query": "x"}}', [("brave_search", {"query": "x"})]),
    ('<|python_tag|>weather.call(city="Bonn", days=2)', [BONN]),
    ("<|python_tag|>print('a')\nx = {1: 2}", [("python", {"code": "print('a')\nx = {1: 2}"})]),
    ('<function=weather>{"city": "Köln"}</function>', [KOELN]),
    ('[weather(city="Köln"), now()]', [KOELN, ("now", {})]),
    ('{"name": "weather", "parameters": {"city": "Köln"', [KOELN]),
    ('{"name": "Bob", "age": 5}', ['{"name": "Bob", "age": 5}']),
    ('{"age": 5, "name": "weather"}', ['{"age": 5, "name": "weather"}']),
    ('Sure: {"name": "weather", "parameters": {}}', ['Sure: {"name": "weather", "parameters": {}}']),
    ("[1, 2] {x}", ["[1, 2] {x}"]),
    ("{", ["{"]),
]  # fmt: skip

MISTRAL = [
    ('[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln"}}]', [KOELN]),
    ('[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bonn", "days": "2"}, "id": "abcdefghi"}, {"name": "now", "arguments": {}}]',
     [BONN, ("now", {})]),
    ('Ok.[TOOL_CALLS]weather[ARGS]{"city": "Köln"}', ["Ok.", KOELN]),
    ('[TOOL_CALLS]weather{"city": "Köln"}', [KOELN]),
    ('[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{"city": "Köln"}[TOOL_CALLS]now[ARGS]{}', [KOELN, ("now", {})]),
    ('[TOOL_CALLS]weather[ARGS]{"city": "Köln"}now[ARGS]{}', [KOELN, ("now", {})]),
    ('[TOOL_CALLS]weather[ARGS]{"city": "Köln"} Done [1]', [KOELN, "Done [1]"]),
    ('[TOOL_CALLS]weather[ARGS]{"city": "[TOOL_CALLS]x"}', [("weather", {"city": "[TOOL_CALLS]x"})]),
    ('[TOOL_CALLS]weather[ARGS]{"city": "Köln', [KOELN]),
    ('[TOOL_CALLS]weather[ARGS]{"days": 2, (x}[TOOL_CALLS]now[ARGS]{}', [("weather", {"days": 2}), ("now", {})]),
    ('[TOOL_CALLS] {"name": "weather", "arguments": {"city": "Köln"}}', [KOELN]),
    ("[TOOL_CALLS] what?", ["[TOOL_CALLS] what?"]),
    ("a [TOOL box", ["a [TOOL box"]),
]  # fmt: skip

LFM2 = [
    ('<|tool_call_start|>[weather(city="Köln")]<|tool_call_end|>', [KOELN]),
    ("I check. <|tool_call_start|>[weather(city='Bonn', days=2), now()]<|tool_call_end|>Wait.", ["I check.", BONN, ("now", {}), "Wait."]),
    ("<|tool_call_start|>weather(city='Köln')<|tool_call_end|>", [KOELN]),
    ("<|tool_call_start|>[weather('Bonn', 2)]<|tool_call_end|>", [BONN]),
    ("<|tool_call_start|>[weather(city='it\\'s', metric=True, at=None, tags=['a', (1, 2)], more={'k': \"v\"})]<|tool_call_end|>",
     [("weather", {"city": "it's", "metric": True, "at": None, "tags": ["a", [1, 2]], "more": {"k": "v"}})]),
    ("<|tool_call_start|>[weather(city='don't, I say', days='2')]<|tool_call_end|>", [("weather", {"city": "don't, I say", "days": 2})]),
    ('<|tool_call_start|>[write_file(content="""a\n"b"\n""", path="x")]<|tool_call_end|>', [("write_file", {"content": 'a\n"b"\n', "path": "x"})]),
    ("<|tool_call_start|>[write_file(content='<|tool_call_end|> x')]<|tool_call_end|>", [("write_file", {"content": "<|tool_call_end|> x"})]),
    ('<|tool_call_start|>[{"name": "weather", "arguments": {"city": "Köln"}}]<|tool_call_end|>', [KOELN]),
    ('<|tool_call_start|>{"name": "weather", "arguments": {"city": "Köln"}}<|tool_call_end|>', [KOELN]),
    ("<|tool_call_start|>[weather(city='Köln'", [KOELN]),
    ("<|tool_call_start|>[weather(city='Köln'<|tool_call_end|>x", [KOELN, "x"]),
    ("<|tool_call_start|>[fs.list_dir(path='/tmp')]<|tool_call_end|>", [("fs.list_dir", {"path": "/tmp"})]),
    ("<|tool_call_start|>[]<|tool_call_end|>", ["<|tool_call_start|>[]<|tool_call_end|>"]),
]  # fmt: skip

NEMOTRON = [
    ('<TOOLCALL>[{"name": "weather", "arguments": {"city": "Köln"}}, {"name": "now", "arguments": {}}]</TOOLCALL>', [KOELN, ("now", {})]),
    ('<TOOLCALL>{"name": "weather", "arguments": {"city": "Köln"}}</TOOLCALL>', [KOELN]),
    ('Ok.\n<TOOLCALL>[{"name": "weather", "arguments": {"city": "Köln"}}', ["Ok.", KOELN]),
    ("<TOOLCALL> me", ["<TOOLCALL> me"]),
]  # fmt: skip

ALL = {
    "hermes": HERMES,
    "xml": XML,
    "gemma-4": GEMMA,
    "function-gemma": FUNCTION_GEMMA,
    "llama-3": LLAMA,
    "mistral": MISTRAL,
    "lfm2": LFM2,
    "nemotron": NEMOTRON,
}
