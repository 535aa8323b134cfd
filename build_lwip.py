"""Brings lwIP in and builds the extension module ``zks_lwip._lwip`` from it and from our C.

``python build_lwip.py fetch``  only brings lwIP's source to ``vendor/lwip/src`` and verifies it;
``python build_lwip.py build``  builds in place, in parallel, compiling only what has changed;
``python build_lwip.py hash``   prints the hash of what lies there, as ``lwip.toml`` pins it.

setup.py gives ``ffibuilder`` to cffi, so that ``pip install`` builds the very same module. The
environment may set ``LWIP_ARCHIVE`` (an archive of lwIP's release), ``ZKS_LWIP_SANITIZE`` (for
example ``address,undefined``) and, as for every extension, ``CC``, ``CFLAGS`` and ``LDFLAGS``.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "vendor" / "lwip"))

import lwip_source  # noqa: E402 (lies where the path was just extended to)

if TYPE_CHECKING:
    import cffi

MODULE = "zks_lwip._lwip"
NATIVE = "zks_lwip/native"
PORT = "vendor/lwip/port"
WINDOWS = os.name == "nt"
WORKING_FOLDER = "/proc/self/cwd"
"""What a compiler on Linux is to take for the name of the folder that it works in, and to write
into the debugging information: it has this name in every checkout."""

# The commands of setuptools that compile; the others (sdist, egg_info) need lwIP's source, but no
# compiler.
COMPILING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"}


class BuildError(SystemExit):
    """Ends the build with one paragraph, no traceback: what is missing and what to do."""


def bring_lwip() -> None:
    """Make sure that vendor/lwip/src holds the pinned source, or end the build."""
    try:
        origin = lwip_source.fetch()
    except lwip_source.SourceError as error:
        raise BuildError(f"build_lwip: {error}") from None
    if origin != "already there":
        print(f"lwIP {lwip_source.pin()['version']}: from {origin}", file=sys.stderr, flush=True)


def headers() -> list[str]:
    """Our public headers, relative to NATIVE; core/zks_core.h, whose types others use, first."""
    folder = ROOT / NATIVE
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("zks_*.h")]
    return sorted(names, key=lambda name: (name != "core/zks_core.h", name))


def declarations() -> str:
    """What cffi shall know: our headers without their preprocessor lines."""
    texts = [(ROOT / NATIVE / name).read_text(encoding="utf-8") for name in headers()]
    return "\n".join(
        line for text in texts for line in text.splitlines() if not line.lstrip().startswith("#")
    )


def sources() -> list[str]:
    """Every C file of the module but the one that cffi writes, relative to the project's root."""
    ours = sorted(
        path.relative_to(ROOT).as_posix()
        for folder in (NATIVE, PORT)
        for path in (ROOT / folder).rglob("*.c")
    )
    return ours + [f"vendor/lwip/src/{name}" for name in lwip_source.pin()["compile"]]


def include_dirs() -> list[str]:
    """The folders of the headers, relative to the project's root."""
    return [NATIVE, PORT, "vendor/lwip/src/include"]


def dependencies() -> list[str]:
    """Our headers: when one is newer than the module, setuptools builds all of it again."""
    return sorted(
        path.relative_to(ROOT).as_posix()
        for folder in (NATIVE, PORT)
        for path in (ROOT / folder).rglob("*.h")
    )


def flags() -> tuple[list[str], list[str]]:
    """Arguments for the compiler and for the linker."""
    if WINDOWS:
        return ["/O2", "/std:c11"], []
    compile_args = ["-std=c11", "-D_DEFAULT_SOURCE", "-O2", "-g", "-pthread"]
    compile_args += ["-fvisibility=hidden", "-fno-strict-aliasing"]
    compile_args += ["-Wno-unused-variable"]  # lwIP has one; the tests read our own C more strictly
    link_args = ["-pthread"]
    sanitizers = os.environ.get("ZKS_LWIP_SANITIZE", "")
    if sanitizers:
        both = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
        compile_args += [*both, "-fno-omit-frame-pointer", "-O1"]
        link_args += both
    return compile_args, link_args


