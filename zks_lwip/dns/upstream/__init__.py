"""Upstreams: the resolvers that are asked, in which order, and by which transport.

- :class:`UpstreamPool` (``pool``) asks them one after the other, the healthy ones first; how each
  does, and when it is probed, is in ``member``.
- :class:`Upstream` (``resolver``) is what the pool needs of each: the interface.
- ``doh``, ``dot`` and ``plain`` are the transports; ``resolver`` holds the worker's name servers.
- ``select`` makes upstreams from the options, ``parse`` reads what the user wrote.

To add an encrypted transport (DNS over QUIC, say), write a module beside ``doh`` and ``dot`` with

1. a subclass of :class:`Connection`: queries in, bytes out and back (its abstract members);
2. a subclass of :class:`EncryptedResolver`: its names, port and ALPN, and which connection it makes
   over a TLS stream. One that does not run over TLS and TCP overrides
   :meth:`EncryptedResolver.open_connection`; ``select`` hands out TCP connections only, so one
   over UDP is asked directly until that hands out sockets, too;

and enter the latter in :data:`TRANSPORTS` (``transports``). URLs with its scheme are then read,
connected to and asked like the others, and the firewall lets their addresses past the tunnel
(``outside`` of :class:`~zks_lwip.dns.options.DnsOptions`).
"""
