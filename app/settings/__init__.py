"""What an operator can set: `load_settings` reads it, `Settings` is it, `describe` shows it."""

from app.settings.check import CheckTransport
from app.settings.load import describe, load_settings, reveal
from app.settings.model import Listener, Role, Settings

__all__ = ["CheckTransport", "Listener", "Role", "Settings", "describe", "load_settings", "reveal"]
