"""Takes out of the settings what only the signer may know."""

from __future__ import annotations

from app.keys.secret_descriptor import secret_descriptor
from app.settings import Settings

PASSPHRASE, PIN = "passphrase", "pin"


def take_secrets(settings: Settings) -> tuple[Settings, dict[str, int]]:
    """The settings without the secrets that only the signer may know, and descriptors that hold those.

    The supervisor does this before it tells the authority process its settings, so that they never are in there.
    """
    keys, secrets = settings.keys, dict[str, int]()
    if keys.passphrase is not None:
        secrets[PASSPHRASE] = secret_descriptor(keys.passphrase.get_secret_value().encode())
    if keys.pkcs11.pin is not None:
        secrets[PIN] = secret_descriptor(keys.pkcs11.pin.get_secret_value().encode())
    without = keys.model_copy(update={"passphrase": None, "pkcs11": keys.pkcs11.model_copy(update={"pin": None})})
    return settings.model_copy(update={"keys": without}), secrets
