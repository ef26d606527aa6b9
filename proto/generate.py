"""Writes the Python stubs of `proto/` into `client/holdfast/v1`, or checks that they are current.

Run it as `./deploy/dev stubs`: it needs the pinned tools of the dependency group `proto`, because
the version that generates the stubs is the lowest one that can run them.
"""

import argparse
import sys
import sysconfig
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent
STUB_ROOT = PROTO_ROOT.parent / "client"
PACKAGE = Path("holdfast/v1")

#: What protoc and its plugins write, and the marker of the package.
STUB_PATTERNS = ("__init__.py", "*_pb2.py", "*_pb2_grpc.py", "*_pb2.pyi", "*_pb2_grpc.pyi")

PACKAGE_DOCSTRING = '"""Messages and stubs of the API, generated from the protos beside them."""\n'


def plugin_option(name: str) -> str:
    """Name a plugin by its path, so that it is found without an activated environment."""
    return f"--plugin={name}={Path(sysconfig.get_path('scripts')) / name}"


def generate(into: Path) -> None:
    """Write the stubs of every proto below `into`; exit with protoc's status when it fails."""
    protos = sorted(str(path) for path in (PROTO_ROOT / PACKAGE).glob("*.proto"))
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTO_ROOT}",
            f"--proto_path={files('grpc_tools') / '_proto'}",
            plugin_option("protoc-gen-mypy"),
            plugin_option("protoc-gen-mypy_grpc"),
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--mypy_out=quiet:{into}",
            f"--mypy_grpc_out=quiet:{into}",
            *protos,
        ]
    )
    if status != 0:
        sys.exit(status)
    (into / PACKAGE / "__init__.py").write_text(PACKAGE_DOCSTRING)


def read_stubs(root: Path) -> dict[str, bytes]:
    """Map the name of each stub below `root` to its content."""
    found = (path for pattern in STUB_PATTERNS for path in (root / PACKAGE).glob(pattern))
    return {path.name: path.read_bytes() for path in found}


def write() -> None:
    """Replace the committed stubs, those of removed protos included."""
    for name in read_stubs(STUB_ROOT):
        (STUB_ROOT / PACKAGE / name).unlink()
    (STUB_ROOT / PACKAGE).mkdir(parents=True, exist_ok=True)
    generate(STUB_ROOT)
    print(f"wrote {len(read_stubs(STUB_ROOT))} stubs with grpcio-tools {version('grpcio-tools')}")


def check() -> None:
    """Exit with 1 and the names of the files when the committed stubs are not what protos say."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted = read_stubs(Path(folder))
    committed = read_stubs(STUB_ROOT)
    stale = sorted(name for name in wanted | committed if wanted.get(name) != committed.get(name))
    if stale:
        sys.exit("stubs differ from the protos, run ./deploy/dev stubs:\n  " + "\n  ".join(stale))


def main() -> None:
    """Write the stubs, or with `--check` compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    (check if parser.parse_args().check else write)()


if __name__ == "__main__":
    main()
