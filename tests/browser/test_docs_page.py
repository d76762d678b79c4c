"""Asks whether /docs and /problems work in a real browser: from our origin alone, in two languages, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from api import problems
from api.handlers.pages import POLICY
from tests.support.api import Port, Served, served
from tests.support.chromium import Chromium, Tab, chromium, tab

READY = "document.querySelectorAll('article').length"
ALL_OPERATIONS = (
    "[...document.querySelectorAll('article')].map((box) => ({id: box.id,"
    " title: box.querySelector('h2').textContent, path: box.querySelector('.path').textContent,"
    " statuses: [...box.querySelectorAll('summary > .status')].map((one) => one.textContent)}))"
)
ACTIVE = "document.activeElement"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("docs")) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(params=["check", "registry"])
def port(request: pytest.FixtureRequest, server: Served) -> Port:
    found: Port = getattr(server, request.param)
    return found


@pytest.fixture
def pages(browser: Chromium) -> Iterator[Any]:
    """Opens /docs for a reader of some language; in the end no page may have complained."""
    with ExitStack() as stack:
        opened: list[Tab] = []

        def open_docs(port: Port, language: str = "en", **more: Any) -> Tab:
            page = stack.enter_context(tab(browser, language=language, **more))
            page.open(f"{origin(port)}/docs", READY)
            opened.append(page)
            return page

        yield open_docs
        for page in opened:
            page.value("0")
            assert page.complaints == []


def origin(port: Port) -> str:
    return f"http://127.0.0.1:{port.number}"


def described(port: Port) -> dict[str, tuple[str, str, dict[str, Any]]]:
    """What /openapi.json says: operation id -> method, path, operation."""
    document = port.send("GET", "/openapi.json").json
    return {
        operation["operationId"]: (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def test_values_that_a_member_may_have_are_listed(pages: Any, server: Served) -> None:
    text = pages(server.check, "ja").value("document.body.textContent")
    assert '"SUPERSEDED"' in text and '"unknown_card"' in text and '"certificate_grace"' in text
    assert "SpecificDiseaseView の配列" in text


# --- where it comes from --------------------------------------------------------------------------------------------


def test_the_page_is_loaded_from_its_own_origin_alone(pages: Any, port: Port) -> None:
    page = pages(port)
    paths = {"/docs", "/openapi.json", "/static/docs.css", "/static/docs.js", "/static/icon.svg"}
    assert set(page.requests) == {origin(port) + path for path in paths}
    assert {response["status"] for response in page.responses.values()} == {200}
    assert page.value("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]


def test_the_policy_that_is_sent_stops_foreign_and_inline_code(browser: Chromium, port: Port, server: Served) -> None:
    """What the policy forbids does not happen in this browser, and is heard of: a page that breaks it would be seen."""
    foreign = origin(server.registry if port is server.check else server.check)
    with tab(browser, language="en") as page:
        page.open(f"{origin(port)}/docs", READY)
        assert page.responses[f"{origin(port)}/docs"]["headers"]["content-security-policy"] == POLICY
        assert page.complaints == []
        page.value(
            "(() => { const script = document.createElement('script'); script.textContent = 'window.inline = 1';"
            " document.head.append(script); const image = document.createElement('img');"
            f" image.src = '{foreign}/static/icon.svg'; document.body.append(image);"
            " document.body.setAttribute('onclick', 'window.inline = 2'); document.body.click(); })()"
        )
        assert page.value("typeof window.inline") == "undefined"
        assert page.value("(() => { try { return eval('1'); } catch { return 'refused'; } })()") == "refused"
        assert page.value(f"fetch('{foreign}/livez').then(() => 'sent', () => 'refused')") == "refused"
        page.wait("document.images[document.images.length - 1].complete")
        assert not [address for address in page.responses if address.startswith(foreign)]
        assert len([text for text in page.complaints if "Content Security Policy" in text]) >= 4


def test_a_complaint_of_a_page_is_heard(browser: Chromium, server: Served) -> None:
    with tab(browser, language="en") as page:
        page.open(f"{origin(server.check)}/docs", READY)
        page.value("(() => { console.error('one'); setTimeout(() => { throw new Error('two'); }); })()")
        page.value("new Promise((resolve) => setTimeout(resolve, 50))")
        assert len(page.complaints) == 2


# --- what it shows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "part"), [("ja", 0), ("en", 1)])
def test_every_operation_is_shown(pages: Any, port: Port, language: str, part: int) -> None:
    page, operations = pages(port, language), described(port)
    shown = {box["id"]: box for box in page.value(ALL_OPERATIONS)}
    assert set(shown) == set(operations)
    for name, (method, path, operation) in operations.items():
        assert shown[name]["path"] == f"{method.upper()} {path}"
        assert shown[name]["title"] == operation["summary"].split(" · ")[part]
        assert shown[name]["statuses"] == list(operation["responses"])
    links = page.value("[...document.querySelectorAll('nav a')].map((link) => link.getAttribute('href'))")
    assert sorted(links) == sorted(f"#{name}" for name in operations)


def test_members_of_requests_are_shown_with_their_types(pages: Any, server: Served) -> None:
    page = pages(server.check)
    names = page.value("[...document.querySelectorAll('#check .name')].map((one) => one.textContent)")
    schemas = server.check.send("GET", "/openapi.json").json["components"]["schemas"]
    for schema in ("CheckRequest", "Card", "CheckAnswer", "QualificationView", "Problem"):
        assert set(schemas[schema]["properties"]) <= set(names), schema
    assert page.value("document.body.innerText.includes('undefined')") is False


def test_an_address_with_an_operation_shows_it(browser: Chromium, server: Served) -> None:
    with tab(browser, language="en") as page:
        page.open(f"{origin(server.check)}/docs#getInsurer", READY)
        page.wait("Math.abs(document.getElementById('getInsurer').getBoundingClientRect().top) < innerHeight / 2")


def test_a_narrow_screen_is_not_scrolled_sideways(pages: Any, port: Port) -> None:
    page = pages(port, "ja", width=360)
    page.value("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    assert page.value("document.scrollingElement.scrollWidth") <= 360


# --- languages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accepted", "language"), [("ja-JP,ja", "ja"), ("en-GB,en", "en"), ("fr", "en")])
def test_the_page_begins_in_the_reader_s_language(pages: Any, server: Served, accepted: str, language: str) -> None:
    page = pages(server.check, accepted)
    document = server.check.send("GET", "/openapi.json").json
    title = dict(zip(("ja", "en"), document["info"]["title"].split(" · "), strict=True))[language]
    assert page.value("[document.documentElement.lang, document.title]") == [language, title]
    assert page.value("[...document.querySelectorAll('h1')].map((one) => one.textContent)") == [title]


def test_the_language_is_chosen_and_remembered(pages: Any, server: Served) -> None:
    page = pages(server.check, "ja")
    japanese = page.value("[document.title, document.querySelector('main').innerText]")
    page.value("document.querySelector('[data-language=en]').click()")
    assert page.value("document.documentElement.lang") == "en"
    assert page.value("[...document.querySelectorAll('[aria-pressed=true]')].map((one) => one.lang)") == ["en"]
    english = page.value("[document.title, document.querySelector('main').innerText]")
    assert english[0] != japanese[0] and english[1] != japanese[1]
    page.open(f"{origin(server.check)}/docs", READY)
    assert page.value("[document.title, document.querySelector('main').innerText]") == english


# --- by keyboard and by ear -----------------------------------------------------------------------------------------


def test_the_keyboard_reaches_everything_in_order_and_shows_where_it_is(pages: Any, port: Port) -> None:
    page = pages(port)
    page.value(
        "window.wanted = [...document.querySelectorAll('a, button, input, select, textarea, summary')]"
        ".filter((one) => one.checkVisibility())"
    )
    count = page.value("window.wanted.length")
    assert count > 20
    reached: list[int] = []
    for _ in range(3 * count):
        page.press("Tab")
        at, outline = page.value(f"[window.wanted.indexOf({ACTIVE}), getComputedStyle({ACTIVE}).outlineStyle]")
        if at >= 0:
            assert outline == "solid", at
            reached.append(at)
        if len(reached) == count:
            break
    assert reached == list(range(count))
    page.press("Tab", shift=True)
    assert page.value(f"window.wanted.indexOf({ACTIVE})") in (count - 2, -1), "and back again"


def tab_to(page: Tab, selector: str) -> None:
    for _ in range(200):
        if page.value(f"{ACTIVE}.matches({selector!r})"):
            return
        page.press("Tab")
    raise AssertionError(f"the keyboard does not reach {selector}")


def test_a_request_is_sent_by_keyboard_alone(pages: Any, server: Served) -> None:
    page = pages(server.check)
    tab_to(page, "[data-language=ja]")
    page.press("Enter")
    assert page.value("document.documentElement.lang") == "ja"
    tab_to(page, "[data-language=en]")
    page.press(" ")
    assert page.value("document.documentElement.lang") == "en"
    assert page.value(f"{ACTIVE}.dataset.language") == "en", "the focus stays where it was"
    tab_to(page, "#check .try > summary")
    page.press("Enter")
    tab_to(page, "#check textarea")
    tab_to(page, "#check .send")
    page.press("Enter")
    page.wait("document.querySelector('#check [aria-live] .status')")
    assert page.value("document.querySelector('#check [aria-live] .status').textContent") == "200 application/json"
    assert '"verdict": "NOT_FOUND"' in page.value("document.querySelector('#check [aria-live] pre').textContent")


def test_a_refusal_is_shown_as_it_came(browser: Chromium, server: Served) -> None:
    with tab(browser, language="en") as page:
        page.open(f"{origin(server.check)}/docs", READY)
        page.value(
            "(() => { const box = document.querySelector('#check .try'); box.open = true;"
            " box.querySelector('textarea').value = '{'; box.querySelector('.send').click(); })()"
        )
        page.wait("document.querySelector('#check [aria-live] .status.problem')")
        assert "input.malformed" in page.value("document.querySelector('#check [aria-live] pre').textContent")


def test_everything_has_a_name_for_who_listens(pages: Any, port: Port) -> None:
    page = pages(port, "ja")
    page.value("document.querySelectorAll('details').forEach((box) => { box.open = true; })")
    nodes = [node for node in page.send("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    named: dict[str, list[str]] = {}
    for node in nodes:
        named.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    for role in ("banner", "navigation", "main"):
        assert len(named.get(role, [])) == 1, role
    assert len(named["button"]) >= 2 + len(described(port))
    for role in ("button", "link", "textbox", "combobox", "heading", "DisclosureTriangle", "article"):
        assert all(name.strip() for name in named.get(role, [])), role


# --- what a problem means -------------------------------------------------------------------------------------------


def test_the_page_of_a_problem_keeps_the_policy_and_has_both_languages(browser: Chromium, port: Port) -> None:
    with tab(browser, language="en") as page:
        address = f"{origin(port)}/problems/input.my_number"
        page.open(address, "document.querySelector('main')")
        page.wait("getComputedStyle(document.querySelector('main')).maxWidth !== 'none'")
        assert page.responses[address]["headers"]["content-security-policy"] == POLICY
        assert all(request.startswith(origin(port)) for request in page.requests)
        assert page.value("document.documentElement.lang") == "ja"
        assert page.value("[...document.querySelectorAll('section')].map((one) => one.lang)") == ["ja", "en"]
        advice = problems.known_codes()["input.my_number"].advice
        text = page.value("document.querySelector('main').innerText")
        assert advice.ja in text and advice.en in text
        page.press("Tab")
        assert page.value(f"{ACTIVE}.getAttribute('href')") == "/docs"
        assert page.complaints == []
