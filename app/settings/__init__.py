"""What an operator can set: `load_settings` reads it, `Settings` is it, `describe` shows it."""

from app.settings.model import Listener, Role, Settings, describe, load_settings, reveal

__all__ = ["Listener", "Role", "Settings", "describe", "load_settings", "reveal"]
