"""Generate the Python side of the wire protocol: `python proto/generate.py` writes it, `--check` proves it current.

The output is committed, so that running Chorus needs no compiler; CI runs `--check`. protoc comes with grpcio-tools,
the type stubs with mypy-protobuf.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent
PACKAGE = "chorus_proto"


def generated_names(proto_names: list[str]) -> list[str]:
    """The files that protoc writes for these .proto files, relative to the package folder."""
    names: list[str] = []
    for proto_name in proto_names:
        stem = proto_name.removesuffix(".proto")
        names += [f"{stem}_pb2.py", f"{stem}_pb2.pyi"]
        if "service " in (ROOT / PACKAGE / proto_name).read_text(encoding="utf-8"):
            names += [f"{stem}_pb2_grpc.py", f"{stem}_pb2_grpc.pyi"]
    return names


def run_protoc(out: Path) -> list[str]:
    """Compile every .proto of the package into `out/chorus_proto`; return the names written there."""
    proto_names = sorted(path.name for path in (ROOT / PACKAGE).glob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    # The plugin lies beside this Python, which may not be on PATH.
    stubs_plugin = shutil.which("protoc-gen-mypy", path=str(Path(sys.executable).parent)) or "protoc-gen-mypy"
    arguments = [
        "protoc",
        f"--plugin=protoc-gen-mypy={stubs_plugin}",
        f"--plugin=protoc-gen-mypy_grpc={stubs_plugin.replace('protoc-gen-mypy', 'protoc-gen-mypy_grpc')}",
        f"--proto_path={ROOT}",
        f"--proto_path={well_known}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *(f"{PACKAGE}/{name}" for name in proto_names),
    ]
    if protoc.main(arguments) != 0:  # pyright: ignore[reportUnknownMemberType]  # grpcio-tools ships no annotations
        raise SystemExit("protoc failed; its message is above")
    return generated_names(proto_names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when the committed files differ")
    check = bool(parser.parse_args().check)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        names = run_protoc(out)
        stale = [
            name
            for name in names
            if not (ROOT / PACKAGE / name).exists()
            or not filecmp.cmp(out / PACKAGE / name, ROOT / PACKAGE / name, shallow=False)
        ]
        if check and stale:
            print(f"out of date: {', '.join(stale)}; run: python proto/generate.py", file=sys.stderr)
            raise SystemExit(1)
        if not check:
            for name in names:
                shutil.copyfile(out / PACKAGE / name, ROOT / PACKAGE / name)
    print(f"{len(names)} generated files, {'all up to date' if check else 'written'}")


if __name__ == "__main__":
    main()
