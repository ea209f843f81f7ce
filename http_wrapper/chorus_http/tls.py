"""What the HTTP listener encrypts with: the hub's own certificate, or one that its owner brings. Both stay fresh."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from chorus_http.settings import HttpSettings
from chorus_proto.clock import Clock
from chorus_proto.exposure import encrypts
from chorus_proto.settings import SettingsError
from chorus_proto.tls.authority import Authority, Issued
from chorus_proto.tls.folder import FOLDER
from chorus_proto.tls.names import own_names
from chorus_proto.tls.shown import LOOK_EVERY_S, ShownCertificate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpTls:
    """`authority`: what callers must trust, unless its owner brought an `own_certificate`."""

    context: ssl.SSLContext
    authority: Authority
    own_certificate: bool


def speaks_tls(settings: HttpSettings) -> bool:
    """Whether this HTTP address is https."""
    asked = encrypts(settings.host, insecure=settings.insecure, tls=settings.tls)
    return asked or (settings.tls is None and settings.tls_cert is not None)


@asynccontextmanager
async def http_tls(settings: HttpSettings, clock: Clock) -> AsyncGenerator[HttpTls | None]:
    """None when it is not encrypted. The certificate is renewed while the block runs. Raises SettingsError."""
    if not speaks_tls(settings):
        yield None
        return
    authority = await asyncio.to_thread(Authority.open, settings.state_dir, now_unix_s=clock.unix_s())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if settings.tls_cert is not None and settings.tls_key is not None:
        files = _OwnFiles(settings.tls_cert.expanduser(), settings.tls_key.expanduser(), context)
        files.load()
        renewing = asyncio.create_task(files.run(), name="http-certificate")
    else:
        shown = ShownCertificate(authority, clock, lambda: own_names(settings.host, settings.allowed_hosts))
        folder = settings.state_dir.expanduser() / FOLDER
        _load(context, shown.current, folder)
        task = shown.run(lambda issued: _load(context, issued, folder))
        renewing = asyncio.create_task(task, name="http-certificate")
    try:
        yield HttpTls(context=context, authority=authority, own_certificate=settings.tls_cert is not None)
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)


class _OwnFiles:
    """A certificate and key that somebody else renews."""

    def __init__(self, certificate: Path, key: Path, context: ssl.SSLContext) -> None:
        self._files = (certificate, key)
        self._context = context
        self._changed_ns = (0, 0)

    def load(self) -> None:
        """Raises SettingsError."""
        certificate, key = self._files
        try:
            self._changed_ns = self._times()
            self._context.load_cert_chain(certificate, key, password=_no_password)
        except ssl.SSLError as error:
            raise SettingsError(
                f"tls_cert {certificate} and tls_key {key} are no certificate and its key, in PEM and without a "
                f"password ({error.reason or 'unreadable'})"
            ) from None
        except OSError as error:
            raise SettingsError(f"tls_cert {certificate} or tls_key {key} cannot be read: {error.strerror}") from None

    async def run(self) -> None:
        """Take the files again when they changed, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """What cannot be used is only logged: the last good certificate is shown on."""
        with suppress(OSError):
            if self._times() == self._changed_ns:
                return
        try:
            self.load()
        except SettingsError as error:
            log.error("%s; the certificate before is shown on", error)
        else:
            log.info("the certificate in %s is a new one", self._files[0])

    def _times(self) -> tuple[int, int]:
        certificate, key = self._files
        return certificate.stat().st_mtime_ns, key.stat().st_mtime_ns


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal, and wait."""
    return ""


def _load(context: ssl.SSLContext, issued: Issued, folder: Path) -> None:
    """From a file that only its owner can read, since OpenSSL reads nothing else, and that is gone at once."""
    number, name = tempfile.mkstemp(prefix=".server-", suffix=".pem", dir=folder)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(issued.key_pem + issued.chain_pem)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()
