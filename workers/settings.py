"""The one place that reads the environment."""

import os
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

import yaml
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from temporalio.envconfig import ClientConfigProfile, ClientConnectConfig

from closeloop.models.errors import Unavailable
from closeloop.models.market_sources import MarketMode
from closeloop.models.policy import LearningPolicy
from closeloop.models.refusals import describe

# What a million tokens of the default model cost in USD (input, output), for prompts as short as ours.
DEFAULT_MODEL = "claude-haiku-5-5"
DEFAULT_PRICES = (Decimal("0.10"), Decimal("0.50"))


class SettingsError(Unavailable):
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
    overlay_mode: str | None = Field(
        default=None,
        pattern="^0?[67][0-7]{2}$",
        description="Who may read overlay files, as chmod says it, such as 640. Default: as the worker's umask says.",
    )
    corpus: Path | None = Field(
        default=None, description="Folder of the corpus: its skills/ holds the skills. Default: corpus in the home."
    )
    archive: Path | None = Field(
        default=None,
        description="Folder of the archives, into which old events leave. Default: archive in the home.",
    )
    temporal_retention_days: int = Field(
        default=30,
        ge=1,
        le=3650,
        description="Days for which the local stack's Temporal server keeps the history of what has ended.",
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
    coingecko_url: str = Field(
        default="https://api.coingecko.com/api/v3",
        max_length=2000,
        description="Where the market's dominances are asked for: CoinGecko's API, or a server like it.",
    )
    coingecko_api_key: SecretStr | None = Field(
        default=None, description="Key of CoinGecko's API. Without one, its public plan is used."
    )
    market: MarketMode = Field(
        default="off",
        description="What the market's schedules do. off: there are none; recorded: states from candles on record; "
        "sources: Binance and CoinGecko are asked first.",
    )
    market_history_days: int = Field(
        default=200,
        ge=1,
        le=1100,
        description="How far back candles are asked for of an asset when it is first collected (days).",
    )
    worker_concurrency: int = Field(
        default=16, ge=1, le=500, description="Database activities (and connections) at once."
    )

    api_reads_per_second: int = Field(
        default=200, ge=1, le=1_000_000, description="Reads of one token in a second, at the HTTP door."
    )
    api_items_per_second: int = Field(
        default=5_000, ge=500, le=10_000_000, description="Messages of one token in a second, at the HTTP door."
    )
    api_connections: int = Field(
        default=10, ge=1, le=500, description="Connections of one API process to the database at once."
    )
    database_pooler: bool = Field(
        default=False,
        description="Whether DATABASE_URL leads to a pooler in transaction mode, such as pgbouncer: then no statement "
        "is prepared on a connection.",
    )

    token: SecretStr | None = Field(
        default=None, description="The operator's token ('closeloop tokens add'), by which decisions are made."
    )
    token_file: Path | None = Field(
        default=None, description="A file that holds the token, instead; only its owner may have access to it."
    )

    anthropic_api_key: SecretStr | None = Field(
        default=None,
        validation_alias=AliasChoices("ANTHROPIC_API_KEY", "anthropic_api_key"),
        description="Key of the Anthropic API. Without one, research is written by statistics alone.",
    )
    anthropic_api_key_file: Path | None = Field(
        default=None,
        validation_alias=AliasChoices("ANTHROPIC_API_KEY_FILE", "anthropic_api_key_file"),
        description="A file that holds the key, instead.",
    )
    llm_model: str = Field(default=DEFAULT_MODEL, min_length=1, max_length=200, description="The model that is asked.")
    llm_base_url: str = Field(
        default="https://api.anthropic.com", description="Where the Messages API is: /v1/messages lies under it."
    )
    llm_timeout_seconds: float = Field(default=120.0, gt=0.0, le=600.0, description="How long one answer may take.")
    llm_input_usd_per_million: Decimal | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="Price of a million input tokens of the model (USD)."
    )
    llm_output_usd_per_million: Decimal | None = Field(
        default=None, ge=0, allow_inf_nan=False, description="Price of a million output tokens of the model (USD)."
    )
    llm_budget_usd_per_day: Decimal = Field(
        default=Decimal("1.00"),
        ge=0,
        allow_inf_nan=False,
        description="Most that research may cost in a day (UTC), over all books and workers (USD).",
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

    @field_validator("binance_url", "coingecko_url")
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

    @field_validator("llm_base_url")
    @classmethod
    def _is_web(cls, value: str) -> str:
        if urlsplit(value).scheme not in ("http", "https") or not urlsplit(value).hostname:
            raise ValueError("must be a URL such as https://api.anthropic.com")
        return value

    @model_validator(mode="after")
    def _priced(self) -> Self:
        # With the prices of the default model, a dearer one could spend more than the budget unnoticed.
        if self.llm_model != DEFAULT_MODEL and None in (
            self.llm_input_usd_per_million,
            self.llm_output_usd_per_million,
        ):
            raise ValueError(
                f"llm_model: say what {self.llm_model!r} costs: set CLOSELOOP_LLM_INPUT_USD_PER_MILLION and "
                "CLOSELOOP_LLM_OUTPUT_USD_PER_MILLION"
            )
        return self

    @classmethod
    def load(cls, home: Path | None = None) -> "Settings":
        """Settings of this process; ``home`` from the command line wins. Raises SettingsError."""
        try:
            settings = cls()
        except ValidationError as error:
            raise SettingsError(f"A setting cannot be used: {describe(error)}") from None
        resolved = {
            name: path.expanduser().resolve()
            for name in ("home", "policy", "overlays", "corpus", "archive", "anthropic_api_key_file", "token_file")
            if isinstance(path := home if name == "home" and home else getattr(settings, name), Path)
        }
        return settings.model_copy(update=resolved)

    def overlay_folder(self) -> Path:
        """Where the overlay files are."""
        return self.overlays or self.home

    def overlay_file_mode(self) -> int | None:
        """The mode of overlay files; None: as the umask of the process says."""
        return int(self.overlay_mode, 8) if self.overlay_mode else None

    def corpus_folder(self) -> Path:
        """Where the corpus is."""
        return self.corpus or self.home / "corpus"

    def archive_folder(self) -> Path:
        """Where the archives are."""
        return self.archive or self.home / "archive"

    def api_key(self) -> SecretStr | None:
        """The key of the language model; None where there is none. Raises SettingsError."""
        if self.anthropic_api_key_file is None:
            key = self.anthropic_api_key.get_secret_value() if self.anthropic_api_key else ""
        else:
            try:
                key = self.anthropic_api_key_file.read_text()
            except (OSError, ValueError) as error:
                raise SettingsError(f"The file of the API key cannot be read: {type(error).__name__}") from None
        key = key.strip()
        if not key:
            return None
        if not key.isascii() or not key.isprintable() or " " in key:
            raise SettingsError("The API key cannot be used: it has to be one line of ASCII, without spaces")
        return SecretStr(key)

    def operator_token(self) -> SecretStr | None:
        """The operator's token; None where there is none. Raises SettingsError."""
        if self.token_file is None:
            token = self.token.get_secret_value() if self.token else ""
        else:
            try:
                with self.token_file.open() as file:
                    if os.fstat(file.fileno()).st_mode & 0o077:
                        raise SettingsError(
                            f"The file of the token can be read by others: chmod 600 {self.token_file}, and revoke the "
                            "token if somebody may have."
                        )
                    token = file.read(1_000)
            except (OSError, ValueError) as error:
                raise SettingsError(f"The file of the token cannot be read: {type(error).__name__}") from None
        return SecretStr(token.strip()) if token.strip() else None

    def llm_prices(self) -> tuple[Decimal, Decimal]:
        """USD for a million tokens of input and of output."""
        default_input, default_output = DEFAULT_PRICES
        of_input, of_output = self.llm_input_usd_per_million, self.llm_output_usd_per_million
        return default_input if of_input is None else of_input, default_output if of_output is None else of_output

    def learning_policy(self) -> LearningPolicy:
        """The policy in force. Raises SettingsError naming what to change."""
        if self.policy is None:
            return LearningPolicy()
        try:
            values = yaml.safe_load(self.policy.read_text(encoding="utf-8"))
        except UnicodeDecodeError as error:
            raise SettingsError(
                f"The policy file {self.policy} is not UTF-8 (byte {error.start + 1}): save it as UTF-8."
            ) from None
        except RecursionError:
            raise SettingsError(
                f"The policy file {self.policy} is nested too deeply: it has sections, and numbers in them."
            ) from None
        except (OSError, yaml.YAMLError, ValueError) as error:
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
