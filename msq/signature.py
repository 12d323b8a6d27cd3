"""Signatures: who made a bundle, and that it is still what they made.

A bundle's manifest holds the sha256 of every other file, so a signature of manifest.json is one of everything. It is
Ed25519 (RFC 8032) over CONTEXT and the manifest's bytes, and lies beside it in manifest.sig. A signature says only
which key made it; whether that key is trusted is for the reader to say, by keeping it in trusted/ or naming it.
"""

import base64
import contextlib
import os
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import Base64Bytes

from msq.archive import write_archive
from msq.artefact import Artefact
from msq.atomic import storage_errors, write_text
from msq.bundle import MANIFEST_FILE, SIGNATURE_FILE, Manifest
from msq.errors import BundleError

CONTEXT = b"msq-edge bundle manifest, version 1\n"
"""Stands before what is signed, so that a signature made for something else is none here."""
KEY, PUBLIC_KEY, TRUSTED = "signing-key.pem", "signing-key.pub.pem", "trusted"


class Signature(Artefact):
    """manifest.sig. Keys and signatures are raw bytes, in base64."""

    algorithm: Literal["Ed25519"] = "Ed25519"
    public_key: Base64Bytes
    signature: Base64Bytes


def keys_folder() -> Path:
    """Return where a user's keys are kept: $MSQ_KEYS, else msq/ in $XDG_CONFIG_HOME or ~/.config."""
    if folder := os.environ.get("MSQ_KEYS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "msq"


def fingerprint(key: bytes) -> str:
    """Return the name of a public key: the sha256 of its raw bytes, in hex."""
    return sha256(key).hexdigest()


def make_key(folder: Path) -> str:
    """Make the user's key where there is none, for its owner's eyes only, and its public half; return its fingerprint.

    Raises:
        BundleError: there is a key that cannot be used. StorageError: no space or no permission.
    """
    path = folder / KEY
    if not path.exists():
        with storage_errors(path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # mkstemp's file is its owner's alone; a link, unlike a move, never takes another key's place.
            with tempfile.NamedTemporaryFile(dir=folder) as temporary:
                key = Ed25519PrivateKey.generate()
                temporary.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
                temporary.flush()
                os.fsync(temporary.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(temporary.name, path)
    public = _private(path).public_key()
    write_text(folder / PUBLIC_KEY, _pem(public))
    return fingerprint(_raw(public))


def sign(bundle: Path, folder: Path) -> Signature:
    """Sign a bundle with the user's key; write manifest.sig, and the bundle's .tar anew where there is one.

    Raises:
        BundleError: the bundle is not whole, or the key is missing, no Ed25519 key, or readable by others.
        StorageError: the signature cannot be written.
    """
    Manifest.open(bundle)
    key = _private(folder / KEY)
    signature = Signature(
        public_key=base64.b64encode(_raw(key.public_key())),
        signature=base64.b64encode(key.sign(CONTEXT + (bundle / MANIFEST_FILE).read_bytes())),
    )
    signature.write(bundle / SIGNATURE_FILE)
    if bundle.with_name(f"{bundle.name}.tar").exists():
        write_archive(bundle)
    return signature


def verify(bundle: Path, trusted: set[bytes]) -> Signature:
    """Check that a bundle is whole, holds nothing that its manifest does not list, and is signed by a trusted key.

    Args:
        trusted: raw public keys.
    Raises:
        BundleError: it is not; the message says what is wrong.
    """
    manifest = Manifest.open(bundle)
    listed = {*manifest.files, MANIFEST_FILE, SIGNATURE_FILE}
    if strangers := sorted(path.name for path in bundle.iterdir() if path.name not in listed):
        raise BundleError(f"{bundle}: {strangers[0]!r} is not in the manifest", hint="remove it, or export again")
    path = bundle / SIGNATURE_FILE
    if not path.exists():
        raise BundleError(f"{bundle}: not signed", hint="`msq bundle sign` signs it")
    signature = Signature.read(path)
    try:
        key = Ed25519PublicKey.from_public_bytes(signature.public_key)
        key.verify(signature.signature, CONTEXT + (bundle / MANIFEST_FILE).read_bytes())
    except (InvalidSignature, ValueError):
        raise BundleError(
            f"{path}: not the signature of this manifest", hint="fetch the bundle from its source"
        ) from None
    if signature.public_key not in trusted:
        raise BundleError(
            f"{bundle}: signed by {fingerprint(signature.public_key)[:16]}…, which is not trusted",
            hint="`msq bundle trust KEY.pem`, once you know whose it is; or name it by --key",
        )
    return signature


def public_key(path: Path) -> bytes:
    """Return the raw bytes of a public key (PEM). Raises BundleError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a public key in PEM"
        raise BundleError(f"{path}: {reason}", hint="`msq bundle key` shows where yours is") from None
    if not isinstance(key, Ed25519PublicKey):
        raise BundleError(f"{path}: not an Ed25519 key", hint="`msq bundle key` makes one")
    return _raw(key)


def trusted_keys(folder: Path) -> set[bytes]:
    """Return the keys that the user trusts: their own, and those in trusted/."""
    files = [folder / PUBLIC_KEY, *sorted((folder / TRUSTED).glob("*.pem"))]
    return {public_key(file) for file in files if file.exists()}


def trust(path: Path, folder: Path) -> str:
    """Keep a public key (PEM) among the trusted ones; return its fingerprint."""
    key = public_key(path)
    write_text(folder / TRUSTED / f"{fingerprint(key)}.pem", _pem(Ed25519PublicKey.from_public_bytes(key)))
    return fingerprint(key)


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        mode = path.stat().st_mode
        key = load_pem_private_key(path.read_bytes(), password=None)
    except FileNotFoundError:
        raise BundleError(f"{path}: no key to sign with", hint="`msq bundle key` makes one") from None
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BundleError(f"{path}: cannot be used as a key: {error}") from None
    if mode & 0o077:
        raise BundleError(f"{path}: others may read it", hint=f"chmod 600 {path}, or make another if they did")
    if not isinstance(key, Ed25519PrivateKey):
        raise BundleError(f"{path}: not an Ed25519 key", hint="`msq bundle key` makes one")
    return key


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _pem(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
