"""When a certificate ends, told in time.

Of the certificate only that is read (RFC 5280 §4.1.2.5); whether it verifies is up to clients.
"""

from __future__ import annotations

import base64
import logging
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import trio

from .._util import open_file
from ..errors import ConfigError

__all__ = ["CertificateWatch", "read_validity"]

_log = logging.getLogger(__name__)

_DAY = 86400.0
_NOTICE = 14 * _DAY
"""Seconds before the end from which it is told, once a day. Those of 90 days are renewed 30 days
before; of those that live for a week the last third is meant."""
_LOOK = 3600.0
"""Seconds between two looks at most: the system's clock may be set."""
_PEM = re.compile(
    r"-----BEGIN (?P<label>(?:X509 |TRUSTED )?CERTIFICATE)-----(?P<body>[^-]*)"
    r"-----END (?P=label)-----"
)
"""The labels by which OpenSSL loads one (PEM_read_bio_X509_AUX). What it is trusted for, in a
"TRUSTED CERTIFICATE", stands behind it."""
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def read_validity(path: Path) -> tuple[float, float]:
    """Return when the first certificate of a PEM file begins and ends, in seconds since 1970.

    :raises ConfigError: it cannot be read.
    """
    try:
        with open_file(path) as file:
            text = file.read().decode("ascii", "replace")
        found = _PEM.search(text)
        if found is None:
            raise ValueError("there is none")
        return _validity(base64.b64decode("".join(found["body"].split()), validate=True))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "tls_cert") from None
    except (ValueError, IndexError):
        raise ConfigError(f"{path} begins with no certificate (PEM)", "tls_cert") from None


def _validity(der: bytes) -> tuple[float, float]:
    """Return notBefore and notAfter of a certificate in DER (ITU-T X.690)."""
    certificate, _ = _value(der, _SEQUENCE)
    fields, _ = _value(certificate, _SEQUENCE)
    if fields[0] == _VERSION:
        fields = _value(fields)[1]
    for _ in range(3):  # serialNumber, signature, issuer
        fields = _value(fields)[1]
    validity, _ = _value(fields, _SEQUENCE)
    _, rest = _value(validity)
    return _time(validity), _time(rest)


def _time(element: bytes) -> float:
    text = _value(element)[0].decode("ascii")
    if element[0] == _UTC_TIME:  # RFC 5280 §4.1.2.5.1: 50 to 99 are of the last century
        text = ("19" if text[:2] >= "50" else "20") + text
    elif element[0] != _GENERALIZED_TIME:
        raise ValueError("that is no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _value(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """Return the contents of the first element, and what stands behind it."""
    if tag is not None and data[0] != tag:
        raise ValueError("another element was expected")
    size, begin = data[1], 2
    if size & 0x80:
        begin += size & 0x7F
        size = int.from_bytes(data[2:begin], "big")
    if begin + size > len(data):
        raise ValueError("an element is cut")
    return data[begin : begin + size], data[begin + size :]


class CertificateWatch:
    """Warns from two weeks before the end once a day, and at the end at once.

    :ivar expires: when it ends, in seconds since 1970.
    :param clock: returns seconds since 1970.
    :raises ConfigError: the file holds no certificate.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._told = trio.Event()
        self._begins, self.expires = read_validity(path)

    def reload(self) -> None:
        """Read the file again.

        :raises ConfigError: as above; what was known stays.
        """
        self._begins, self.expires = read_validity(self._path)
        self._told.set()

    async def run(self) -> None:
        """Tell, until cancelled."""
        while True:
            left = self.expires - self._clock()
            ended = left <= 0
            self._tell(left)
            self._told = trio.Event()
            due = self._clock() + _DAY
            while self._clock() < due and (ended or self.expires > self._clock()):
                if self._told.is_set():
                    break
                wait = min(_LOOK, due - self._clock())
                if not ended:
                    wait = min(wait, self.expires - self._clock())
                with trio.move_on_after(max(wait, 0.05)):
                    await self._told.wait()

    def _tell(self, left: float) -> None:
        until = datetime.fromtimestamp(self.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
        if left <= 0:
            _log.error(
                "the certificate %s has expired at %s: clients refuse it. Renew it, and send "
                "SIGHUP",
                self._path,
                until,
            )
        elif left <= min(_NOTICE, (self.expires - self._begins) / 3):
            _log.warning(
                "the certificate %s expires in %.0f %s, at %s: renew it, and send SIGHUP",
                self._path,
                *((left / _DAY, "days") if left > 2 * _DAY else (left / 3600, "hours")),
                until,
            )
