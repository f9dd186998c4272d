"""Search and sort of the list."""

from nanogrove.record.listing import Listed
from nanogrove.ui.index import Entry, Lab
from nanogrove.ui.notes import Notes
from nanogrove.ui.run_list import SHOWN_RUNS, SORTS, asked_of, chosen, list_page
from nanogrove.ui.studies import Study

ENDED = ("finished", "diverged", "stopped")


def entry(name: str, notes: Notes | None = None, **values: object) -> Entry:
    return Entry((), Listed(name, **values), notes or Notes())  # type: ignore[arg-type]


RUNS = {
    "b": entry("b", method="evolve", data="text", step=5, steps=10, measure="loss", figure=[1.0, 5.0], state="stopped"),
    "A": entry("A", method="pretrain", data="rhm", step=9, steps=90, measure="loss", figure=2.0, modified=50.0),
    "c": entry("c", notes=Notes(tags=["Keep"], note="odd spike")),
}


def order(**words: str) -> str:
    return "".join(chosen(Lab(RUNS, {}), asked_of(words), 100.0))


def test_a_column_orders_runs_and_what_is_not_known_comes_last() -> None:
    orders = {sort: (order(sort=sort), order(sort=sort, order="descending")) for sort in SORTS}
    assert orders == {
        "run": ("Abc", "cbA"),
        "method": ("bAc", "Abc"),
        "data": ("Abc", "bAc"),
        "steps": ("Abc", "bAc"),
        "measure": ("Abc", "bAc"),
        "state": ("Acb", "bAc"),
        "age": ("Abc", "Abc"),
    }


def test_a_search_means_each_of_its_words() -> None:
    assert order(search="keep SPIKE") == "c"
    assert order(search="loss rhm") == "A"
    assert order(search="nothing") == ""


def test_words_that_mean_nothing_are_left_out() -> None:
    assert asked_of({"sort": "<b>", "order": "x", "search": " a  b "}) == asked_of({"search": "a b"})


def test_all_runs_that_a_search_means_are_chosen_by_one_box() -> None:
    lab = Lab({f"{n}": entry(f"{n}") for n in range(60)}, {})
    page = list_page(lab, asked_of({"search": "1"}), "/x", 0.0)
    assert '<input type="checkbox" id="all" data-most="15"> Choose all 15 runs</label>' in page
    assert 'data-most="50"> Choose the first 50 of 60 runs</label>' in list_page(lab, asked_of({}), "/x", 0.0)
    assert 'id="all"' not in list_page(lab, asked_of({"search": "55"}), "/x", 0.0)


def test_studies_are_found_by_what_is_listed_of_them() -> None:
    runs = {f"s/runs/a/seed-{n}": entry(f"s/runs/a/seed-{n}", state=state) for n, state in enumerate(ENDED)}
    study = Study("s", ("wide",), "loss", notes=Notes(tags=["Odd"]))
    lab = Lab(runs, {"s": study, "t": Study("t", damage="study.json is damaged")})
    page = list_page(lab, asked_of({"search": "odd wide"}), "/x", 0.0)
    assert '<a href="/study?name=s"><bdi>s</bdi></a>' in page
    assert '<a href="/compare?study=s"' in page
    assert "<bdi>2</bdi>" in page  # of its runs have ended, before there are results
    assert "study?name=t" not in page
    assert "damaged: study.json is damaged" in list_page(lab, asked_of({"search": "damaged"}), "/x", 0.0)


def test_an_empty_folder_says_what_to_do() -> None:
    assert "<code>nanogrove train quickstart</code> makes one" in list_page(Lab({}, {}), asked_of({}), "/x", 0.0)


def test_a_page_shows_so_many_runs_and_says_so() -> None:
    lab = Lab({f"{n}": entry(f"{n}") for n in range(SHOWN_RUNS + 1)}, {})
    page = list_page(lab, asked_of({}), "/x", 0.0)
    assert page.count("<tr>") == SHOWN_RUNS + 1  # and the head
    assert "1,001 runs, 1,001 damaged, the first 1,000 are shown; search for fewer" in page
