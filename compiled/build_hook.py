"""The hook by which a wheel is compiled: PRONGHORN_COMPILE=1 pip install . (docs/compiled.md).

Law: without the variable this hook does nothing, needs nothing, and the wheel is the pure one. With it, the modules
named in pyproject.toml are compiled from the sources as they are, by Cython; each stands beside its source in the
wheel, and Python prefers it. An editable installation stays pure: its files are the sources themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VARIABLE = "PRONGHORN_COMPILE"
HERE = Path(__file__).parent
NOTE = "pronghorn/compiled.json"
"""What the wheel says of itself: by what it was compiled, and which modules. builds.py reads it."""
BEGIN = "/* #### Code section: module_code ### */"
END = "/* #### Code section: module_exttypes ### */"
FLAGS = ["-O2", "-g0", "-fwrapv", "-Wno-unused-function"]


class CompiledBuild(BuildHookInterface[Any]):
    """Compile what `modules` names, in [tool.hatch.build.targets.wheel.hooks.custom], into the wheel."""

    def dependencies(self) -> list[str]:
        return list(self.config["requires"]) if wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not wanted():
            return
        if version == "editable":
            self.app.display_warning(f"{VARIABLE} has no effect on an editable installation: it stays pure Python.")
            return
        root, made = Path(self.root), Path(self.root) / "build" / f"compiled-{sysconfig.get_config_var('SOABI')}"
        modules = list(self.config["modules"])
        compiled = compile_all(root / "src", made, modules)
        note = made / "compiled.json"
        note.write_text(json.dumps({"by": compiler(), "modules": modules}))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update({str(made / each): each for each in compiled}, **{str(note): NOTE})


def wanted() -> bool:
    return os.environ.get(VARIABLE, "") not in ("", "0")


def compiler() -> str:
    import Cython

    return f"Cython {Cython.__version__}"


def compile_all(src: Path, made: Path, modules: list[str]) -> list[str]:
    """The paths of what was compiled below `made`. SystemExit with the names of modules that do not exist."""
    from Cython.Build import cythonize
    from setuptools import Distribution, Extension
    from setuptools.command.build_ext import build_ext

    sources = [each.replace(".", "/") + ".py" for each in modules]
    if missing := [each for each in sources if not (src / each).is_file()]:
        raise SystemExit(f"To be compiled, but not there: {', '.join(missing)}. Mend `modules` in pyproject.toml.")
    made.mkdir(parents=True, exist_ok=True)
    for each in sources:
        forget_old(src / each, made / "c" / each)
    before = Path.cwd()
    os.chdir(src)  # so that files and modules have the same names
    try:
        extensions = cythonize(
            [Extension(name, [file]) for name, file in zip(modules, sources, strict=True)],
            build_dir=str(made / "c"),
            nthreads=os.cpu_count() or 1,
            # Annotations are for readers and mypy: Cython would make some of them narrower than Python does.
            compiler_directives={"language_level": "3", "binding": True, "annotation_typing": False},
            quiet=True,
        )
        for each in extensions:
            give_caches(Path(each.sources[0]))
            each.extra_compile_args = FLAGS
            each.include_dirs = [str(HERE)]
            each.depends = [str(each) for each in HERE.glob("*.h")]
        command = build_ext(Distribution({"ext_modules": extensions}))
        command.build_lib, command.build_temp = str(made), str(made / "o")
        command.parallel = os.cpu_count() or 1
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(before)
    return [os.path.relpath(each, made) for each in command.get_outputs()]


def forget_old(source: Path, made: Path) -> None:
    """Remove the C code of another text of this source: by times alone, what changes during a build is missed."""
    now, note = hashlib.sha256(source.read_bytes()).hexdigest(), made.with_suffix(".sha256")
    if not note.exists() or note.read_text() != now:
        made.with_suffix(".c").unlink(missing_ok=True)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(now)


def give_caches(file: Path) -> None:
    """Put inline_cache.h around the functions of a module, in the C code that Cython has written."""
    text = file.read_text()
    if '#include "inline_cache.h"' in text:
        return
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{compiler()} writes other C code than build_hook.py knows: see {file}.")
    text = text.replace(BEGIN, f'#include "inline_cache.h"\n{BEGIN}')
    file.write_text(text.replace(END, f'#include "inline_cache_end.h"\n{END}'))
