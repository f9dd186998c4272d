"""The order in which the site lists its pages: what a page builds on comes before it."""

from pathlib import Path

NAV = (Path(__file__).parents[2] / "mkdocs.yml").read_text(encoding="utf-8")
BUILT_ON = (("policy-gradient.md", "regret.md"), ("train.md", "ensembles.md"), ("data.md", "grammars.md"))


def test_a_page_comes_after_those_that_it_builds_on() -> None:
    for earlier, later in BUILT_ON:
        assert NAV.index(f"guide/{earlier}") < NAV.index(f"guide/{later}"), (earlier, later)
    assert NAV.index("findings/policy-gradient.md") < NAV.index("findings/regret.md")
