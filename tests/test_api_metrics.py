"""/metrics: what was counted, in a form that Prometheus reads."""

import subprocess
import sys
from pathlib import Path

import falcon.testing
from fakes import FakeService, says
from smelt.api.app import create_app
from smelt.api.metrics import Metrics
from smelt.engine.events import Failed, Started
from test_api_chat import HELLO, PATH, tool_script

TESTS = str(Path(__file__).parent)


def scrape(client):
    answer = client.simulate_get("/metrics")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_what_is_counted():
    service = FakeService()
    client = falcon.testing.TestClient(create_app(service))
    client.simulate_post(PATH, json=HELLO)
    client.simulate_post(PATH, json=HELLO | {"stream": True, "n": 2})
    service.script = tool_script
    client.simulate_post(PATH, json=HELLO)
    service.script = says(Started(1), Failed(ValueError()))
    client.simulate_post(PATH, json=HELLO)
    client.simulate_post(PATH, json={})
    client.simulate_get("/made-up/7")
    found = scrape(client)
    assert found['smelt_generations_total{reason="stop"}'] == 3
    assert found['smelt_generations_total{reason="tool_calls"}'] == 1
    assert found['smelt_generations_total{reason="failed"}'] == 1
    assert found["smelt_prompt_tokens_total"] == 21 and found["smelt_cached_prompt_tokens_total"] == 9
    assert found["smelt_cached_prompts_total"] == 3
    assert [found[f'smelt_prefix_cache_{name}{{model="fake"}}'] for name in ("entries", "bytes")] == [2, 4096]
    assert found["smelt_completion_tokens_total"] == 20
    assert found["smelt_drafted_tokens_total"] == 36 and found["smelt_accepted_tokens_total"] == 24
    assert found[f'smelt_http_requests_total{{route="{PATH}",status="200"}}'] == 3
    assert found[f'smelt_http_requests_total{{route="{PATH}",status="400"}}'] == 1
    assert found['smelt_http_requests_total{route="none",status="404"}'] == 1
    assert found["smelt_time_to_first_token_seconds_count"] == 3
    assert found['smelt_decode_seconds_bucket{le="0.1"}'] == found['smelt_decode_seconds_bucket{le="+Inf"}'] == 4
    assert found['smelt_decode_seconds_bucket{le="0.05"}'] == 0
    assert found["smelt_ready"] == 1 and found["smelt_memory_peak_bytes"] == 3 << 20


def test_while_loading():
    found = scrape(falcon.testing.TestClient(create_app(FakeService(state="loading"))))
    assert found["smelt_ready"] == 0 and "smelt_rows_running" not in found


def test_the_library_is_imported_by_the_first_scrape():
    code = """
import sys, falcon.testing
from fakes import FakeService
from smelt.api.app import create_app
client = falcon.testing.TestClient(create_app(FakeService()))
assert not any(name.startswith("prometheus_client") for name in sys.modules)
assert "smelt_ready 1.0" in client.simulate_get("/metrics").text
assert "prometheus_client" in sys.modules
"""
    subprocess.run([sys.executable, "-c", f"import sys; sys.path.insert(0, {TESTS!r}); import conftest" + code], check=True)


def test_prometheus_reads_it():
    from prometheus_client import parser

    client = falcon.testing.TestClient(create_app(FakeService()))
    client.simulate_post(PATH, json=HELLO)
    families = {
        family.name: family for family in parser.text_string_to_metric_families(client.simulate_get("/metrics").text)
    }
    assert families["smelt_prompt_tokens"].type == "counter" and families["smelt_decode_seconds"].type == "histogram"


def test_open_metrics_for_who_asks():
    client = falcon.testing.TestClient(create_app(FakeService()))
    answer = client.simulate_get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n") and "smelt_info{" in answer.text


def test_a_value_in_and_beyond_every_bucket():
    metrics = Metrics()
    for seconds in (0.05, 1e6):
        metrics.observe("decode", seconds)
    assert metrics.histograms["decode"].buckets()[-2:] == [("300.0", 1), ("+Inf", 2)]
    assert dict(metrics.histograms["decode"].buckets())["0.05"] == 1
    assert dict(metrics.histograms["decode"].buckets())["0.025"] == 0


def test_the_prompt_of_several_choices_counts_once_and_each_of_several_prompts_does():
    client = falcon.testing.TestClient(create_app(FakeService()))
    client.simulate_post("/v1/completions", json={"prompt": ["a", "b"], "n": 2})
    found = scrape(client)
    assert found["smelt_prompt_tokens_total"] == 14 and found["smelt_completion_tokens_total"] == 20
