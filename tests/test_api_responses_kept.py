"""What the Responses dialect keeps: chains, stored answers, sealed compactions; and what truncation leaves out."""

from fakes import words
from smelt.api.response_seal import Seal
from smelt.api.response_store import Entry, Store
from smelt.engine.errors import ContextExceeded
from test_api_chat import tool_script
from test_api_responses import FUNCTION, PATH, USER, client_of, home, post

__all__ = ["home"]  # a fixture that every test here uses


def test_a_chain_goes_on_and_instructions_are_replaced():
    client, service = client_of(tool_script)
    first = post(client, instructions="One.").json
    results = [{"type": "function_call_output", "call_id": call, "output": "x"} for call in ("call_a", "call_b")]
    second = post(client, previous_response_id=first["id"], instructions="Two.", input=results).json
    assert second["previous_response_id"] == first["id"]
    messages = service.requests[1].messages
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "tool", "tool"]
    assert messages[0]["content"] == "Two." and messages[2]["reasoning_content"] == "hmm"
    reference = {"type": "item_reference", "id": first["output"][1]["id"]}
    post(client, input=[USER, reference, USER])
    assert service.requests[2].messages[1] == {"role": "assistant", "content": "I look."}


def test_what_is_kept():
    client, _ = client_of()
    body = post(client, input=[USER, {"role": "assistant", "content": "A"}, USER]).json
    ident = body["id"]
    assert client.simulate_get(f"{PATH}/{ident}").json == body
    newest = client.simulate_get(f"{PATH}/{ident}/input_items").json
    assert newest["object"] == "list" and not newest["has_more"]
    assert [item["content"][0]["type"] for item in newest["data"]] == ["input_text", "output_text", "input_text"]
    page = client.simulate_get(f"{PATH}/{ident}/input_items", query_string="order=asc&limit=1").json
    assert page["has_more"] and page["data"] == [newest["data"][-1]] and page["first_id"] == page["last_id"]
    rest = client.simulate_get(f"{PATH}/{ident}/input_items", query_string=f"order=asc&after={page['last_id']}").json
    assert rest["data"] == newest["data"][1::-1]
    for wrong in ("limit=0", "limit=x", "order=up", "after=nothing"):
        answer = client.simulate_get(f"{PATH}/{ident}/input_items", query_string=wrong)
        assert answer.status_code == 400 and answer.json["error"]["param"] == wrong.partition("=")[0]
    assert client.simulate_delete(f"{PATH}/{ident}").json == {"id": ident, "object": "response", "deleted": True}
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        assert client.simulate_request(method, f"{PATH}/{ident}{path}").status_code == 404


def test_what_is_not_kept():
    client, _ = client_of()
    ident = post(client, store=False).json["id"]
    assert client.simulate_get(f"{PATH}/{ident}").status_code == 404
    for unknown in (ident, "resp_never"):
        answer = post(client, previous_response_id=unknown)
        assert answer.status_code == 404 and answer.json["error"]["code"] == "previous_response_not_found"
        assert answer.json["error"]["param"] == "previous_response_id"


def test_the_store_is_bounded():
    store = Store(2)
    for ident in "abc":
        store.put(Entry({"id": ident, "output": []}, []))
        store.get("a")
    assert [store.get(ident) is not None for ident in "abc"] == [True, False, True]


def test_cancel_of_what_is_over():
    client, _ = client_of()
    ident = post(client).json["id"]
    answer = client.simulate_post(f"{PATH}/{ident}/cancel")
    assert answer.status_code == 400 and "completed" in answer.json["error"]["message"]


def test_input_tokens():
    client, service = client_of()
    path = PATH + "/input_tokens"
    assert post(client, path).json == {"object": "response.input_tokens", "input_tokens": len("<user>Hi\n")}
    more = post(client, path, instructions="S", tools=[FUNCTION]).json["input_tokens"]
    assert more == len("<tool>weather\n<system>S\n<user>Hi\n") and not service.requests
    assert post(client, path, stream=True).status_code == 400


def test_the_store_is_bounded_in_bytes():
    store = Store(9, 100)
    for ident, size in (("a", 60), ("b", 30), ("c", 30), ("d", 500)):
        store.put(Entry({"id": ident, "output": []}, [], size))
        assert "".join(store.entries) == {"a": "a", "b": "ab", "c": "bc", "d": "d"}[ident]
    store.pop("d")
    assert store.bytes == 0


# Compaction


def test_compact_keeps_calls_and_reasoning():
    client, service = client_of(tool_script)
    first = post(client).json
    results = [{"type": "function_call_output", "call_id": call, "output": "x"} for call in ("call_a", "call_b")]
    made = post(client, PATH + "/compact", previous_response_id=first["id"], input=results).json
    assert made["object"] == "response.compaction" and made["usage"]["total_tokens"] == 0
    (item,) = made["output"]
    assert item["type"] == "compaction" and item["id"].startswith("cmp_") and len(service.requests) == 1
    client, service = client_of()  # after a restart
    assert post(client, input=[item, USER]).status_code == 200
    messages = service.requests[0].messages
    assert [m["role"] for m in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert messages[1]["reasoning_content"] == "hmm" and len(messages[1]["tool_calls"]) == 2


def test_compact_wants_a_model_and_an_input():
    client, _ = client_of()
    for missing in ("model", "input"):
        answer = post(client, PATH + "/compact", **{missing: ...})
        assert answer.status_code == 400 and answer.json["error"]["param"] == missing


def test_a_foreign_or_broken_blob():
    client, _ = client_of()
    blob = post(client, PATH + "/compact").json["output"][0]["encrypted_content"]
    foreign = Seal(b"another key of bytes").close("compaction", [])
    reasoning = Seal().close("reasoning", "text")
    changed = ("B" if blob[0] == "A" else "A") + blob[1:]
    for wrong in ("", "x", "\u00e9", blob[:-4], changed, foreign, reasoning):
        answer = post(client, input=[{"type": "compaction", "encrypted_content": wrong}, USER])
        assert answer.status_code == 400 and answer.json["error"]["param"] == "input[0].encrypted_content", wrong


def test_the_key_is_made_once_and_is_the_users_alone(home):
    assert Seal().key == Seal().key == (home / "seal.key").read_bytes()
    assert (home / "seal.key").stat().st_mode & 0o077 == 0 and len(list(home.iterdir())) == 1


def test_without_a_home_the_key_is_of_the_process(home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("SMELT_HOME", str(home / "file" / "under"))
    seal = Seal()
    assert seal.open("a", seal.close("a", [1])) == [1]


# Truncation


def test_truncation_leaves_out_the_oldest_turns():
    def script(request):
        if len("".join(m["content"] for m in request.messages)) > 12:
            raise ContextExceeded(40, 30)
        return words(request)

    turns = [{"role": "user", "content": c * 4} for c in "abcd"]
    client, service = client_of(script)
    assert post(client, input=turns).json["error"]["code"] == "context_length_exceeded"
    assert post(client, input=turns, truncation="auto", instructions="S").status_code == 200
    assert [m["content"] for m in service.requests[-1].messages] == ["S", "dddd"]
    one = [{"role": "user", "content": "e" * 50}]
    assert post(client, input=one, truncation="auto").json["error"]["code"] == "context_length_exceeded"
