"""Configuration: a frozen dataclass <- a preset <- a TOML file <- command-line flags, later ones winning.

Every verb has one frozen dataclass whose attribute docstrings are its `--help`. Keys and flags that do not
exist are errors that name the near ones, or say why there is none: a configuration class may hold `refused`,
a class variable of names that other programs know with the reason why it has no such field.

A preset of the package is of one of two kinds: it lists stages, for `instructgpt run`, or it has a table of
flags for each of some verbs, for `instructgpt VERB --preset NAME`.
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

if typing.TYPE_CHECKING:
    from tyro.constructors import ConstructorRegistry

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


def verbs_of(preset: Path) -> list[str]:
    """The verbs for which a preset has a table of flags; none for one that lists stages."""
    content = read_toml(preset)
    return [] if "stage" in content else [key for key, value in content.items() if isinstance(value, dict)]


def presets_for(verb: str) -> list[str]:
    """Names of the presets that `instructgpt VERB --preset` takes."""
    kinds = {path.stem: verbs_of(path) for path in sorted(preset_folder().glob("*.toml"))}
    return [name for name, verbs in kinds.items() if verb in (verbs or ["run"])]


def preset_for(name: str, verb: str) -> Path:
    """The file of a preset that `verb` can use: its table of flags, or stages for `run`.

    Raises:
        ConfigError: there is none of that name, or it has nothing for this verb.
    """
    path = preset_path(name)
    verbs = verbs_of(path)
    where = f"instructgpt {verb} --preset {name}"
    if verb == "run" and verbs:
        raise ConfigError(
            f"the preset {name} holds flags of single verbs ({', '.join(verbs)}) and lists no stages",
            where,
            f"use it with one of them, as in: instructgpt {verbs[-1]} --preset {name}",
        )
    if verb != "run" and not verbs:
        raise ConfigError(
            f"the preset {name} lists stages and holds no flags of `{verb}`",
            where,
            f"run it whole: instructgpt run {name}; a file with flags of one verb goes to --config",
        )
    if verb != "run" and verb not in verbs:
        others = presets_for(verb)
        raise ConfigError(
            f"the preset {name} holds flags of {', '.join(verbs)}, and none of `{verb}`",
            where,
            f"choose one of {', '.join(others)}" if others else f"leave it out: no preset is for `{verb}`",
        )
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
            raise _unknown(config_type, f"unknown key {key!r}", key, where, known)
        values[key] = _coerce(value, hints[key], f"{where}: {key}")
    return config_type(**values)


def _unknown(config_type: type[Any], what: str, name: str, where: str, known: Sequence[str]) -> ConfigError:
    """The error for a key or flag that the configuration does not have: why it has not, or the near ones."""
    refused: dict[str, str] = getattr(config_type, "refused", {})
    reason = refused.get(name.lstrip("-").replace("-", "_"))
    if reason is None:
        return ConfigError(what, where, near(name, known))
    return ConfigError(f"{what}, and there is none on purpose: {reason}", where, "leave it out")


def _coerce(value: Any, kind: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin is tuple:
        items = value if isinstance(value, list) else [value]
        return tuple(_coerce(item, typing.get_args(kind)[0], where) for item in items)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and isinstance(value, dict):
        return from_table(kind, value, where)  # a table inside the table
    if origin is typing.Literal:
        known = typing.get_args(kind)
        if value not in known:
            raise ConfigError(f"{value!r} is not known", where, near(str(value), known))
        return value
    if origin in (types.UnionType, typing.Union):  # TOML has no None
        kinds = [part for part in typing.get_args(kind) if part is not types.NoneType]
        kind = next((part for part in kinds if type(value) is part), kinds[0])
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and (
        not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)
    ):
        raise ConfigError(f"{value!r} is not of type {kind.__name__}", where, f"give a {kind.__name__}")
    return value


def parse(config_type: type[Config], argv: Sequence[str], verb: str) -> Config:
    """The configuration of `verb` from its command-line arguments, `--config` included.

    A TOML file may hold the keys at its top or in a table named after the verb. A preset is one of the
    package's files: its table of the verb's flags, or, for the verb `run`, another way to name its file.

    Raises:
        ConfigError: see the module; `SystemExit(0)` after `--help`.
    """
    import tyro

    rest, files = _take_files(argv, verb)
    table: dict[str, Any] = {}
    for path in files:
        content = read_toml(path)
        table |= content.get(verb, content) if isinstance(content.get(verb, content), dict) else {}
    default = from_table(config_type, table, ", ".join(map(str, files)) or "defaults")
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
                registry=_bare_switches(),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        if isinstance(stop.__context__, InstructGPTError):  # of the configuration itself: it says it better
            raise stop.__context__ from None
        cure = f"see instructgpt {verb} --help"
        raise ConfigError(_complaint(captured.getvalue()), f"instructgpt {verb}", cure) from stop
    if unknown:
        raise _unknown_flag(config_type, unknown[0], verb)
    return config


def _bare_switches() -> ConstructorRegistry:
    """A flag that is true or false may stand alone, which makes it true: --quick is --quick True."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

    def switch(words: list[str]) -> bool:
        word = words[0].lower() if words else "true"
        if word not in ("true", "false"):
            raise ValueError(f"{words[0]!r} is neither True nor False")
        return word == "true"

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[bool] | None:
        if info.type is not bool:
            return None
        return PrimitiveConstructorSpec(
            nargs=(0, 1),
            metavar="[True|False]",
            instance_from_str=switch,
            is_instance=lambda value: isinstance(value, bool),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _unknown_flag(config_type: type[Any], argument: str, verb: str) -> ConfigError:
    where, name = f"instructgpt {verb}", argument.split("=")[0].replace("_", "-")
    if not name.startswith("-"):
        return ConfigError(f"{argument!r} is too much", where, "name flags: --flag value")
    flags = ["--" + field.name.replace("_", "-") for field in dataclasses.fields(config_type)]
    known = [*flags, "--config", "--json", "--preset"]
    return _unknown(config_type, f"unknown flag {argument}", name, where, known)


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
    names = ", ".join(presets_for(verb))
    preset = f" --preset NAME: begin with the flags of a preset of the package ({names})." if names else ""
    if verb == "run":
        preset = f" --preset NAME: run a preset of the package, like its bare name ({names})."
    return f"{config_type.__doc__}\n\n--config FILE.toml: read flags from a file.{preset}"


def _take_files(argv: Sequence[str], verb: str) -> tuple[list[str], list[Path]]:
    """Arguments without `--preset` and `--config`, and their files, presets first: files win over presets.

    For `run` the preset becomes the file that it takes as an argument.
    """
    rest: list[str] = []
    files: list[Path] = []
    presets: list[Path] = []
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
        path = preset_for(value, verb)
        if verb == "run":
            rest.append(str(path))
        else:
            presets.append(path)
    return rest, [*presets, *files]
