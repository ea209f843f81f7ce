"""A certificate authority of one hub: made at its first start beyond loopback, kept in the state folder, for ten years.

It signs nothing but certificates of the hub's own listeners, which live 30 days, with a new key each. `not_before` is a
day early, since clocks of home PCs differ. Profiles after RFC 5280; P-256, which everything understands.
"""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock, Timeout

from chorus_proto.files import write_atomically
from chorus_proto.settings import SettingsError
from chorus_proto.tls.folder import FOLDER, private_folder
from chorus_proto.tls.names import is_ip

KEPT_FILE = "authority.pem"
"""Key and certificate together, so that a reader never finds one without the other."""
PUBLIC_FILE = "ca.pem"
"""The certificate alone, for callers."""

DAY_S = 86_400.0
EARLY_S = DAY_S
AUTHORITY_DAYS = 3650
SERVER_DAYS = 30
RENEW_AFTER = 2 / 3
"""Of a server certificate's life."""
LOCK_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A server certificate with its chain, and its key; both PEM. Times are seconds since 1970."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)
    names: frozenset[str]
    renew_unix_s: float
    ends_unix_s: float


class Authority:
    """Issues server certificates. Open it with `Authority.open`."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self.pem = certificate.public_bytes(serialization.Encoding.PEM)
        self.fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        """SHA-256 of the certificate, 64 hexadecimal digits: what a join token pins."""

    @classmethod
    def open(cls, state_dir: Path, *, now_unix_s: float) -> Authority:
        """The authority of this state folder, made if there is none. Blocks. Raises SettingsError."""
        folder = private_folder(state_dir.expanduser() / FOLDER)
        try:
            with FileLock(folder / "authority.lock", timeout=LOCK_WITHIN_S):
                return cls._opened(folder, now_unix_s)
        except Timeout:
            raise SettingsError(f"another process holds {folder / 'authority.lock'}; end it first") from None
        except OSError as error:
            raise SettingsError(f"the certificates in {folder} cannot be used ({error.strerror})") from None

    @classmethod
    def _opened(cls, folder: Path, now_unix_s: float) -> Authority:
        path = folder / KEPT_FILE
        try:
            found = cls._read(path.read_bytes())
        except FileNotFoundError:
            found = cls.made(now_unix_s=now_unix_s)
            key_pem = found._key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_atomically(path, key_pem + found.pem)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            raise SettingsError(
                f"{path} is damaged; restore it, or delete it: then every PC must join again and every caller needs "
                "the new certificate"
            ) from None
        if now_unix_s >= found._certificate.not_valid_after_utc.timestamp():
            raise SettingsError(f"the authority in {path} has ended; delete it, then every PC must join again")
        public = folder / PUBLIC_FILE
        if not public.exists() or public.read_bytes() != found.pem:
            write_atomically(public, found.pem)
        return found

    @classmethod
    def _read(cls, pem: bytes) -> Authority:
        """Raises ValueError."""
        key = serialization.load_pem_private_key(pem, password=None)
        certificate = x509.load_pem_x509_certificate(pem)
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ValueError("key and certificate do not belong together")
        return cls(certificate, key)

    @classmethod
    def made(cls, *, now_unix_s: float) -> Authority:
        """A new one, on no disk yet."""
        key = ec.generate_private_key(ec.SECP256R1())
        # Several hubs' authorities may lie in one trust store.
        name = _named(f"Chorus authority {secrets.token_hex(4)}")
        builder = (
            _dated(name, name, key, now_unix_s, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(builder.sign(key, hashes.SHA256()), key)

    def issue(self, names: Iterable[str], *, now_unix_s: float) -> Issued:
        """A certificate for these host names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        known = frozenset(names)
        authority_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _dated(_named("Chorus hub"), self._certificate.subject, key, now_unix_s, SERVER_DAYS)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([_general(one) for one in sorted(known)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(authority_key, critical=False)
        )
        signed = builder.sign(self._key, hashes.SHA256())
        lasts_s = min(now_unix_s + SERVER_DAYS * DAY_S, self._certificate.not_valid_after_utc.timestamp()) - now_unix_s
        return Issued(
            chain_pem=signed.public_bytes(serialization.Encoding.PEM) + self.pem,
            key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            names=known,
            renew_unix_s=now_unix_s + lasts_s * RENEW_AFTER,
            ends_unix_s=now_unix_s + lasts_s,
        )


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _dated(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now_unix_s: float, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(now_unix_s, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(seconds=EARLY_S))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _general(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if is_ip(name) else x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
