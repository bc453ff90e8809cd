"""Options of the command for every limit and every clock, made from the settings classes."""

from __future__ import annotations

import argparse
import ast
import enum
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from ..core.config import (
    AdmissionPolicy,
    CleanupConfig,
    SessionConfig,
    SessionLimits,
)
from ..core.ids import SessionKind
from ..core.rate_limit import RateLimit

GROUPS: Final[Mapping[type[Any], str]] = {
    SessionLimits: "limits",
    CleanupConfig: "clocks, in seconds ('inf' turns a clock off, where that is allowed)",
}

RATE: Final = "RATE:BURST"
METHOD_RATES: Final = "method_rates"


class KeyValue(argparse.Action):
    """Collects ``KEY=VALUE`` options in a mapping."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        _option: str | None = None,
    ) -> None:
        """Add one pair, already converted by the type of the option."""
        setattr(namespace, self.dest, {**(getattr(namespace, self.dest) or {}), **values})


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of `SessionLimits` and `CleanupConfig`."""
    for settings, title in GROUPS.items():
        group = parser.add_argument_group(title)
        help_of = field_docs(settings)
        for field in attrs.fields(settings):
            default = default_of(field)
            # The documentation of the field says what None means.
            shown = "" if default is None or default == {} else f" (default: {_spell(default)})"
            group.add_argument(
                _flag(field.name),
                dest=field.name,
                type=_checked(settings, field.name, default),
                help=(help_of.get(field.name, "") + shown).strip().replace("%", "%%"),
                **_form(field.name, default),
            )


def chosen_settings(namespace: argparse.Namespace) -> SessionConfig:
    """Return the configuration that the options describe."""
    return SessionConfig(
        limits=_chosen(SessionLimits, namespace), cleanup=_chosen(CleanupConfig, namespace)
    )


def _chosen(settings: type[Any], namespace: argparse.Namespace) -> Any:
    given = {field.name: getattr(namespace, field.name) for field in attrs.fields(settings)}
    return settings(**{name: value for name, value in given.items() if value is not None})


def default_of(field: attrs.Attribute[Any]) -> Any:
    """Return the default of a setting, a value or made by a factory."""
    # attrs types `Factory` as a function, although it is a class.
    make = getattr(field.default, "factory", None)
    return field.default if make is None else make()


def field_docs(settings: type[Any]) -> dict[str, str]:
    """Return the line of documentation under each field, from the source; without source, none."""
    try:
        source = textwrap.dedent(inspect.getsource(settings))
    except OSError:
        return {}
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                docs[name] = " ".join(text.replace("`", "").split())
            case _:
                pass
    return docs


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _spell(value: object) -> str:
    if isinstance(value, enum.Enum):
        return policy_name(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def policy_name(policy: enum.Enum) -> str:
    """Return an enumeration's member as it is written on the command line."""
    return policy.name.lower().replace("_", "-")


def _form(name: str, default: object) -> dict[str, Any]:
    """Return the arguments of `add_argument` for the type of a default."""
    match default:
        case RateLimit():
            return {"metavar": RATE}
        case Mapping() if name == METHOD_RATES:
            return {"metavar": f"METHOD={RATE}", "action": KeyValue}
        case AdmissionPolicy():
            return {"metavar": "{" + ",".join(map(policy_name, AdmissionPolicy)) + "}"}
        case Mapping():
            return {"metavar": "KIND=N", "action": KeyValue}
        case float() | None:
            return {"metavar": "SECONDS"}
        case _:
            return {"metavar": "N"}


def _checked(settings: type[Any], name: str, default: object) -> Callable[[str], Any]:
    """Return a function that converts an option's text, and checks it with the setting."""
    convert = _converter(name, default)

    def check(text: str) -> Any:
        try:
            value = convert(text)
            settings(**{name: value})
        except (ValueError, TypeError) as error:
            raise argparse.ArgumentTypeError(str(error).removeprefix(f"{name} ")) from error
        return value

    return check


def _converter(name: str, default: object) -> Callable[[str], Any]:
    match default:
        case RateLimit():
            return _rate
        case Mapping() if name == METHOD_RATES:
            return _rate_of_method
        case AdmissionPolicy():
            return _policy
        case Mapping():
            return _limit_of_kind
        case float() | None:
            return _seconds
        case _:
            return _whole_number


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"must be a whole number, not {text!r}") from None


def _rate(text: str) -> RateLimit:
    per_second, _, burst = text.partition(":")
    try:
        return RateLimit(float(per_second), int(burst or 1))
    except ValueError:
        raise ValueError(
            f"must be {RATE}, times per second and at once, or 'inf', not {text!r}"
        ) from None


def _rate_of_method(text: str) -> dict[str, RateLimit]:
    method, _, rate = text.partition("=")
    return {method: _rate(rate)}


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"must be a number of seconds, or 'inf', not {text!r}") from None


def _policy(text: str) -> AdmissionPolicy:
    policies = {policy_name(policy): policy for policy in AdmissionPolicy}
    if text not in policies:
        raise ValueError(f"must be one of {', '.join(policies)}, not {text!r}")
    return policies[text]


def _limit_of_kind(text: str) -> dict[SessionKind, int]:
    kind, _, number = text.partition("=")
    kinds = {one.value: one for one in SessionKind}
    if kind not in kinds:
        raise ValueError(f"must be KIND=N with one of the kinds {', '.join(kinds)}, not {text!r}")
    return {kinds[kind]: _whole_number(number)}
