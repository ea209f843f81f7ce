"""The files of the web page: all there, small over the wire, and held to a strict policy."""

from __future__ import annotations

import asyncio
import gzip
import posixpath
import re
from pathlib import Path

import pytest

import chorus_http
from chorus_http.dashboard_files import PREFIX, dashboard
from chorus_http.routes.dashboard import POLICY
from chorus_http.settings import HttpSettings
from tests.support.fake_cluster import FakeCluster
from tests.support.http_face import Reply, http_face, send_raw

ROOT = Path(chorus_http.__file__).parent / "dashboard"
WIRE_LIMIT_BYTES = 300_000
BROWSER = "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
NAMED = re.compile(
    r"""(?:\bfrom\s+|\bimport\s*\(?\s*|@import\s+|new URL\(\s*)["'`](\.\.?/[^"'`$]+)["'`]|style:\s*"([^"]+)" """.strip()
)
PAGE_NAMES = re.compile(r'"@assets/([^"]+)"')
MARKUP = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\.style\s*=|srcdoc")


def ask(*requests: tuple[str, tuple[str, ...]], settings: HttpSettings | None = None) -> list[Reply]:
    async def run() -> list[Reply]:
        async with http_face(FakeCluster(), settings) as server:
            return [await send_raw(server.port, request(path, *headers)) for path, headers in requests]

    return asyncio.run(run())


def request(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]).encode()


def own_files() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*")) if path.is_file() and "vendor" not in path.parts]


def test_every_file_that_another_one_names_is_there() -> None:
    there = set(dashboard().assets)
    page = (ROOT / "index.html").read_text(encoding="utf-8")
    named = set(PAGE_NAMES.findall(page))
    assert named, "the page names its scripts and styles"
    for path in own_files():
        if path.suffix not in (".js", ".css"):
            continue
        name = path.relative_to(ROOT).as_posix()
        for relative, style in NAMED.findall(path.read_text(encoding="utf-8")):
            named.add(style or posixpath.normpath(posixpath.join(posixpath.dirname(name), relative)))
    assert {one.partition("#")[0] for one in named} - there == set()


def test_every_file_together_is_small_over_the_wire() -> None:
    files = [dashboard().page, *dashboard().assets.values()]
    wire = sum(len(one.body if one.packed is None else one.packed) for one in files)
    assert wire <= WIRE_LIMIT_BYTES


@pytest.mark.parametrize("path", [path for path in own_files() if path.suffix == ".js"], ids=lambda path: path.name)
def test_no_module_of_ours_makes_markup_or_code_out_of_text(path: Path) -> None:
    code = re.sub(r"/\*.*?\*/|//[^\n]*", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert MARKUP.findall(code) == []


def test_everything_copied_from_elsewhere_has_its_licence_beside_it() -> None:
    folders = [path for path in (ROOT / "vendor").iterdir() if path.is_dir()]
    assert folders
    assert [path.name for path in folders if not (path / "LICENSE").is_file()] == []


def test_a_browser_gets_the_page_at_the_root_and_a_program_what_it_always_got() -> None:
    page, program, curl = ask(("/", (BROWSER,)), ("/", ("Accept: application/json",)), ("/", ("Accept: */*",)))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.body.startswith(b"<!doctype html>")
    assert page.headers["content-security-policy"] == POLICY
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-cache"
    assert "accept" in page.headers["vary"]
    assert program.json()["name"] == "Chorus"
    assert curl.json()["name"] == "Chorus"


def test_the_policy_lets_only_the_servers_own_files_run() -> None:
    rules = {name: allowed for name, _, allowed in (rule.partition(" ") for rule in POLICY.split("; "))}
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == "'self'"
    assert rules["style-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in POLICY


def test_a_file_is_kept_for_ever_under_the_name_of_its_content() -> None:
    build = dashboard().build
    address = f"{PREFIX}/{build}/shell/main.js"
    plain, packed, no_zip = ask(
        (address, ()), (address, ("Accept-Encoding: gzip, br",)), (address, ("Accept-Encoding: gzip;q=0",))
    )
    assert plain.headers["content-type"] == "text/javascript; charset=utf-8"
    assert "immutable" in plain.headers["cache-control"]
    assert plain.headers["x-content-type-options"] == "nosniff"
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body == no_zip.body
    assert f"{PREFIX}/{build}/".encode() in dashboard().page.body


def test_the_page_is_not_sent_again_while_it_is_the_same() -> None:
    etag = f'"{dashboard().page.etag}"'
    same, other = ask(("/", (BROWSER, f"If-None-Match: {etag}")), ("/", (BROWSER, 'If-None-Match: "older"')))
    assert (same.status, same.body) == (304, b"")
    assert other.status == 200


@pytest.mark.parametrize(
    "path",
    [
        f"{PREFIX}/0000000000000000/shell/main.js",
        f"{PREFIX}/{dashboard().build}/shell/no.js",
        f"{PREFIX}/{dashboard().build}/../dashboard_files.py",
        f"{PREFIX}/{dashboard().build}/%2e%2e/dashboard_files.py",
        f"{PREFIX}/{dashboard().build}/index.html",
    ],
)
def test_another_build_and_any_other_path_is_not_found(path: str) -> None:
    (reply,) = ask((path, ()))
    assert reply.status == 404
