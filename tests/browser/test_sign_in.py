"""A hub that asks for keys, seen from a browser: signing in, making and revoking keys, and what the page keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from chorus_http.settings import HttpSettings
from chorus_proto.keys import NewKey, Scope
from tests.support.accessible import violations
from tests.support.browser import Browser
from tests.support.played_lan import PlayedLan, office_pc, played_lan


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlayedLan]:
    folder = tmp_path_factory.mktemp("locked")
    http = HttpSettings(http_port=0, drain_within_s=0.2, state_dir=folder / "http", require_keys=True)
    with played_lan(folder, office_pc("cellar", "qwen3:0.6b"), http=http) as lan:
        yield lan


def key(lan: PlayedLan, name: str, *scopes: Scope) -> str:
    return lan.call(lan.hub.coordinator.create_key(NewKey(name=name, scopes=scopes))).text


def sign_in(browser: Browser, lan: PlayedLan, text: str, page: str = "") -> None:
    browser.open(lan.url, page)
    browser.one("#sign-in-key").send_keys(text)
    browser.click(".sign-in button")


def sign_out(browser: Browser) -> None:
    browser.until_text("nav", "Sign out")
    browser.click(".nav-foot button:last-child")
    browser.one("#sign-in-key")


def test_without_a_key_there_is_only_the_question_for_one(browser: Browser, lan: PlayedLan) -> None:
    browser.open(lan.url, "fleet")
    browser.one("#sign-in-key")
    assert "cellar" not in browser.text_shown()
    assert violations(browser) == []
    browser.screenshot("sign-in")
    browser.one("#sign-in-key").send_keys("no key at all")
    browser.click(".sign-in button")
    browser.until_text(".problem", "no API key")
    wrong = f"chorus_00000000_{'x' * 43}"
    browser.script("arguments[0].value = arguments[1]", browser.one("#sign-in-key"), wrong)
    browser.click(".sign-in button")
    browser.until_text(".problem", "API key")


def test_a_key_opens_the_page_and_no_script_can_read_it(browser: Browser, lan: PlayedLan) -> None:
    text = key(lan, "admin", Scope.ADMIN)
    sign_in(browser, lan, text, "fleet")
    browser.one("article[data-name=cellar]")
    kept = browser.script("return document.cookie + JSON.stringify({...localStorage, ...sessionStorage})")
    assert text not in str(kept)
    assert "chorus_session" not in str(kept)
    (cookie,) = browser.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert text not in str(cookie["value"])
    browser.open(lan.url, "fleet")
    browser.one("article[data-name=cellar]")
    sign_out(browser)
    browser.open(lan.url, "fleet")
    browser.one("#sign-in-key")


def test_a_key_sees_only_the_pages_that_it_may_use(browser: Browser, lan: PlayedLan) -> None:
    sign_in(browser, lan, key(lan, "ada", Scope.CHAT, Scope.INFER))
    browser.until_text("nav", "Chat")
    pages = browser.text("nav .pages").splitlines()
    assert "Chat" in pages
    assert "Models" in pages
    assert not {"Fleet", "Queue", "Servers", "Join a PC", "Keys", "Documents"} & set(pages)
    sign_out(browser)


def test_a_key_is_made_shown_once_and_revoked(browser: Browser, lan: PlayedLan) -> None:
    sign_in(browser, lan, key(lan, "root", Scope.ADMIN), "keys")
    browser.until_text("tbody", "root")
    browser.click(".page-head .primary")
    browser.one("#key-name").send_keys("grace's laptop")
    browser.click("dialog input[value=metrics]")
    browser.screenshot("keys-new")
    browser.click("dialog .primary")
    secret = browser.text(".secret")
    assert re.fullmatch(r"chorus_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", secret)
    browser.screenshot("keys-secret")
    browser.click("dialog .primary")
    browser.until_gone("dialog")
    browser.until_text("tbody", "grace's laptop")
    assert secret not in str(browser.script("return document.documentElement.outerHTML"))
    browser.screenshot("keys")
    browser.click('button[aria-label="Revoke grace\'s laptop"]')
    browser.click("dialog .danger")
    browser.until(lambda: "grace's laptop" not in browser.text("tbody"), "the key gone from the list")
    browser.click("#show-old")
    browser.until_text("tbody", "revoked")
    sign_out(browser)


def test_a_key_that_is_revoked_while_the_page_is_open_leads_back_to_the_question(
    browser: Browser, lan: PlayedLan
) -> None:
    sign_in(browser, lan, key(lan, "brief", Scope.ADMIN), "fleet")
    browser.one("article[data-name=cellar]")
    lan.call(lan.hub.coordinator.revoke_key("brief"))
    browser.one("#sign-in-key")
