"""Keys from secrets: Argon2id or scrypt for what a person remembers, HKDF for what is random.

The cost of a passphrase stands in a file that somebody else may have altered, so it is bounded
before anything is derived. Source: docs/vault-format.md 3.1; RFC 9106 (Argon2), RFC 7914 (scrypt),
RFC 5869 (HKDF).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from client.vault.fields import exact_fields, integer_in
from proper_model.errors import VaultError

KEY_BYTES = 32
SALT_BYTES = 32
NUMBER_PURPOSE = b"proper vault number 1 "

MAX_MEMORY_KIB = 1 << 20
MAX_ITERATIONS = 10
MAX_LANES = 16
MAX_LOG2_N = 20  # 1 GiB with the block size below
SCRYPT_R, SCRYPT_P = 8, 1


@dataclass(frozen=True)
class Argon2idCost:
    """Memory in KiB, passes over it, and lanes that may run side by side."""

    memory_kib: int = 64 * 1024
    iterations: int = 3
    lanes: int = 4

    @property
    def memory_mib(self) -> int:
        return -(-self.memory_kib // 1024)


@dataclass(frozen=True)
class ScryptCost:
    """N = 2^log2_n, with r = 8 and p = 1: memory 2^log2_n KiB."""

    log2_n: int = 17

    @property
    def memory_mib(self) -> int:
        return -(-(1 << self.log2_n) // 1024)


Cost = Argon2idCost | ScryptCost


def default_cost() -> Cost:
    """Argon2id, or scrypt where `cryptography` has no Argon2id (OpenSSL before 3.2)."""
    try:
        Argon2id(salt=bytes(SALT_BYTES), length=KEY_BYTES, iterations=1, lanes=1, memory_cost=8)
    except UnsupportedAlgorithm:
        return ScryptCost()
    return Argon2idCost()


def cost_to_json(cost: Cost) -> dict[str, Any]:
    """The record that stands in a key slot."""
    if isinstance(cost, Argon2idCost):
        numbers = {"iterations": cost.iterations, "lanes": cost.lanes}
        return {"name": "argon2id", "memory_kib": cost.memory_kib, **numbers}
    return {"name": "scrypt", "log2_n": cost.log2_n}


def cost_from_json(value: Any, *, where: str) -> Cost:
    """The cost in a key slot, within the bounds. Raises VaultError."""
    if not isinstance(value, dict):
        raise VaultError(f"{where}: expected an object")
    name = value.get("name")
    if name == "argon2id":
        exact_fields(value, {"name", "memory_kib", "iterations", "lanes"}, where=where)
        lanes = integer_in(value["lanes"], 1, MAX_LANES, where=f"{where}.lanes")
        memory = integer_in(
            value["memory_kib"], 8 * lanes, MAX_MEMORY_KIB, where=f"{where}.memory_kib"
        )
        iterations = integer_in(value["iterations"], 1, MAX_ITERATIONS, where=f"{where}.iterations")
        return Argon2idCost(memory, iterations, lanes)
    if name == "scrypt":
        exact_fields(value, {"name", "log2_n"}, where=where)
        return ScryptCost(integer_in(value["log2_n"], 1, MAX_LOG2_N, where=f"{where}.log2_n"))
    raise VaultError(f"{where}: a derivation this version does not know")


def stretch(secret: bytes, salt: bytes, cost: Cost) -> bytes:
    """The 32-byte key of a passphrase.

    Raises VaultError if the cost is out of bounds, or the algorithm or the memory is not there.
    """
    cost = cost_from_json(cost_to_json(cost), where="cost of a passphrase")
    try:
        if isinstance(cost, ScryptCost):
            n = 1 << cost.log2_n
            return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=SCRYPT_R, p=SCRYPT_P).derive(secret)
        return Argon2id(
            salt=salt,
            length=KEY_BYTES,
            iterations=cost.iterations,
            lanes=cost.lanes,
            memory_cost=cost.memory_kib,
        ).derive(secret)
    except UnsupportedAlgorithm:
        raise VaultError(
            "this passphrase slot uses Argon2id, which the OpenSSL of this machine does not have",
            hint="install a `cryptography` that was built with OpenSSL 3.2 or newer",
        ) from None
    except MemoryError:
        raise VaultError(
            f"not enough memory to check the passphrase; it takes {cost.memory_mib} MiB",
            hint="close other programs, then repeat the command",
        ) from None


def hkdf(key: bytes, salt: bytes, purpose: bytes) -> bytes:
    """32 bytes from a key that is already random; `purpose` keeps uses apart."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=purpose).derive(key)


def number_from(key: bytes, purpose: str) -> int:
    """A number below 2^62 from a random key, another one for every purpose."""
    derived = hkdf(key, bytes(SALT_BYTES), NUMBER_PURPOSE + purpose.encode())
    return int.from_bytes(derived[:8], "big") >> 2
