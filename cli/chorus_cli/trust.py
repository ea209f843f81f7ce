"""By which authority a command of this PC knows a coordinator: its own hub's, a named one, or the hub it has joined."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

from chorus_cli.settings import CliSettings
from chorus_client.joining import HUB_FILE, read_hub_file
from chorus_proto.files import write_atomically
from chorus_proto.keys import local_hub
from chorus_proto.membership import FINGERPRINT, join_token_of
from chorus_proto.settings import SettingsError
from chorus_proto.tls.folder import FOLDER, private_folder
from chorus_proto.tls.peer import pinned_authority


def known_authority(address: str, settings: CliSettings) -> bytes | None:
    """PEM; None: the coordinator at `address` is spoken to in clear, as nothing is known of it."""
    own = local_hub(settings.state_dir, address)
    if own is not None:
        return own.ca_pem.encode("ascii") or None
    if settings.coordinator_ca:
        return _learnt(settings.state_dir, fingerprint_of(settings.coordinator_ca))
    return _joined(settings.state_dir, address)


def learn_authority(address: str, settings: CliSettings) -> None:
    """Fetch the authority that `coordinator_ca` names, unless it was before. Blocks.

    Raises SettingsError, CoordinatorUnavailable, and Forbidden when somebody else answers at `address`.
    """
    if not settings.coordinator_ca or local_hub(settings.state_dir, address) is not None:
        return
    fingerprint = fingerprint_of(settings.coordinator_ca)
    if _learnt(settings.state_dir, fingerprint) is None:
        pem = pinned_authority(address, fingerprint, within_s=settings.answer_within_s)
        folder = private_folder(settings.state_dir.expanduser() / FOLDER / "known")
        write_atomically(folder / f"{fingerprint}.pem", pem)


def fingerprint_of(text: str) -> str:
    """Of a fingerprint with or without colons, or of a join token. Raises SettingsError."""
    token = join_token_of(text)
    found = token.fingerprint if token is not None else text.strip().replace(":", "").lower()
    if not FINGERPRINT.fullmatch(found):
        raise SettingsError(
            f"coordinator_ca = {text!r} is no SHA-256 of 64 hexadecimal digits; `chorus join-token create` on the hub "
            "shows it"
        )
    return found


def _learnt(state_dir: Path, fingerprint: str) -> bytes | None:
    try:
        pem = (state_dir.expanduser() / FOLDER / "known" / f"{fingerprint}.pem").read_bytes()
        certificate = ssl.PEM_cert_to_DER_cert(pem.decode("ascii"))
    except (OSError, ValueError):
        return None
    return pem if hashlib.sha256(certificate).hexdigest() == fingerprint else None


def _joined(state_dir: Path, address: str) -> bytes | None:
    """Of the hub at `address`, if an agent of this PC has joined it."""
    for path in sorted(state_dir.expanduser().glob(f"agents/*/{HUB_FILE}")):
        kept = read_hub_file(path)
        if kept is not None and kept.address == address:
            return kept.ca_pem.encode("ascii")
    return None