def check_python() -> None:
    """End the build where this Python has no stable ABI, which the module is built for."""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(
            "build_lwip: zks_lwip does not run on a free-threaded Python: this one, "
            f"{version}t, has no stable ABI. Take the other build of the same version "
            f"(python{version}), and make the virtual environment with that."
        )


def check_compiler() -> None:
    """End the build with advice where a C compiler or Python's headers are missing."""
    if WINDOWS:
        return  # setuptools looks for Visual Studio itself, and says plainly what to install
    words = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    compiler = shutil.which(words[0])
    if compiler is None:
        raise BuildError(
            f"build_lwip: There is no C compiler: {words[0]!r} was not found. Install one (Debian, "
            "Ubuntu: apt-get install gcc libc6-dev; Fedora: dnf install gcc; macOS: xcode-select "
            "--install), or name another by the environment variable CC, and build again."
        )
    paths = {sysconfig.get_path("include"), sysconfig.get_path("platinclude")}
    if not any((Path(path) / "Python.h").is_file() for path in paths):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BuildError(
            f"build_lwip: Python.h, the C header of this Python {version}, was not found in "
            f"{' or '.join(sorted(paths))}. Install it (Debian, Ubuntu: apt-get install "
            f"python3-dev, or python{version}-dev; Fedora: dnf install python3-devel), and build "
            "again."
        )
    done = subprocess.run(
        [*words, *(f"-I{path}" for path in sorted(paths)), "-fsyntax-only", "-x", "c", "-"],
        input="#include <Python.h>\n#include <stdint.h>\n",
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        first = next(
            (line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()
        )
        raise BuildError(
            f"build_lwip: The C compiler {compiler} is there, but cannot compile a file that "
            f"includes Python.h: {first}. Most often the C library's headers are missing (Debian, "
            "Ubuntu: apt-get install libc6-dev)."
        )


def ffibuilder() -> cffi.FFI:
    """The description of the extension module that cffi's setuptools integration asks for."""
    import cffi

    bring_lwip()
    if COMPILING & set(sys.argv[1:]):
        check_python()
        check_compiler()
    compile_args, link_args = flags()
    ffi = cffi.FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        MODULE,
        "".join(f'#include "{name}"\n' for name in headers()),
        sources=sources(),
        depends=dependencies(),
        include_dirs=include_dirs(),
        libraries=["ws2_32"] if WINDOWS else [],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        py_limited_api=True,
    )
    return ffi


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Two builds in one checkout wait for each other (where the system has flock)."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        if not WINDOWS:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_fresh(target: Path, command: str) -> bool:
    """Whether ``target`` was made by ``command`` from files that have not changed since."""
    record = target.with_suffix(".cmd")
    listing = target.with_suffix(".d")
    if not (
        target.is_file()
        and record.is_file()
        and listing.is_file()
        and record.read_text() == command
    ):
        return False
    made = target.stat().st_mtime
    used = shlex.split(listing.read_text().replace("\\\n", " ").partition(": ")[2])
    return all(os.path.isfile(name) and os.stat(name).st_mtime < made for name in used)


def _compile_changed(compiler: Any, names: list[str], **options: Any) -> list[str]:
    """distutils' ``CCompiler.compile``, but in parallel, and only what has changed."""
    _, objects, post, defines, plan = compiler._setup_compile(
        options.get("output_dir"),
        options.get("macros"),
        options.get("include_dirs"),
        names,
        options.get("depends"),
        options.get("extra_postargs"),
    )
    arguments = compiler._get_cc_args(defines, options.get("debug"), options.get("extra_preargs"))

    def one(target: str) -> None:
        source, extension = plan[target]
        command = shlex.join([*compiler.compiler_so, *arguments, *post, source])
        path = Path(target)
        if _is_fresh(path, command):
            return
        started = time.time()
        dependencies = ["-MD", "-MF", str(path.with_suffix(".d"))]
        compiler._compile(target, source, extension, arguments, [*post, *dependencies], defines)
        os.utime(
            target, (started, started)
        )  # a file that is saved while it is compiled is compiled again
        path.with_suffix(".cmd").write_text(command)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            list(pool.map(one, plan))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the first error is enough to read
            raise
    return list(objects)


def objects_folder() -> Path:
    """Where objects are kept: a folder for each Python and each choice of compiler and flags."""
    settings = [
        sys.version,
        WORKING_FOLDER,
        *(os.environ.get(x, "") for x in ("ZKS_LWIP_SANITIZE", "CC", "CFLAGS", "LDFLAGS")),
    ]
    variant = hashlib.sha256("\0".join(settings).encode()).hexdigest()[:12]
    return Path("build") / "native" / variant


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    """Have compilers write ``WORKING_FOLDER`` into what they make, not where this checkout is."""
    before = os.environ.get("PWD")
    if os.path.isdir(WORKING_FOLDER):
        os.environ["PWD"] = WORKING_FOLDER
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("PWD", None)
        else:
            os.environ["PWD"] = before


def incremental_build_ext() -> Any:
    """setuptools' ``build_ext``, but in parallel, and compiling only what has changed."""
    from setuptools.command.build_ext import build_ext

    class Incremental(build_ext):  # type: ignore[misc]
        def finalize_options(self) -> None:
            super().finalize_options()
            self.build_temp = str(objects_folder())
            self.force = True  # to link; what is compiled is decided for each file
            self.lock = contextlib.ExitStack()

        def pre_run(self, extension: Any, ffi: Any) -> None:
            """What cffi calls before it writes its C file, the first of what is kept."""
            self.lock.enter_context(_locked(objects_folder().parent))

        def build_extensions(self) -> None:
            compiler = self.compiler
            if compiler.compiler_type == "unix":
                compiler.compile = lambda names, **options: _compile_changed(
                    compiler, names, **options
                )
            with self.lock, _working_folder():
                super().build_extensions()

    return Incremental


def build(into: Path) -> Path:
    """Build the module into the folder ``into`` and return its path; an older one is replaced."""
    from setuptools import Distribution
    from setuptools.errors import CompileError, LinkError

    os.chdir(ROOT)
    bring_lwip()
    check_python()
    check_compiler()
    distribution = Distribution(
        {
            "name": "zks-lwip",
            "cmdclass": {"build_ext": incremental_build_ext()},
            "cffi_modules": ["build_lwip.py:ffibuilder"],
        }
    )
    command = distribution.get_command_obj("build_ext")
    command.build_lib = str(objects_folder() / "lib")
    try:
        distribution.run_command("build_ext")
    except (CompileError, LinkError):
        raise BuildError(
            "build_lwip: A file could not be compiled or linked; what the compiler said stands "
            "above."
        ) from None
    (made,) = (Path(x) for x in command.get_outputs())
    target = into / made.name
    # Never written over: programs that have the old one mapped keep it.
    fresh = into / f".{made.name}.{os.getpid()}"
    shutil.copy2(made, fresh)
    os.replace(fresh, target)
    return target


def main() -> None:
    """The command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Brings lwIP in and builds zks_lwip._lwip.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="bring lwIP's source to vendor/lwip/src and verify it")
    commands.add_parser("hash", help="print the hash of lwIP's source in vendor/lwip/src")
    builder = commands.add_parser("build", help="build the extension module in place")
    builder.add_argument(
        "--into", type=Path, default=ROOT / "zks_lwip", help="folder for the module"
    )
    arguments = parser.parse_args()
    if arguments.command == "fetch":
        bring_lwip()
        print(f"{lwip_source.SOURCE}: lwIP {lwip_source.pin()['version']}, verified")
    elif arguments.command == "hash":
        print(lwip_source.tree_hash(lwip_source.SOURCE))
    else:
        print(build(arguments.into.resolve()))


if __name__ == "__main__":
    main()
