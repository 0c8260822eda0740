"""Keys in a PKCS#11 token (an HSM, or SoftHSM2): made there, used there, never taken out.

A token can go away at any moment and come back later. Whatever it says then, the question that met it fails at once
with `UNAVAILABLE`, and a later one starts over: module, session and key are taken anew. Only a wrong PIN is never
tried twice, because tokens lock themselves after a few.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import pkcs11
import pkcs11._pkcs11  # otherwise only when a module is loaded
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11.util.ec import encode_ec_public_key, encode_ecdsa_signature, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

from app.ca.signing import SignatureScheme, authority_public_key
from app.errors import AppError, ErrorCode

_PIN_ERRORS = (pkcs11.PinIncorrect, pkcs11.PinLocked, pkcs11.PinInvalid, pkcs11.PinExpired, pkcs11.PinLenRange)
_RETRY_SECONDS = 0.5  # between two tries to reach a token that is away
_ResultT = TypeVar("_ResultT")


class Pkcs11Token:
    """A token with one session, logged in; implements `app.keys.key_ring.KeyToken`."""

    def __init__(self, module: str, token_label: str, pin: str) -> None:
        """Load the module and log in.

        Raises:
            AppError: `FAILED_PRECONDITION` when the module does not load or has no such token; `PERMISSION_DENIED`
                when the token does not take the PIN.
        """
        self._label = token_label
        self._pin = pin
        self._session: pkcs11.Session | None = None
        self._not_before = 0.0
        try:
            self._module = pkcs11.lib(module)
        except (pkcs11.PKCS11Error, RuntimeError, OSError):
            raise AppError(
                ErrorCode.FAILED_PRECONDITION, f"the PKCS#11 module {module} does not load; see keys.pkcs11.module"
            ) from None
        try:
            self._session = self._log_in()
        except pkcs11.PKCS11Error as error:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                f"the PKCS#11 token {token_label!r} cannot be used: {_words(error)}; see keys.pkcs11.token_label",
            ) from None

    def __repr__(self) -> str:
        return "Pkcs11Token(***)"

    def generate(self, label: str) -> _TokenKey:
        """Make a P-256 key pair that never leaves the token.

        Raises:
            AppError: `UNAVAILABLE` when the token is away.
        """
        curve = {Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
        private = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False, Attribute.PRIVATE: True}

        def make(session: pkcs11.Session) -> None:
            session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(
                store=True, label=label, private_template=private
            )

        self.use(make)
        return self.open(label)

    def open(self, label: str) -> _TokenKey:
        """The key of that label.

        Raises:
            AppError: `FAILED_PRECONDITION` when there is not exactly one, or it is of a kind that no authority has;
                `UNAVAILABLE` when the token is away.
        """
        return _TokenKey(self, label)

    def use(self, act: Callable[[pkcs11.Session], _ResultT]) -> _ResultT:
        """Do something with the session, which is opened anew when the last one was lost.

        Raises:
            AppError: `UNAVAILABLE` when the token is away.
        """
        try:
            if self._session is None:
                self._session = self._come_back()
            return act(self._session)
        except (pkcs11.NoSuchKey, pkcs11.MultipleObjectsReturned):
            raise
        except pkcs11.PKCS11Error as error:
            self._session = None
            self._not_before = time.monotonic() + _RETRY_SECONDS
            raise _away(_words(error)) from None

    def _come_back(self) -> pkcs11.Session:
        if time.monotonic() < self._not_before:
            raise _away("it was away a moment ago")
        self._module.reinitialize()  # modules remember which tokens there were
        return self._log_in()

    def _log_in(self) -> pkcs11.Session:
        if not self._pin:
            raise AppError(
                ErrorCode.PERMISSION_DENIED, "the PKCS#11 token did not take its PIN, which is not tried again"
            )
        try:
            return self._module.get_token(token_label=self._label).open(rw=True, user_pin=self._pin)
        except _PIN_ERRORS as error:
            self._pin = ""
            raise AppError(
                ErrorCode.PERMISSION_DENIED,
                f"the PKCS#11 token {self._label!r} does not take the PIN ({_words(error)}); see keys.pkcs11.pin_file",
            ) from None


class _TokenKey:
    """A key in a token; implements `app.keys.private_key.SigningKey`. Its handle is looked up anew after a loss."""

    def __init__(self, token: Pkcs11Token, label: str) -> None:
        self._token = token
        self._label = label
        self._found: tuple[pkcs11.Session, Any] | None = None
        try:
            self._public_key_der = token.use(self._read_public_key)
            self._scheme = SignatureScheme.of(authority_public_key(load_der_public_key(self._public_key_der)))
        except (pkcs11.NoSuchKey, pkcs11.MultipleObjectsReturned) as error:
            raise AppError(
                ErrorCode.FAILED_PRECONDITION,
                f"the PKCS#11 token must have exactly one key pair with the label {label!r}: {_words(error)}",
            ) from None
        except (ValueError, NotImplementedError):
            raise _unusable(label, "it cannot be read") from None
        except AppError as error:
            if error.code is ErrorCode.INVALID:
                raise _unusable(label, error.detail) from None
            raise

    def __repr__(self) -> str:
        return "TokenKey(***)"

    @property
    def public_key_der(self) -> bytes:
        """Its public half."""
        return self._public_key_der

    def sign(self, data: bytes) -> bytes:
        """A signature, made in the token.

        Raises:
            AppError: `UNAVAILABLE` when the token, or the key in it, is away.
        """
        try:
            return self._token.use(lambda session: self._sign(session, data))
        except (pkcs11.NoSuchKey, pkcs11.MultipleObjectsReturned) as error:
            raise _away(_words(error)) from None

    def _sign(self, session: pkcs11.Session, data: bytes) -> bytes:
        found = self._found
        if found is None or found[0] is not session:
            found = self._found = session, session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=self._label)
        key: Any = found[1]
        if self._scheme.curve is None:
            return bytes(key.sign(data, mechanism=Mechanism.SHA256_RSA_PKCS))
        digest = hashes.Hash(self._scheme.hash)
        digest.update(data)
        # A token gives the two numbers one after the other; certificates carry them as a SEQUENCE.
        return encode_ecdsa_signature(bytes(key.sign(digest.finalize(), mechanism=Mechanism.ECDSA)))

    def _read_public_key(self, session: pkcs11.Session) -> bytes:
        key: Any = session.get_key(object_class=ObjectClass.PUBLIC_KEY, label=self._label)
        if key.key_type is KeyType.EC:
            return encode_ec_public_key(key)
        if key.key_type is KeyType.RSA:
            return _as_info(encode_rsa_public_key(key))
        raise NotImplementedError


def _as_info(rsa_public_key: bytes) -> bytes:
    """PKCS#1 as SubjectPublicKeyInfo."""
    return load_der_public_key(rsa_public_key).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _unusable(label: str, reason: str) -> AppError:
    return AppError(ErrorCode.FAILED_PRECONDITION, f"the key {label!r} in the PKCS#11 token is not usable: {reason}")


def _away(diagnosis: str) -> AppError:
    return AppError(
        ErrorCode.UNAVAILABLE, "the PKCS#11 token does not sign now; try again", diagnosis=f"PKCS#11: {diagnosis}"
    )


def _words(error: pkcs11.PKCS11Error) -> str:
    """The kind of an error; its text may be anything that a module wrote."""
    return type(error).__name__
