"""The one place that reads the environment."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import AliasChoices, Field, ValidationError
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
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    otlp_endpoint: str | None = Field(
        default=None,
        validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"),
        description="OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318. Absent: no telemetry.",
    )
    worker_concurrency: int = Field(
        default=16, ge=1, le=500, description="Database activities (and connections) at once."
    )

    @classmethod
    def load(cls, home: Path | None = None) -> "Settings":
        """Settings of this process; ``home`` from the command line wins. Raises SettingsError."""
        try:
            settings = cls()
        except ValidationError as error:
            raise SettingsError(f"A setting cannot be used: {describe(error)}") from None
        return settings.model_copy(update={"home": (home or settings.home).expanduser().resolve()})

    def overlay_folder(self) -> Path:
        """Where the overlay files are."""
        return (self.overlays or self.home).expanduser().resolve()

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
        return ClientConfigProfile.load().to_client_connect_config()
