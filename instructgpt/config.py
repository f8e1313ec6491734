"""Configuration: a frozen dataclass <- a TOML file <- command-line flags, later ones winning.

Every verb has one frozen dataclass whose attribute docstrings are its `--help`. Keys and flags that do not
exist are errors that name the near ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import tomllib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from instructgpt.errors import ConfigError, InstructGPTError

Config = TypeVar("Config")


def preset_folder() -> Path:
    """Where the package's presets (TOML files) lie."""
    return Path(__file__).parent / "presets"


def read_toml(path: str | Path) -> dict[str, Any]:
    """Parse a TOML file.

    Raises:
        ConfigError: it is missing or not TOML, with the line.
    """
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("there is no such configuration file", str(path), "check the path") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        cure = "give a TOML file that may be read, in UTF-8"
        raise ConfigError(f"can't read the configuration file: {reason}", str(path), cure) from error
    except tomllib.TOMLDecodeError as error:
        cure = 'write keys as `name = value`, texts in quotes: model = "runs/mine/sft"'
        raise ConfigError(f"this is not TOML: {error}", str(path), cure) from error


def preset_path(name: str) -> Path:
    """The file of preset `name`.

    Raises:
        ConfigError: there is none of that name.
    """
    path = preset_folder() / f"{name}.toml"
    if not path.exists():
        names = sorted(p.stem for p in preset_folder().glob("*.toml"))
        raise ConfigError(f"there is no preset {name!r}", "--preset", near(name, names))
    return path


def near(name: str, known: Sequence[str]) -> str:
    """A cure that names what the user may have meant."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "choose one of " + ", ".join(known)


def from_table(config_type: type[Config], table: dict[str, Any], where: str) -> Config:
    """Make a configuration from a TOML table.

    Raises:
        ConfigError: an unknown key (with the near ones) or a value of the wrong type.
    """
    hints = typing.get_type_hints(config_type)
    known = [field.name for field in dataclasses.fields(config_type)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in known:
            raise ConfigError(f"unknown key {key!r}", where, near(key, known))
        values[key] = _coerce(value, hints[key], f"{where}: {key}")
    return config_type(**values)


def _coerce(value: Any, kind: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_coerce(item, typing.get_args(kind)[0], where) for item in items)
    if origin is typing.Literal:
        known = typing.get_args(kind)
        if value not in known:
            raise ConfigError(f"{value!r} is not known", where, near(str(value), known))
        return value
    if origin in (types.UnionType, typing.Union):  # only `X | None` occurs; TOML has no None
        kind = next(part for part in typing.get_args(kind) if part is not types.NoneType)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (
        not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    ):
        raise ConfigError(f"{value!r} is not of type {kind.__name__}", where, f"give a {kind.__name__}")
    return value


def parse(config_type: type[Config], argv: Sequence[str], verb: str) -> Config:
    """The configuration of `verb` from its command-line arguments, `--config` included.

    A TOML file may hold the keys at its top or in a table named after the verb. Presets list stages, so that
    `--preset` is for the verb `run` alone: another way to name its file.

    Raises:
        ConfigError: see the module; `SystemExit(0)` after `--help`.
    """
    import tyro

    rest, files = _take_files(argv, verb)
    table: dict[str, Any] = {}
    where = "defaults"
    for path in files:
        content = read_toml(path)
        table |= content.get(verb, content) if isinstance(content.get(verb, content), dict) else {}
        where = str(path)
    default = from_table(config_type, table, where)
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            config, unknown = tyro.cli(
                config_type,
                prog=f"instructgpt {verb}",
                description=_description(config_type, verb),
                default=default,
                args=rest,
                return_unknown_args=True,
                config=(tyro.conf.FlagConversionOff,),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        if isinstance(stop.__context__, InstructGPTError):  # of the configuration itself: it says it better
            raise stop.__context__ from None
        cure = f"see instructgpt {verb} --help"
        raise ConfigError(_complaint(captured.getvalue()), f"instructgpt {verb}", cure) from stop
    if unknown:
        flags = ["--" + field.name.replace("_", "-") for field in dataclasses.fields(config_type)]  # type: ignore[arg-type]
        name = unknown[0].split("=")[0].replace("_", "-")
        if not name.startswith("-"):
            raise ConfigError(
                f"{unknown[0]!r} is too much", f"instructgpt {verb}", "name flags: --flag value"
            )
        cure = near(name, [*flags, "--config", "--json", *(["--preset"] if verb == "run" else [])])
        raise ConfigError(f"unknown flag {unknown[0]}", f"instructgpt {verb}", cure)
    return config


def _complaint(box: str) -> str:
    """The sentence in the box that tyro draws: without its frame, its title and the flag's help."""
    lines = [
        re.sub(r"^[\s|+\u2500-\u257f]+|[\s|+\u2500-\u257f]+$", "", line) for line in box.splitlines()[1:]
    ]
    text = " ".join(line for line in lines if line.strip("-"))
    text = re.split(r"Argument helptext:|For full helptext|Got errors:", text)[0].strip(" .")
    text = re.sub(r"^Error parsing ", "", text)
    text = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", text)
    return re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", text)


def _description(config_type: type[Any], verb: str) -> str:
    """What `--help` says above the flags."""
    preset = " --preset NAME: run a preset of the package, like its bare name." if verb == "run" else ""
    return f"{config_type.__doc__}\n\n--config FILE.toml: read flags from a file.{preset}"


def _take_files(argv: Sequence[str], verb: str) -> tuple[list[str], list[Path]]:
    """Arguments without `--config`, and its files; `--preset` becomes the file that `run` takes."""
    rest: list[str] = []
    files: list[Path] = []
    arguments = iter(argv)
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if flag not in ("--preset", "--config"):
            rest.append(argument)
            continue
        if not equals:
            value = next(arguments, "")
        if not value:
            raise ConfigError(f"{flag} needs a value", flag, "give a preset's name or a TOML file")
        if flag == "--config":
            files.append(Path(value))
            continue
        preset = preset_path(value)
        if verb != "run":
            raise ConfigError(
                f"the preset {value} lists stages and holds no flags of `{verb}`",
                f"instructgpt {verb} --preset {value}",
                f"run it whole: instructgpt run {value}; a file with flags of one verb goes to --config",
            )
        rest.append(str(preset))
    return rest, files
