"""Presets of domain weights: ``presets/*.yaml``, or a file of the user's own."""

from pathlib import Path

import yaml
from pydantic import ValidationError

from closeloop.models.refusals import describe
from closeloop.models.weights import Preset

FOLDER = Path(__file__).resolve().parents[1] / "presets"


class UnknownPreset(Exception):
    """There is no such preset, or it cannot be used; the message says what to do."""


def load_preset(name: str) -> Preset:
    """A preset by its name, or by the path of a YAML file with ``name`` and ``weights``. Raises UnknownPreset."""
    own = Path(name)
    path = own if own.suffix in (".yaml", ".yml") else FOLDER / f"{name}.yaml"
    if path.parent == FOLDER and path.stem not in names():
        raise UnknownPreset(f"There is no preset {name!r}: choose one of {', '.join(names())}, or give a YAML file.")
    try:
        return Preset.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UnknownPreset(f"The preset file {path} cannot be read ({error}).") from None
    except ValidationError as error:
        raise UnknownPreset(f"The preset file {path} cannot be used: {describe(error)}.") from None


def names() -> list[str]:
    """The presets that come with closeloop."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
