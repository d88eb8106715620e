"""The one place that reads the environment."""

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import yaml
from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig

from models.policy import LearningPolicy
from models.refusals import describe


class SettingsError(Exception):
    """A setting that cannot be used; the message says what to change."""


class Settings(BaseSettings):
    """Settings from the environment (README, "Settings"). Secrets are in none of the messages that it prints."""

    model_config = SettingsConfigDict(env_prefix="CLOSELOOP_", extra="ignore", hide_input_in_errors=True)

    home: Path = Field(default=Path(".closeloop"), description="Where the local stack keeps its data.")
    database_url: Annotated[str | None, NoDecode] = Field(
        default=None,
        validation_alias=AliasChoices("DATABASE_URL", "database_url"),
        repr=False,
        description="PostgreSQL to use instead of the local stack's: postgresql://user:password@host:port/database.",
    )
    policy: Path | None = Field(default=None, description="YAML file that overrides the learning policy.")
    overlays: Path | None = Field(
        default=None, description="Folder of the overlay files that engines read. Default: the home."
    )
    corpus: Path | None = Field(
        default=None, description="Folder of the corpus: its skills/ holds the skills. Default: corpus in the home."
    )
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"),
        description="OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318. Absent: no telemetry.",
    )
    binance_url: str = Field(
        default="https://api.binance.com",
        max_length=2000,
        description="Where prices are asked for that are not on record: Binance's public API, or a server like it.",
    )
    worker_concurrency: int = Field(
        default=16, ge=1, le=500, description="Database activities (and connections) at once."
    )

    @field_validator("database_url")
    @classmethod
    def _is_dsn(cls, value: str | None) -> str | None:
        try:
            parts = urlsplit(value or "postgresql://")
            usable = parts.scheme in ("postgresql", "postgres") and (parts.port or 1) > 0
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("must be a URL such as postgresql://user:password@host:5432/database (escape / as %2F)")
        return value or None

    @field_validator("binance_url")
    @classmethod
    def _is_price_source(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a URL such as https://api.binance.com")
        return value

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("must be a URL such as http://localhost:4318")
        return value or None

    @classmethod
    def load(cls, home: Path | None = None) -> "Settings":
        """Settings of this process; ``home`` from the command line wins. Raises SettingsError."""
        try:
            settings = cls()
        except ValidationError as error:
            raise SettingsError(f"A setting cannot be used: {describe(error)}") from None
        resolved = {
            name: path.expanduser().resolve()
            for name in ("home", "policy", "overlays", "corpus")
            if isinstance(path := home if name == "home" and home else getattr(settings, name), Path)
        }
        return settings.model_copy(update=resolved)

    def overlay_folder(self) -> Path:
        """Where the overlay files are."""
        return self.overlays or self.home

    def corpus_folder(self) -> Path:
        """Where the corpus is."""
        return self.corpus or self.home / "corpus"

    def learning_policy(self) -> LearningPolicy:
        """The policy in force. Raises SettingsError naming what to change."""
        if self.policy is None:
            return LearningPolicy()
        try:
            values = yaml.safe_load(self.policy.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise SettingsError(f"The policy file {self.policy} cannot be read: {error}") from None
        try:
            return LearningPolicy.model_validate(values or {})
        except ValidationError as error:
            raise SettingsError(f"The policy file {self.policy} cannot be used: {describe(error)}") from None

    def temporal(self) -> ClientConnectConfig:
        """What ``TEMPORAL_ADDRESS``, ``TEMPORAL_NAMESPACE``, TLS and API key variables or profile say."""
        try:
            return ClientConfigProfile.load().to_client_connect_config()
        except Exception as error:  # whatever the library makes of a broken profile
            raise SettingsError(f"The Temporal profile cannot be used: {str(error)[:300]}") from None
