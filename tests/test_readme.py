"""What the README says of the code is what the code says."""

import re
from pathlib import Path

from fakes import FakeService
from smelt.api.app import create_app, late_routes, routes
from smelt.api.house import Gate, House
from smelt.api.metrics import Metrics
from smelt.api.settings import Settings
from smelt.bench import readme
from smelt.engine.registry import Registry

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_generated_parts_are_up_to_date():
    for path, text in readme.wanted().items():
        assert path.read_text() == text, f"{path.name}: run python -m smelt.bench.readme"


def test_the_endpoints_named_are_the_endpoints_there_are():
    table = README[README.index("<!-- endpoints -->") : README.index("<!-- /endpoints -->")]
    named = {path.replace("{id}", "x") for path in re.findall(r"[`, ](/[\w/{}.-]+)", table)}
    router = create_app(FakeService())._router
    assert named and all(router.find(path) is not None for path in named)
    known = {re.sub(r"\{.*?\}", "x", path) for path in all_routes()}
    assert known <= named | {"/"}, f"not in the README: {known - named}"


def all_routes():
    house = House(Registry.around(FakeService()), Settings(), Gate(1), Metrics())
    return routes(house, late_routes(house))


def test_every_target_of_make_that_is_named_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", README):
        assert re.search(rf"^{target}:", makefile, re.M), f"make {target}"
