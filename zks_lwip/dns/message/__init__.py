"""DNS messages: bytes in, bytes out; no sockets, no clock.

- ``wire``: names, records, EDNS options, as far as they are looked at.
- ``query``: a client's message becomes a :class:`Query` or a :class:`Rejected`.
- ``answer``: an upstream's message becomes an :class:`Answer`, which is rendered per client.
- ``framing``: messages on a byte stream.
"""
