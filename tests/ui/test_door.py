"""Nothing is served without the secret, to another name, or to a page of another site."""

import pytest
from tests.ui.conftest import ADDRESS, SECRET, Browser

PATHS = ("/", "/run?name=a", "/run/events?name=a", "/assets/ui.css", "/assets/plotly.js", "/nowhere")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_served_without_the_secret(browser: Browser, path: str) -> None:
    client = browser(known=False)
    for more in ("", "&key=", "&key=a-secreT", "&key=%ff"):
        answer = client.get(f"{path}{'' if '?' in path else '?'}{more}")
        assert answer.status_code == 403
        assert "<p>give the address that `nanogrove ui` printed, with its key</p>" in answer.text
    client.cookies.set("nanogrove-8100", "another")
    assert client.get(path).status_code == 403


def test_the_secret_lets_a_browser_in_once_and_leaves_the_address(browser: Browser) -> None:
    client = browser(known=False)
    answer = client.get(f"/?search=a+b&key={SECRET}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/?search=a+b")
    assert answer.headers["set-cookie"] == f"nanogrove-8100={SECRET}; HttpOnly; Path=/; SameSite=lax"
    assert client.get("/").status_code == 200


@pytest.mark.parametrize("path", ["//example.org", "//example.org/%2e%2e", "/run\\x"])
def test_the_secret_leads_to_no_other_site(browser: Browser, path: str) -> None:
    answer = browser(known=False).get(f"{ADDRESS}{path}?key={SECRET}", follow_redirects=False)
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize(
    "host",
    ["evil.example:8100", "127.0.0.1.evil.example", "", "[", "0.0.0.0:8100", "localhost:a b", "localhost:8100;x"],
)
def test_another_name_is_refused(browser: Browser, host: str) -> None:
    assert browser().get("/", headers={"Host": host}).status_code == 421
    assert browser(known=False).get(f"/?key={SECRET}", headers={"Host": host}).status_code == 421


ORIGINS = ["http://evil.example", "null", "http://127.0.0.1:8101", "https://127.0.0.1:8100", ""]


@pytest.mark.parametrize("origin", ORIGINS)
def test_pages_of_other_sites_are_refused(browser: Browser, origin: str) -> None:
    client = browser()
    assert client.get("/", headers={"Origin": origin}).status_code == 403
    assert client.post("/run/stop?name=a", headers={"Origin": origin}).status_code == 403


def test_what_changes_something_says_from_where_it_comes(browser: Browser) -> None:
    client = browser()
    del client.headers["Origin"]
    assert client.get("/").status_code == 200
    assert client.post("/run/notes?name=a").status_code == 403
    for path in ("/run/notes?name=a", "/run/stop?name=a", "/run/continue?name=a"):
        assert client.get(path).status_code == 405


def test_pages_run_scripts_of_this_server_alone_and_stand_in_no_frame(browser: Browser) -> None:
    for path in PATHS:
        policy = browser().get(path).headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy


OTHERS = [
    "a:b=c",
    'settings={"x": [1, 2]}',
    "caf\xe9=\xff",
    "=",
    "x=" + "y" * 8000,
    "nanogrove-8101=another",
    "nanogrove-8100",
]


@pytest.mark.parametrize("other", OTHERS)
def test_cookies_of_other_servers_do_not_shut_a_browser_out(browser: Browser, other: str) -> None:
    client = browser(known=False)
    for cookies in (f"{other}; nanogrove-8100={SECRET}", f"nanogrove-8100={SECRET};{other}"):
        assert client.get("/", headers={b"Cookie": cookies.encode("latin-1")}).status_code == 200
    assert client.get("/", headers={b"Cookie": other.encode("latin-1")}).status_code == 403


def test_servers_on_two_ports_keep_a_cookie_each(browser: Browser) -> None:
    client = browser(known=False)
    for port in (8100, 8101):
        answer = client.get(f"http://127.0.0.1:{port}/?key={SECRET}", follow_redirects=False)
        assert answer.headers["set-cookie"].startswith(f"nanogrove-{port}={SECRET};")
    assert set(client.cookies.keys()) == {"nanogrove-8100", "nanogrove-8101"}
