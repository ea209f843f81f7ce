from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import cast

ROOT = Path(__file__).resolve().parents[2]


def project() -> dict[str, object]:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return cast("dict[str, object]", document["project"])


def bare(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    return found.group().lower()


def needed() -> list[str]:
    return cast("list[str]", project()["dependencies"])


def test_requirements_txt_lists_the_dependencies_of_the_project() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == needed()


def test_each_dependency_has_its_reason_and_nothing_else_has_one() -> None:
    extras = cast("dict[str, list[str]]", project()["optional-dependencies"])
    every = {bare(one) for one in [*needed(), *(one for extra in extras.values() for one in extra)]} - {"chorus-llm"}
    rows = re.findall(r"^\| ([\w.-]+) \| (.+) \|$", (ROOT / "docs/dependencies.md").read_text(encoding="utf-8"), re.M)
    reasons = {name: reason for name, reason in rows if name not in ("package", "---")}
    assert set(reasons) == every
    assert all(len(reason) > 10 for reason in reasons.values())


def test_every_third_party_import_is_a_dependency() -> None:
    own = {"chorus_proto", "chorus_server", "chorus_client", "chorus_http", "chorus_cli"}
    names = {
        "charset_normalizer": "charset-normalizer",
        "google": "protobuf",
        "grpc": "grpcio",
        "prometheus_client": "prometheus-client",
        "pynvml": "nvidia-ml-py",
        "quart_cors": "quart-cors",
        "engineio": "python-engineio",
        "socketio": "python-socketio",
        "tokenizers": "transformers",
        "uvloop": "uvicorn",
    }
    listed = {bare(one) for one in needed()}
    extras = cast("dict[str, list[str]]", project()["optional-dependencies"])
    # An extra's packages may be imported by the modules that need the extra, and by no other.
    documents = {bare(one) for extra in ("rag", "postgres") for one in extras[extra]}
    of_extra = {
        "model_server": {bare(one) for one in extras["transformers"]} | {"jinja2"},
        **dict.fromkeys(("rag", "parsers"), documents),
    }
    for package in ("proto/chorus_proto", "server", "client", "http_wrapper", "cli"):
        for file in (ROOT / package).rglob("*.py"):
            for line in file.read_text(encoding="utf-8").splitlines():
                found = re.match(r"\s*(?:import|from) ([a-z]\w*)[\w.]*(?:$| import| as|,)", line)
                if found is None:
                    continue
                name = found.group(1)
                if name in own or name in sys.stdlib_module_names or name.startswith("_"):
                    continue
                allowed = listed | of_extra.get(file.parent.name, set())
                assert names.get(name, name) in allowed, f"{file}: {line.strip()}"


def test_the_models_and_their_licences_lie_in_the_package() -> None:
    models = ROOT / "client/chorus_client/models"
    notice = (models / "NOTICE.md").read_text(encoding="utf-8")
    files = sorted(path.name for path in models.glob("*.gguf"))
    assert len(files) == 4
    assert all(name in notice for name in files)
    assert "Apache License" in (models / "LICENSE-APACHE-2.0.txt").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in models.iterdir()) < 45_000_000


def test_the_checks_before_a_commit_run_on_every_system() -> None:
    assert ".venv/" not in re.sub("#.*", "", (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))


def test_windows_scripts_have_windows_line_ends_and_the_others_do_not() -> None:
    for name in ("start_server.bat", "stop.bat", "test.bat", "tools/venv.bat"):
        raw = (ROOT / name).read_bytes()
        assert raw.count(b"\n") == raw.count(b"\r\n") > 5, name
    for name in ("start.sh", "test.sh", "stop.sh", "tools/venv.sh", ".ci/run"):
        assert b"\r" not in (ROOT / name).read_bytes(), name
