"""The site of the documentation has every page, and each name that users import."""

import importlib.util
import re

import yaml

import motiontune
from motiontune import training
from training import REPOSITORY


def make_site():
    spec = importlib.util.spec_from_file_location("make_site", REPOSITORY / "docs" / "make_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_sites_contents():
    contents = yaml.safe_dump(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text()))
    listed = set(re.findall(r"[\w/]+\.(?:md|ipynb)\b", contents))
    pages = {str(path.relative_to(REPOSITORY)) for name in make_site().PAGES for path in REPOSITORY.glob(name)}
    made = {"api/motiontune.md", "api/training.md", "api/commands.md"}
    assert listed == pages | made


def test_every_name_that_users_import_has_its_place():
    module = make_site()
    for package in (motiontune, training):
        page = module.names_page(package.__name__, package._PLACES)
        found = re.findall(r"^::: (.+)\.(\w+)$", page, re.M)
        assert {name for _, name in found} == set(package.__all__) - {"__version__"}
        for place, name in found:
            if "llamafactory" not in place:  # which takes 20 s
                assert getattr(importlib.import_module(place), name) is getattr(package, name)


def test_pages_bring_what_they_link_to():
    module = make_site()
    page = REPOSITORY / "docs" / "trainers.md"
    assert REPOSITORY / "examples" / "trl_trainer.py" in set(module.linked([page]))
