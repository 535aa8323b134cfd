"""One WebSocket that carries a session, the same for client and worker.

``upgrade`` makes one of a stream, by the rules of ``handshake`` and ``http``; ``websocket`` is the
connection itself: trio-websocket, read by its owner (``owned_stream``, ``inbox``), on wsproto
within bounds (``framing``) with frames built in C (``masking``, ``buffers``), over a stream that
counts (``transport``, ``direct``). ``liveness`` says when the
peer is dead, which ``keep_alive`` acts on, ``neighbours`` what other connections to it know,
``tcp_info`` what the kernel knows, ``pacing`` how large a message may be. ``versions``
says how the protocol's versions differ; ``sessions`` makes the session of the version that the
handshake selected, and ``link`` runs it over the connection.
"""
