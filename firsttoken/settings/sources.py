"""Where settings come from: the defaults, over them a settings file, over that the environment.

The file is TOML, or JSON as the supervisor writes it for those it starts; the environment says ``FIRSTTOKEN_SECTION__KEY``.
An unknown key is refused wherever it stands.
"""

import difflib
import json
import os
import reprlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from firsttoken.errors import SettingsError
from firsttoken.settings.sections import ClusterSettings, ModelSettings, Settings, sections, setting_names
from firsttoken.settings.types import MOST_PATH_BYTES, said_of
from storage_tiers.plain_files import whole

ENVIRONMENT_PREFIX = "FIRSTTOKEN_"
CONFIG_VARIABLE = "FIRSTTOKEN_CONFIG"
SETTINGS_FILE = "firsttoken.toml"
_CREDENTIALS = {"store.options", "history.url", "prefect.auth", "frontend.operator_key"}


def load_settings(config: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from file and environment (this process's by default). SettingsError names what does not fit.

    The file is `config`, else what FIRSTTOKEN_CONFIG names, else ``firsttoken.toml`` in the home if it is there.
    """
    environment = os.environ if environment is None else environment
    from_environment = _read_environment(environment)
    named = config or (Path(environment[CONFIG_VARIABLE]) if environment.get(CONFIG_VARIABLE) else None)
    home = _expanded(Path(from_environment.get("home", Settings.model_fields["home"].default)), "home")
    path = named or home / SETTINGS_FILE
    from_file = _read_file(path) if named or _is_file(path) else {}
    merged = dict(from_file)
    for name, value in from_environment.items():
        merged[name] = {**merged.get(name, {}), **value} if isinstance(value, dict) else value
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise SettingsError(_first_problem(error, from_environment, path)) from error
    return _resolve(settings)


def _resolve(settings: Settings) -> Settings:
    home = _expanded(settings.home, "home").absolute()
    if "?" in str(home) or "::" in str(home):
        raise SettingsError(
            f"home will not do: {str(home)!r}: URLs are made of it, which take '?' and '::' for their own"
        )
    if len(os.fsencode(home)) > MOST_PATH_BYTES:
        raise SettingsError(
            f"home will not do: its path has more than {MOST_PATH_BYTES} bytes: {reprlib.repr(str(home))}"
        )
    url = settings.store.url or str(home / "store")
    if "://" not in url:  # fsspec takes the rest of such a URL for the path as it stands
        url = f"file://{_expanded(Path(url), 'store.url').absolute()}"
    store = settings.store.model_copy(update={"url": url})
    history_url = settings.history.url or f"sqlite:///{home / 'history.db'}"
    history = settings.history.model_copy(update={"url": history_url})
    cluster = _resolve_tls(settings.cluster)
    return settings.model_copy(update={"home": home, "store": store, "history": history, "cluster": cluster})


def _resolve_tls(cluster: ClusterSettings) -> ClusterSettings:
    files = {key: getattr(cluster, key) for key in ("tls_ca", "tls_cert", "tls_key")}
    missing = [f"cluster.{key}" for key, value in files.items() if not value]
    if 0 < len(missing) < len(files):
        raise SettingsError(
            f"cluster.tls_ca, cluster.tls_cert and cluster.tls_key go together: set {' and '.join(missing)} too"
        )
    absolute = {key: str(Path(value).expanduser().absolute()) if value else "" for key, value in files.items()}
    return cluster.model_copy(update=absolute)


def _expanded(path: Path, setting: str) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise SettingsError(f"{setting} will not do: {str(path)!r}: {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        raise SettingsError(f"home will not do: there can be no file {reprlib.repr(str(path))}: {error}") from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"the settings file {path} is not valid: {error}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"the settings file {path} is not valid: it is no table of sections")
    known = set(setting_names()) | set(sections())
    for name, value in content.items():
        keys = [f"{name}.{key}" for key in value] if isinstance(value, dict) and name in sections() else [name]
        for key in keys:
            if key not in known:
                raise SettingsError(f"the settings file {path} has no setting {key!r}{_near(key, known)}")
        if name in sections() and not isinstance(value, dict):
            raise SettingsError(f"the settings file {path} gives {name!r} a value, but it is a section")
    return dict(content)


def environment_name(setting: str) -> str:
    """The environment variable of a setting: ``frontend.port`` is FIRSTTOKEN_FRONTEND__PORT."""
    return ENVIRONMENT_PREFIX + setting.replace(".", "__").upper()


def _read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = {environment_name(setting): setting for setting in setting_names()}
    found: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == CONFIG_VARIABLE:
            continue
        if variable not in known:
            raise SettingsError(
                f"the environment has no setting {variable}{_near(variable, {*known, CONFIG_VARIABLE})}"
            )
        section, _, key = known[variable].rpartition(".")
        (found.setdefault(section, {}) if section else found)[key] = value
    return found


def _near(key: str, known: set[str]) -> str:
    matches = difflib.get_close_matches(key, sorted(known), n=3, cutoff=0.6)
    return f": did you mean {' or '.join(matches)}?" if matches else ""


def _first_problem(error: ValidationError, from_environment: Mapping[str, Any], path: Path) -> str:
    problem = error.errors()[0]
    names = [str(part) for part in problem["loc"]]
    listed = ".".join(names[: 1 if names[0] == "models" else 2])
    given = from_environment.get(names[0], {})
    in_environment = given and (names[0] not in sections() or names[1] in given)
    where = environment_name(listed) if in_environment else path
    near = _near(names[-1], set(ModelSettings.model_fields)) if problem["type"] == "extra_forbidden" else ""
    shown = "" if listed in _CREDENTIALS else f": {reprlib.repr(problem['input'])}"
    return f"{'.'.join(names)} (from {where}) will not do{shown}: {said_of(problem)}{near}"


def write_settings(settings: Settings, path: Path) -> None:
    """Write `settings` as JSON that load_settings reads back; only the owner may read it, it can hold credentials."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path, mode=0o600) as file:
        file.write(settings.model_dump_json(indent=2).encode())
