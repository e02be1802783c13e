"""The place of the home folder. Every command of the command line imports this, so it is light."""

from collections.abc import Mapping
from pathlib import Path

from dipaco.protocol.errors import ConfigError

HOME_VARIABLE = "DIPACO_HOME"


def default_home() -> Path:
    """Return the home folder that is used when neither flag nor environment names one."""
    import platformdirs

    return platformdirs.user_data_path("dipaco-node", appauthor=False)


def home_folder(flag: str | None, environ: Mapping[str, str]) -> Path:
    """Return the absolute home folder: flag, else $DIPACO_HOME, else the default."""
    chosen = flag or environ.get(HOME_VARIABLE)
    return expanded(Path(chosen)).absolute() if chosen else default_home()


def expanded(path: Path) -> Path:
    """Return a path with its `~` replaced; raises ConfigError for a user that is none."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise ConfigError(f"{path}: there is no home folder of {path.parts[0]}") from None
