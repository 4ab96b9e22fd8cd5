"""The settings: the only reader of the environment. Flag, variable, worker.toml, default: the first that is set counts.

catalogue.py   what settings there are
kinds.py       how their values are written        addresses.py   URLs, listeners, networks, origins     secret.py
sources.py     where they are written              tables.py      what only worker.toml can say, credential_table.py
contradictions.py   what is wrong together              loading.py     all of it in order
"""

from __future__ import annotations

from worker.ops.settings.addresses import AdminAddress, AmqpUrl, HttpAllow, mask_url
from worker.ops.settings.catalogue import SETTINGS, Credential, LimitSettings, Setting, Settings, TypeOverride
from worker.ops.settings.loading import Loaded, Row, load_settings
from worker.ops.settings.secret import Secret
from worker.ops.settings.sources import Problem, SettingsError, Source

__all__ = [
    "SETTINGS",
    "AdminAddress",
    "AmqpUrl",
    "Credential",
    "HttpAllow",
    "LimitSettings",
    "Loaded",
    "Problem",
    "Row",
    "Secret",
    "Setting",
    "Settings",
    "SettingsError",
    "Source",
    "TypeOverride",
    "load_settings",
    "mask_url",
]
